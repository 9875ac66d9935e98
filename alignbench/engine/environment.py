"""The environment of a run: recipe, files, libraries and plugins. A changed one is shown, and refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignbench import layout, plugins, store
from alignbench.errors import PluginError, Problem, RecipeError
from alignbench.recipe.graph import built_on, complete, group_of
from alignbench.recipe.schema import Loaded, Recipe, Relabelled, canonical
from alignbench.versions import versions

WHOLE = 64 * 2**20
"""Bytes of a file that are all read for its digest; of a larger one, its size and `PIECES` pieces."""

PIECES, PIECE = 64, 2**16


def settle(out: Path, loaded: Loaded, *, allow_env_change: bool = False) -> tuple[str, ...]:
    """Write down what the run in `out` is made of, or compare: return in what its environments differ.

    Raises RecipeError with every difference where recipe or files are others, or, unless it is allowed, the
    environment: nothing is ever overwritten by another experiment.
    """
    now, before = _now(loaded), _before(out)
    if before is None:
        store.write_text(out / layout.RECIPE_TEXT, loaded.text)
        store.write_json(
            out / layout.ENVIRONMENT, {"files": now["files"], "environments": [now["environment"]]}
        )
        store.write_text(out / layout.RECIPE, canonical(loaded.recipe) + "\n")
        return ()
    changed = [*_differences(before["recipe"], now["recipe"]), *_differences(before["files"], now["files"])]
    if changed:
        what = f"{out} holds a run of another recipe than {loaded.path}, or of other files"
        raise _refusal(loaded, what, changed, "give --fork to start a new run beside it, or undo the change")
    environments = before["environments"]
    changed = list(_differences(environments[-1], now["environment"]))
    if changed and not allow_env_change:
        what = f"{out} was made in another environment"
        fix = "give --fork to start anew, --allow-env-change to go on with a mixed result, or undo the change"
        raise _refusal(loaded, what, changed, fix)
    if changed:
        environments.append(now["environment"])
        store.write_json(out / layout.ENVIRONMENT, {"files": now["files"], "environments": environments})
    first = environments[0]
    return tuple(dict.fromkeys(str(one) for other in environments[1:] for one in _differences(first, other)))


def fork(out: Path, loaded: Loaded, *, whatever_environment: bool = False) -> Path:
    """Return the first of `out`, `out-2`, `out-3`, ... that is free, or holds this very run.

    With `whatever_environment` that is the run of this recipe and these files, whatever made it.
    """
    now = _now(loaded)
    number, folder = 1, out
    while (before := _before(folder)) is not None:
        same = before["recipe"] == now["recipe"] and before["files"] == now["files"]
        if same and (whatever_environment or before["environments"] == [now["environment"]]):
            break
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    return folder


def write_origin(run: Path, root: Path) -> None:
    """Keep where the recipe's relative paths start."""
    store.write_json(run / layout.ORIGIN, {"root": str(root.resolve())})


def origin(run: Path) -> Path:
    """Return where the recipe's relative paths start: the run's own folder where nobody wrote it down."""
    file = run / layout.ORIGIN
    return Path(json.loads(file.read_text(encoding="utf-8"))["root"]) if file.is_file() else run


def files(recipe: Recipe, root: Path) -> dict[str, str]:
    """Return a digest of every file, or folder, that the recipe names."""
    found = {}
    for said in _strings(recipe.model_dump(mode="json")):
        path = root / Path(said).expanduser() if len(said) < 1024 and "\0" not in said else None
        if path is not None and ("/" in said or "." in said) and os.path.lexists(path):
            found[said] = _digest(path)
    return found


def environment(recipe: Recipe) -> dict[str, Any]:
    """Return the versions of all that can change a number, and the source of every plugin named."""
    data, evaluation = recipe.data, recipe.evaluation
    named: set[tuple[plugins.Group, str]]
    named = {("data", one.name) for one in (data.train, data.validation, data.test, data.pretraining) if one}
    named |= {("filters", one.name) for one in data.filters}
    named |= {("judges", one.name) for one in evaluation.judges}
    if isinstance(data.source, Relabelled):
        named.add(("judges", data.source.judge.name))
    named |= {("metrics", one.name) for one in evaluation.metrics}
    for block in recipe.methods.values():
        built = built_on(block.method, block.config)
        named |= {("methods", block.method), *((group_of(one), one.name) for one in built)}
    said = {}
    for group, name in sorted(named):
        if name in plugins.installed(group):
            found = plugins.find(group, name)
            said[f"{group} {name}"] = f"{found}, source {plugins.source_digest(found)[:12]}"
    return {"versions": versions(), "plugins": said}


def _now(loaded: Loaded) -> dict[str, Any]:
    return {
        "recipe": json.loads(canonical(loaded.recipe)),
        "files": files(loaded.recipe, loaded.path.parent),
        "environment": environment(loaded.recipe),
    }


def _before(out: Path) -> dict[str, Any] | None:
    """Return what the run in `out` is made of; None where nothing has been made yet, not even its rows."""
    if not (out / layout.RECIPE).exists() or not (out / layout.ENVIRONMENT).exists():
        return None
    # A run that its data stopped holds nothing to keep: who mends a row gives the same command again.
    if not (out / layout.DATA / store.COMMIT).exists() and not (out / layout.CELLS).exists():
        return None
    recipe = _spelled_out((out / layout.RECIPE).read_text(encoding="utf-8"))
    return {"recipe": recipe, **json.loads((out / layout.ENVIRONMENT).read_text(encoding="utf-8"))}


def _spelled_out(said: str) -> Any:
    """Return a recipe that was written down, with the defaults of fields that have come into being since."""
    try:
        return json.loads(canonical(complete(Recipe.model_validate_json(said))))
    except (ValidationError, PluginError):
        return json.loads(said)


def _refusal(loaded: Loaded, what: str, changed: list[Difference], fix: str) -> RecipeError:
    return RecipeError(
        [Problem(what, fix, file=str(loaded.path)), *(Problem(one.said, field=one.field) for one in changed)]
    )


class Difference:
    """One field that is another than it was."""

    def __init__(self, field: str, old: Any, new: Any):
        self.field = field
        self.said = f"was {_say(old)}, is {_say(new)}"
        if isinstance(old, Mapping) and new is None:
            self.said = "is gone"
        if old is None and isinstance(new, Mapping):
            self.said = "is new"

    def __str__(self) -> str:
        return f"{self.field} {self.said}"


def _differences(old: Any, new: Any, field: str = "") -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            inside = f"{field}.{name}" if field else str(name)
            yield from _differences(old.get(name), new.get(name), inside)
    elif old != new:
        yield Difference(field, old, new)


def _say(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 80 else f"{said[:77]}..."


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _digest(path: Path) -> str:
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        return store.digest({file.relative_to(path).as_posix(): _digest(file) for file in inside})
    size = path.stat().st_size
    if size <= WHOLE:
        return store.file_digest(path)
    total = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(PIECES):
            file.seek(piece * (size - PIECE) // (PIECES - 1))
            total.update(file.read(PIECE))
    return total.hexdigest()
