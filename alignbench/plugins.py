"""What is installed, found by metadata alone; one class at a time is imported, and only when it is named."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin

from alignbench.api.config import API, NAME
from alignbench.errors import AlignbenchError, PluginError

Group = Literal["methods", "judges", "metrics", "data", "filters", "rewards", "launchers", "hooks"]
GROUPS: tuple[Group, ...] = get_args(Group)

_WORD = {
    "methods": "method",
    "judges": "judge",
    "metrics": "metric",
    "data": "data source",
    "filters": "row filter",
    "rewards": "reward function",
    "launchers": "launcher",
    "hooks": "observer",
}
_BASE = {
    "methods": "alignbench.api.method:Method",
    "judges": "alignbench.api.judge:Judge",
    "metrics": "alignbench.api.metric:Metric",
    "data": "alignbench.api.data:Source",
    "filters": "alignbench.api.data:RowFilter",
    "rewards": "alignbench.api.reward:Reward",
    "launchers": "alignbench.api.launcher:Launcher",
}
"""The class that one of each group must inherit; an observer is any class with hooks."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry point, from the metadata of its distribution."""

    group: Group
    name: str
    distribution: str
    version: str
    value: str
    """`module:attribute`."""
    rivals: tuple[Found, ...] = ()
    """Other distributions that give the same name: a clash, which is an error once the name is used."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def installed(group: Group) -> Mapping[str, Found]:
    """Return what is installed in a group, by name, sorted. Law: nothing is imported."""
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: Group, _path: tuple[str, ...]) -> Mapping[str, Found]:
    every: dict[str, list[Found]] = {}
    for point in _points(_path)[0]:
        if point.group == f"alignbench.{group}" and point.dist is not None and re.fullmatch(NAME, point.name):
            # Metadata may lack a version, whatever the type says.
            version = point.dist.version or "of no version"
            found = Found(group, point.name, point.dist.name, version, point.value)
            every.setdefault(point.name, []).append(found)
    chosen = {}
    for name in sorted(every):
        first, *others = sorted(every[name], key=lambda found: (found.distribution, found.version))
        chosen[name] = Found(first.group, name, first.distribution, first.version, first.value, tuple(others))
    return MappingProxyType(chosen)


def unusable() -> tuple[str, ...]:
    """Return what is wrong with installed metadata: files that cannot be read, names that cannot be names."""
    points, unread = _points(tuple(sys.path))
    wrong = [
        f"{point.dist.name} {point.dist.version} gives the {_WORD[group]} {point.name!r}, which cannot be a name: "
        "write lower-case letters, digits, '.', '_' and '-'"
        for group in GROUPS
        for point in points
        if point.group == f"alignbench.{group}"
        and point.dist is not None
        and not re.fullmatch(NAME, point.name)
    ]
    return (*unread, *wrong, *_strange_sections())


def _strange_sections() -> Iterator[str]:
    """Yield the sections of entry points that look like alignbench's and are none: what they name is not found."""
    for one in metadata.distributions():
        try:
            text = one.read_text("entry_points.txt") or ""
        except Exception:  # told by `_points`
            continue
        for line in map(str.strip, text.splitlines()):
            section = line.strip("[]").strip()
            if not line.startswith("[") or section.partition(".")[0] != "alignbench":
                continue
            group = section.partition(".")[2]
            if group in GROUPS and line.endswith("]"):
                continue
            kinds = [known for known, word in _WORD.items() if group and word.endswith(group.rstrip("s"))]
            near = [*(kinds or get_close_matches(group, GROUPS, 1))][:1]
            hint = f"write [alignbench.{near[0]}]" if near else f"its groups are {', '.join(GROUPS)}"
            yield f"{_name(one) or _folder(one)} has the entry points {line}, which are not read: {hint}"


@cache
def _points(_path: tuple[str, ...]) -> tuple[tuple[metadata.EntryPoint, ...], tuple[str, ...]]:
    """Return all entry points of alignbench's groups, and which distributions' cannot be read, with the reason."""
    with contextlib.suppress(Exception):
        points = [point for group in GROUPS for point in metadata.entry_points(group=f"alignbench.{group}")]
        if all(point.dist is not None and point.dist.name for point in points):
            return tuple(points), ()
    # One garbled file, or one that is missing: the others are read one by one.
    found: dict[str, list[metadata.EntryPoint]] = {}
    unread = []
    for one in metadata.distributions():
        name = _name(one)
        try:
            ours = [point for point in one.entry_points if point.group.startswith("alignbench.")]
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            unread.append(
                f"the entry points of {name or _folder(one)} cannot be read ({reason}); install it again"
            )
            continue
        if name:
            found.setdefault(_normal(name), ours)
        elif ours:
            unread.append(f"{_folder(one)} has no METADATA that name it; install it again")
    return tuple(point for points in found.values() for point in points), tuple(unread)


def _name(distribution: metadata.Distribution) -> str:
    """The name of a distribution; empty where its metadata are missing or cannot be read."""
    try:
        return distribution.metadata["Name"] or ""
    except Exception:  # what is raised depends on the version of Python
        return ""


