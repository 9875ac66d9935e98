"""Reads YAML strictly: as a person means it, with every problem at once and the place of every value.

The reading is YAML 1.2's: only `true` and `false` are booleans (`no`, `yes`, `on` and `off` are text), `1e-5`
is a number, `010` is ten. Duplicate keys, second documents, tags and merge keys are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from alignbench.errors import Problem, RecipeError, SecurityError

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Values after aliases are expanded: nested aliases grow as a power of their depth."""
MAX_DEPTH = 32

Key = str | int
Route = tuple[Key, ...]
"""The way from the top of a document to a value: keys of mappings, positions in lists."""

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]{1,4000}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,1000}|0x[0-9a-fA-F]{1,1000}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands. Lines and columns count from 1; an option of the command line has none."""

    file: str
    line: int | None = None
    column: int | None = None

    def problem(self, what: str, fix: str = "", field: str | None = None) -> Problem:
        """Return a problem at this place."""
        return Problem(what, fix, self.file, self.line, self.column, field)


@dataclass(slots=True)
class Document:
    """Plain data with the place of each key and of each value."""

    data: Any
    keys: dict[Route, Place] = field(default_factory=dict)
    values: dict[Route, Place] = field(default_factory=dict)

    def place(self, route: Route, *, key: bool = False) -> Place:
        """Return where a value (or its key) stands; for a value that is not there, what should hold it."""
        if key and route in self.keys:
            return self.keys[route]
        while route not in self.values:
            route = route[:-1]
        return self.values[route]


def read(path: Path, problems: list[Problem] | None = None) -> tuple[str, Document]:
    """Read a file: its text, and its data; for `problems` and what is raised see `parse`."""
    file = str(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RecipeError(Problem(f"{size:,} bytes are too many", f"keep it below {MAX_BYTES:,}", file))
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(Problem("there is no such file", "check the path", file)) from None
    except IsADirectoryError:
        raise RecipeError(Problem("this is a folder", "give the YAML file in it", file)) from None
    except OSError as error:
        raise RecipeError(Problem(f"cannot be read: {error.strerror}", file=file)) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        guess = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "Latin-1 or Windows-1252"
        what = f"byte 0x{raw[error.start]:02x} at offset {error.start} is not UTF-8 (it may be {guess})"
        raise RecipeError(Problem(what, "save the file as UTF-8", file, line, column)) from None
    return text, parse(text, file, problems)


def parse(text: str, file: str, problems: list[Problem] | None = None) -> Document:
    """Read YAML text; `file` names it in problems.

    Raises RecipeError with all problems, or SecurityError. Where a list of `problems` is given, those of single
    keys and values are added to it instead, so that problems of other checks can be reported with them.
    """
    try:
        node = _Loader(text, file).get_single_node()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(file, before.count("\n") + 1, error.position - before.rfind("\n"))
        what = f"the character U+{error.character:04X} is not allowed here"
        raise RecipeError(
            place.problem(what, "remove it, or write it as an escape in double quotes")
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise RecipeError(place.problem(*_explain(error))) from None
    if node is None:
        raise RecipeError(Place(file).problem("the file is empty", "write at least model, data and methods"))
    reading = _Reading(file)
    data = reading.value(node, ())
    if problems is not None:
        problems += reading.problems
    elif reading.problems:
        raise RecipeError(reading.problems)
    return Document(data, reading.keys, reading.values)


def _explain(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """Say a syntax error as a person would."""
    text = f"{error.context or ''} {error.problem or ''}"
    if "'\\t'" in text or "tab" in text:
        return "a tab stands where YAML wants spaces", "indent with spaces only"
    if "another document" in text or "but found another" in text:
        return "a second document begins here", "keep one document in a file; remove the line with '---'"
    if "mapping values are not allowed" in text:
        return (
            "a colon that is not expected here",
            "check the indentation, or put quotes around a text with ': '",
        )
    if "undefined alias" in text:
        return f"{error.problem}", "define the anchor above it with &"
    if isinstance(error, _Refused):
        return str(error.problem), str(error.note)
    problem = (
        (error.problem or "")
        .replace("<block end>", "the end of this block")
        .replace("<stream end>", "the end")
    )
    return (
        f"not YAML: {' '.join(part for part in (error.context, problem) if part)}",
        "check indentation, quotes and brackets",
    )


class _Refused(yaml.MarkedYAMLError):
    """Something YAML allows and a recipe does not."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser without its YAML 1.1 reading of plain text, its tags, and its unbounded depth."""

    yaml_implicit_resolvers: Mapping[str, Any] = {}

    def __init__(self, text: str, file: str):
        super().__init__(text)
        self.file = file
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            mark = event.start_mark
            place = Place(self.file, mark.line + 1, mark.column + 1)
            if tag.removeprefix("tag:yaml.org,2002:") in (
                "str",
                "int",
                "float",
                "bool",
                "null",
                "map",
                "seq",
            ):
                raise RecipeError(
                    place.problem(f"the tag '{tag}' is not read", "remove it; quotes make a text")
                )
            rule = "rule 'a recipe is data': it names installed plugins and never code"
            raise SecurityError(place.problem(f"the tag '{tag}' is refused by the {rule}", "remove the tag"))
        if any("\ud800" <= character <= "\udfff" for character in getattr(event, "value", "")):
            raise _Refused(
                problem="half a character", problem_mark=event.start_mark, note="write the whole character"
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(problem="nested too deeply", problem_mark=event.start_mark, note="flatten it")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Reading:
    """Turns nodes into plain data and remembers where everything stood."""

    def __init__(self, file: str):
        self.file = file
        self.problems: list[Problem] = []
        self.keys: dict[Route, Place] = {}
        self.values: dict[Route, Place] = {}
        self.open: list[Node] = []

    def place(self, node: Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def problem(self, node: Node, route: Route, what: str, fix: str) -> None:
        self.problems.append(self.place(node).problem(what, fix, spell(route) or None))

    def value(self, node: Node, route: Route) -> Any:
        self.values[route] = self.place(node)
        if len(self.values) > MAX_VALUES or len(route) > MAX_DEPTH:
            limit = f"more than {MAX_VALUES:,} values, or deeper than {MAX_DEPTH}"
            raise RecipeError(self.place(node).problem(f"aliases expand to {limit}", "write the values out"))
        if isinstance(node, ScalarNode):
            return self.scalar(node, route)
        if node in self.open:
            self.problem(node, route, "an alias that contains itself", "write the value out")
            return None
        self.open.append(node)
        if isinstance(node, SequenceNode):
            data: Any = [self.value(item, (*route, index)) for index, item in enumerate(node.value)]
        else:
            data = self.mapping(node, route)  # pyright: ignore[reportArgumentType]
        self.open.pop()
        return data

    def mapping(self, node: MappingNode, route: Route) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, ScalarNode):
                self.problem(key, route, "a list or mapping cannot be a key", "use a plain word")
                continue
            name = key.value
            here = (*route, name)
            if name == "<<" and key.style is None:
                self.problem(key, here, "merge keys are not read", "write the keys out, or alias each value")
            elif name in data:
                first = self.keys[here].line
                self.problem(key, here, f"given twice, first in line {first}", "keep one of them")
            else:
                self.keys[here] = self.place(key)
                data[name] = self.value(item, here)
        return data

    def scalar(self, node: ScalarNode, route: Route) -> Any:
        value = node.value if node.style is not None else plain(node.value)
        if isinstance(value, float) and not math.isfinite(value):
            what = f"{node.value[:40]} is too large for a number"
            self.problem(node, route, what, "put quotes around it if it is a text")
        return value


def plain(text: str) -> str | int | float | bool | None:
    """Return what a text without quotes means."""
    for pattern, value in ((_NULL, None), (_TRUE, True), (_FALSE, False)):
        if pattern.fullmatch(text):
            return value
    if _WHOLE.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    return float(text) if _NUMBER.fullmatch(text) else text


def spell(route: Route) -> str:
    """Write a route as a person would: `training.batch`, `evaluation.judges[0]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in route)
    return text.removeprefix(".")
