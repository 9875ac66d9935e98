"""Configs of plugins: each is built once in a process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from alignbench import plugins
from alignbench.api.config import Settings


def build(group: plugins.Group, name: str, fields: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the class of an installed plugin, and its config with these fields.

    Raises PluginError where it is not installed, ValidationError where a field is wrong.
    """
    kind = plugins.load(group, name)
    try:
        text = json.dumps(fields)
    except TypeError:  # a field that Python code set to an object
        return kind, kind.Config(**fields)
    return kind, _build(kind.Config, text)


@lru_cache(maxsize=1024)
def _build(model: type[Settings], text: str) -> Settings:
    return model(**json.loads(text))