def _folder(distribution: metadata.Distribution) -> str:
    """The folder of a distribution's metadata."""
    return str(getattr(distribution, "_path", "a distribution without a name"))


def unmet(distribution: str) -> tuple[str, ...]:
    """Return what a distribution requires and this environment lacks, each with what is there instead."""
    from packaging.requirements import InvalidRequirement, Requirement

    lacking = []
    for requirement in metadata.requires(distribution) or ():
        try:
            needed = Requirement(requirement)
        except InvalidRequirement:
            lacking.append(f"{requirement} (which is not a requirement)")
            continue
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            lacking.append(f"{needed.name}{needed.specifier} (not installed)")
            continue
        if version is None:
            lacking.append(f"{needed.name}{needed.specifier} (its metadata have no version)")
        elif not needed.specifier.contains(version, prereleases=True):
            lacking.append(f"{needed.name}{needed.specifier} (there is {version})")
    return tuple(lacking)


def find(group: Group, name: str) -> Found:
    """Return the one entry point that `name`, or `distribution:name`, stands for.

    Raises PluginError where there is none, or where several distributions give the name.
    """
    known = installed(group)
    distribution, _, short = name.rpartition(":")
    found = known.get(short)
    word = _WORD[group]
    if found is None:
        near = get_close_matches(short, known, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        if group == "methods" and not near and (one := _loss(short)):
            hint = f" Write {one}."
        listed = ", ".join(known) or "none"
        raise PluginError(f"no installed plugin provides the {word} '{name}'.{hint} Installed: {listed}.")
    every = (found, *found.rivals)
    if distribution:
        wanted = [one for one in every if _normal(one.distribution) == _normal(distribution)]
        if not wanted:
            there = ", ".join(str(one) for one in every)
            raise PluginError(f"{distribution} provides no {word} '{short}'; it comes from {there}")
        return wanted[0]
    if found.rivals:
        both = " and ".join(str(one) for one in every)
        raise PluginError(
            f"{len(every)} installed packages provide the {word} '{name}': {both}",
            f"uninstall one of them, or write {found.distribution}:{name}",
        )
    return found


def _loss(name: str) -> str | None:
    """Return how a recipe sets the loss of that name, where a method has one."""
    losses = {
        found.name: load_found(found).Config.model_fields.get("loss")
        for found in installed("methods").values()
        if reason_broken(found) is None
    }
    fields = [
        (str(value), f"{{method: {method}, loss: {value}}}")
        for method, field in losses.items()
        if field is not None and get_origin(field.annotation) is Literal
        for value in get_args(field.annotation)
    ]
    begun = [written for value, written in fields if value.startswith(f"{name}_")]
    return next((written for value, written in fields if value == name), next(iter(begun), None))


def load(group: Group, name: str) -> Any:
    """Import the class that `name`, or `distribution:name`, stands for.

    Raises PluginError where it is missing, clashing or broken, it or its fields are not of its group's base class,
    or it was written for another version of the contract.
    """
    return load_found(find(group, name))


@cache
def load_found(found: Found) -> Any:
    """Import the class of one entry point; see `load`."""
    module, _, attribute = found.value.partition(":")
    try:
        # A library that prints while it is imported must not end up in what another program reads.
        with contextlib.redirect_stdout(sys.stderr):
            loaded: Any = importlib.import_module(module.strip())
            for part in filter(None, attribute.split("[")[0].strip().split(".")):
                loaded = getattr(loaded, part)
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split()) or type(error).__name__
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if isinstance(error, ModuleNotFoundError) else _place(where, module)
        raise PluginError(f"{found} could not be loaded for '{found.name}': {kind}{reason}{place}") from error
    if not inspect.isclass(loaded):
        raise PluginError(
            f"{found} gives for '{found.name}' no class, but {found.value} is a {type(loaded).__name__}"
        )
    if found.group in _BASE:
        module, _, name = _BASE[found.group].partition(":")
        base: Any = getattr(importlib.import_module(module), name)
        if not issubclass(loaded, base):
            what = f"{found} gives for the {_WORD[found.group]} '{found.name}' something that is not a {base.__name__}"
            raise PluginError(what, f"let {loaded.__name__} inherit alignbench.{base.__name__}")
        fields: Any = loaded.Config  # pyright: ignore[reportAttributeAccessIssue]
        if not (inspect.isclass(fields) and issubclass(fields, base.Config)):
            what = f"{found}: the fields of {loaded.__name__} are not a {base.Config.__name__}"
            raise PluginError(
                what, f"write `class Config({base.Config.__name__})` in the body of {loaded.__name__}"
            )
        _check_version(found, loaded)
    return loaded


def _check_version(found: Found, kind: type) -> None:
    """Refuse a class that was not written for this version of the contract; what it inherits says nothing."""
    version = vars(kind).get("api")
    if type(version) is int and version == API:
        return
    stated = "states no version" if version is None else f"is written for version {version!r}"
    changed = (
        ". In version 2 a loss returns values per row or per token and the core reduces them, and labels, reward "
        "models and references are functions over the run"
        if version in (None, 1) and found.group == "methods"
        else ""
    )
    raise PluginError(
        f"{found}: {kind.__name__} {stated} of the plugin contract, and this alignbench has version {API}{changed}",
        f"see docs/plugins.md, then write `api = {API}` in the body of {kind.__name__}",
    )


