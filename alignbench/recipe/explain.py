"""The wording of what is wrong with a recipe: pydantic's errors as problem and fix."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alignbench.recipe import yaml
from alignbench.recipe.schema import MethodBlock
from alignbench.recipe.yaml import Document, Route


class Explanation(NamedTuple):
    """What is wrong at one place of a document."""

    route: Route
    what: str
    fix: str
    at_key: bool = False
    """Whether the key is wrong, not its value."""


def explain(
    error: ValidationError, model: type[BaseModel], document: Document, top: Route
) -> Iterator[Explanation]:
    """Yield what is wrong with the value at `top` as a `model`; several errors about one value become one."""
    places: dict[tuple[Route, bool], list[ErrorDetails]] = {}
    for one in error.errors(include_url=False):
        at_key = one["loc"][-1:] == ("[key]",)
        places.setdefault((_route(one, document, top), at_key), []).append(one)
    for (route, at_key), same in places.items():
        known = _fields(model, route[len(top) : -1])
        field = known.get(str(route[-1])) if len(route) > len(top) else None
        meaning = f"it is: {field.description.rstrip('.')}" if field and field.description else ""
        if same[0]["type"] == "extra_forbidden":
            own = [*known, *(name for name in MethodBlock.model_fields if name != "config")]
            names = own if route[:1] == ("methods",) and len(route) == 3 else list(known)
            fix = _odd(str(route[-1])) or suggest(str(route[-1]), names, "known here:")
            yield Explanation(route, "unknown", fix, True)
        elif same[0]["type"] == "missing":
            yield Explanation(route, "is missing", f"add it; {meaning}" if meaning else "add it")
        else:
            what, fix = _sentence(same)
            yield Explanation(route, what, fix or meaning, at_key)


def _odd(name: str) -> str:
    """Return the fix of a key that holds a character which only looks like a space, a quote or punctuation."""
    found = _ODD.search(name)
    if found is None:
        return ""
    return f"it holds U+{ord(found[0]):04X} ({unicodedata.name(found[0]).lower()}); write the plain character"


_ODD = re.compile("[\u00a0\u2000-\u200f\u2018-\u201f\u3000\uff0c\uff1a]")


def _route(error: ErrorDetails, document: Document, top: Route) -> Route:
    """Return where in the file an error lies; pydantic's own path also names the branches of unions."""
    route = top
    for part in error["loc"]:
        if (*route, part) in document.values:
            route = (*route, part)
    return (*route, error["loc"][-1]) if error["type"] == "missing" else route


def _fields(model: type[BaseModel], route: Route) -> dict[str, FieldInfo]:
    """Return the fields that a model knows at `route`; a mapping or list has those of what it holds."""
    models = [model]
    for part in route:
        inside = [one.model_fields[part].annotation for one in models if part in one.model_fields]
        if inside:
            models = [found for kind in inside for found in _models(kind)]
    return {name: field for one in models for name, field in one.model_fields.items()}


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models(part)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "none_required": "nothing",
    "too_short": "a list that is not empty",
}
_BOUND = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _sentence(errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    """Return what is wrong with one value, and how to fix it."""
    value = errors[0]["input"]
    # A branch of a union that has the right type and the wrong value is more precise than the others.
    bounds = [error for error in errors if error["type"] in _BOUND]
    if bounds:
        name, words = _BOUND[bounds[0]["type"]]
        bound = bounds[0].get("ctx", {})[name]
        text = f"{bound:g}" if isinstance(bound, float) else str(bound)
        return f"must be {words} {text}, got {got(value)}", ""
    kind = errors[0]["type"]
    if kind == "value_error":
        what, _, fix = errors[0]["msg"].removeprefix("Value error, ").partition("; ")
        return what, fix
    if kind == "string_pattern_mismatch":
        what = f"'{value}' cannot be a name" if isinstance(value, str) else "this cannot be a name"
        return what, "use small letters, digits, '.', '_' and '-', 64 at most, a letter or digit first"
    if kind == "start" and isinstance(value, dict) and len(value) == 1:
        (name,) = value
        what = (
            f"{name}: unknown; a start is 'base', a label, {{adapter: path-or-id}} or {{model: path-or-id}}"
        )
        return what, suggest(str(name), ["adapter", "model"], "known here:")
    if kind in ("too_short", "too_long"):
        kind_of = "list" if isinstance(value, list) else "block of keys"
        return f"a {kind_of} is {'empty' if not value else kind.replace('_', ' ')}", "add to it"
    wanted, options = [], []
    for error in errors:
        if error["type"] == "literal_error":
            options += re.findall(r"'([^']*)'", error.get("ctx", {})["expected"])
        elif error["type"] in _EXPECTED:
            wanted.append(_EXPECTED[error["type"]])
        else:
            wanted.append(error["msg"].removeprefix("expected ").removeprefix("Input should be "))
    fix = "put it in quotes" if wanted == ["a text"] and isinstance(value, int | float) else ""
    if isinstance(value, str):
        near = get_close_matches(value, options, 1)
        number = isinstance(yaml.plain(value), int | float)
        if near:
            fix = f"did you mean '{near[0]}'?"
        elif number and "a text" not in wanted:
            fix = "remove the quotes"
    text = " or ".join(dict.fromkeys([*(repr(option) for option in options), *wanted]))
    return f"expected {text}, got {got(value)}", fix


def got(value: Any) -> str:
    """Return how a message names a value that is wrong."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 60 else value[:57] + '...'}'"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "block of keys"
        return f"a {kind}" if value else f"an empty {kind}"
    return str(value)[:60]


def suggest(name: str, known: Sequence[str], otherwise: str) -> str:
    """Return the known name that is nearest to a wrong one, or all of them."""
    near = get_close_matches(name, known, 1)
    return f"did you mean '{near[0]}'?" if near else f"{otherwise} {', '.join(known) or 'nothing'}"
