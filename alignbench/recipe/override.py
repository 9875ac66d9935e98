"""Overrides: sets one value of a recipe, from `--set a.b=c`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alignbench.errors import RecipeError
from alignbench.recipe import yaml
from alignbench.recipe.explain import got
from alignbench.recipe.yaml import Document, Place, Route, spell


def override(document: Document, text: str) -> None:
    """Set one value of a document, from `--set a.b=c`. Raises RecipeError where it cannot be set."""
    place = Place(f"--set {text}")
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise RecipeError(place.problem("no value is set", "write it as --set a.b=c"))
    try:
        made = yaml.parse(value, place.file) if value.strip() else Document(None, {}, {(): place})
    except RecipeError as error:
        raise RecipeError(
            [replace(one, line=None, column=None, field=name) for one in error.problems]
        ) from None
    route: Route = ()
    data: Any = document.data
    parts = name.split(".")
    while parts:
        key, rest = _step(data, parts)
        if key is None:
            what = f"{spell(route) or 'the recipe'} is {got(data)} and has no '{parts[0]}'"
            raise RecipeError(place.problem(what, "set a key that can be there", name))
        route = (*route, key)
        if not rest:
            data[key] = made.data
        elif (data.get(key) if isinstance(key, str) else data[key]) is None:
            data[key] = {}
            document.keys[route] = document.values[route] = place
        data, parts = data[key], rest
    for old in [old for old in document.values if old[: len(route)] == route]:
        del document.values[old]
        document.keys.pop(old, None)
    document.keys[route] = place
    document.values |= {(*route, *inner): place for inner in made.values}
    document.keys |= {(*route, *inner): place for inner in made.keys}


def _step(data: Any, parts: list[str]) -> tuple[Any, list[str]]:
    """Return the key (None for none) that a dotted name begins with in `data`, and what follows it."""
    if isinstance(data, list) and parts[0].isdecimal() and int(parts[0]) < len(data):
        return int(parts[0]), parts[1:]
    if not isinstance(data, dict):
        return None, parts
    # A label may hold dots: the longest key that is there wins.
    there = (n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in data)
    used = next(there, 1)
    return ".".join(parts[:used]), parts[used:]
