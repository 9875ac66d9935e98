"""Configs of plugins, each built once in a process, and the plugins that they name, with all their fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from alignbench import plugins
from alignbench.api.config import Named, NamedJudge, NamedMethod, NamedReward, NamedSource, Settings
from alignbench.errors import PluginError

GROUPS: dict[type[Named], plugins.Group] = {
    NamedJudge: "judges",
    NamedMethod: "methods",
    NamedReward: "rewards",
    NamedSource: "data",
}
_built: dict[tuple[type[Settings], str], Settings] = {}
"""Class and JSON text -> the config, under the text of a recipe and under its own with all defaults."""


def build(group: plugins.Group, name: str, fields: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the class of an installed plugin, and its config with these fields; plugins that they name have all
    their fields.

    Raises PluginError where it is not installed, ValidationError where a field is wrong.
    """
    kind = plugins.load(group, name)
    try:
        text = json.dumps(fields)
    except TypeError:  # a field that Python code set to an object
        return kind, kind.Config(**fields)
    key = kind.Config, text
    if key not in _built:
        made = _completed(validated(*key))
        _built[key] = _built.setdefault((kind.Config, json.dumps(made.model_dump(mode="json"))), made)
    return kind, _built[key]


def make(group: plugins.Group, name: str, fields: Mapping[str, Any]) -> Any:
    """Return an installed plugin with its config; raises as `build` does."""
    kind, config = build(group, name, fields)
    return kind(config)


@lru_cache(maxsize=1024)
def validated(model: type[Settings], text: str) -> Settings:
    """Return the config that stands in a JSON `text`, strictly, as it was written.

    Raises ValidationError where a field is wrong.
    """
    return model.model_validate_json(text, strict=True)


def group_of(one: Named) -> plugins.Group:
    """Return where a plugin that a config names is looked up."""
    return GROUPS[type(one)]


def named_in(value: Any, route: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Named]]:
    """Yield every plugin that a config names, and where in it."""
    if isinstance(value, Named):
        yield route, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from named_in(getattr(value, name), (*route, name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from named_in(item, (*route, place))


def built_on(method: str, config: Mapping[str, Any]) -> Iterator[Named]:
    """Yield every plugin that a method's fields name, and what the methods among them name in turn."""
    for _, one in named_in(build("methods", method, config)[1]):
        yield one
        if isinstance(one, NamedMethod):
            yield from built_on(one.name, one.config)


def _completed(value: Any) -> Any:
    """Return a config in which every plugin that it names has all its fields."""
    if isinstance(value, Named):
        group = group_of(value)
        if group == "data" and value.name not in plugins.installed("data"):
            return value  # a path, or an id of the hub
        with suppress(ValidationError, PluginError):  # a problem of the check of its name
            config = build(group, value.name, value.config)[1].model_dump(mode="json")
            return value if config == value.config else value.model_copy(update={"config": config})
        return value
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        made = {name: _completed(one) for name, one in fields.items()}
        changed = {name: one for name, one in made.items() if one is not fields[name]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, list | tuple):
        made = [_completed(one) for one in value]
        same = all(one is other for one, other in zip(made, value, strict=True))
        return value if same else type(value)(made)
    return value