def blamed(error: BaseException) -> PluginError | None:
    """Return an exception as the plugin's in whose code it was raised, libraries it calls included; None for ours.

    The message names the distribution, the file and the line, and the row where it is noted.
    """
    if isinstance(error, AlignbenchError):
        return None
    whose = {found.value.partition(":")[0].strip().partition(".")[0]: found for found in _everything()}
    last = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top == _CORE or top in whose:
            last = top, Path(frame.f_code.co_filename).name, line
    if last is None or last[0] == _CORE:
        return None
    found = whose[last[0]]
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()) if note.startswith("row "))
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return PluginError(
        f"{found} failed: {message} ({last[1]}:{last[2]}{notes})",
        f"report it to the authors of {found.distribution}",
    )


Row = TypeVar("Row")


def owner(plugin: object) -> str:
    """Return which distribution a plugin's class is of, with its version."""
    top = type(plugin).__module__.partition(".")[0]
    whose = (
        found for found in _everything() if found.value.partition(":")[0].strip().partition(".")[0] == top
    )
    return str(next(whose, top))


@contextlib.contextmanager
def naming_row(rows: Sequence[Any], alone: Callable[[int], object]) -> Iterator[None]:
    """Note at an exception of the block which of the `rows` it is about; see `note_row`."""
    try:
        yield
    except AlignbenchError:
        raise
    except Exception as error:
        note_row(error, rows, alone)
        raise


def note_row(
    error: Exception,
    rows: Sequence[Any],
    alone: Callable[[int], object],
    *,
    sure: bool = False,
    within: float = math.inf,
) -> None:
    """Note at an exception which of the `rows` it is about, for `blamed`; one that has such a note keeps it.

    That is the first row of which `alone`, called with its place, raises the same at the same line. Where none does, or
    none was tried within so many seconds, it is one of them; with `sure` nothing is noted then.
    """
    if not rows or _names_a_row(error):
        return
    end = time.monotonic() + within
    for place, row in enumerate(rows):
        if raises_same(error, lambda place=place: alone(place)):
            error.add_note(f"row {getattr(row, 'id', row)}")
            return
        if time.monotonic() > end:
            break
    if not sure:
        error.add_note(one_of(rows))


def raises_same(error: Exception, function: Callable[[], object]) -> bool:
    """Return whether `function` raises what `error` is, at the same line."""
    try:
        function()
    except Exception as other:
        return _origin(other) == _origin(error)
    return False


def naming_next(rows: Callable[[], Iterable[Row]], of: str) -> Iterator[Row]:
    """Yield `rows()`, and note at what reading them raises at which row `of` a split that was, for `blamed`."""
    number, last = 1, ""
    try:
        for row in rows():
            yield row
            number, last = number + 1, f", after {getattr(row, 'id', row)}"
    except AlignbenchError:
        raise
    except Exception as error:
        if not _names_a_row(error):
            error.add_note(f"row {number} of {of}{last or ', or before it'}")
        raise


def _names_a_row(error: Exception) -> bool:
    return any(note.startswith("row ") for note in getattr(error, "__notes__", ()))


def _origin(error: Exception) -> tuple[type, str, int]:
    """Return what was raised, and where."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    return type(error), frame.f_code.co_filename, line


def one_of(rows: Sequence[Any]) -> str:
    """Say that an exception is about one of `rows`."""
    first = f"row {getattr(rows[0], 'id', rows[0])}"
    return first if len(rows) == 1 else f"{first} or one of the next {len(rows) - 1}"


_CORE = __name__.partition(".")[0]


def _everything() -> Iterator[Found]:
    for group in GROUPS:
        for found in installed(group).values():
            yield from (found, *found.rivals)


def _place(where: traceback.FrameSummary, module: str) -> str:
    """Say the file and the line, where an error was raised by the plugin's own package."""
    file, top = Path(where.filename), module.strip().partition(".")[0]
    own = top in (file.stem, *(parent.name for parent in file.parents))
    return f" ({file.name}:{where.lineno})" if own else ""


def reason_broken(found: Found) -> str | None:
    """Return in one line why an entry point cannot be used; None where it can."""
    try:
        load_found(found)
    except PluginError as error:
        return str(error)
    return None


@cache
def source_digest(found: Found) -> str:
    """Return the sha256, in hex, of every file of the package that holds a plugin.

    An editable install keeps its version while its code changes; a key that held the version alone would
    serve yesterday's artefact.
    """
    top = found.value.partition(":")[0].strip().partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise PluginError(f"{found} could not be loaded for '{found.name}': No module named '{top}'")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(path.relative_to(folder).as_posix(), path) for folder in folders for path in folder.rglob("*")]
    if not folders and spec.origin:
        files = [(Path(spec.origin).name, Path(spec.origin))]
    total = hashlib.sha256()
    for name, path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
