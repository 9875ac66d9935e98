"""The launcher of a run, from its name and its `--set launcher.FIELD=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from alignbench import plugins
from alignbench.api.launcher import Launcher
from alignbench.errors import RecipeError
from alignbench.launchers.local import Local
from alignbench.recipe.explain import explain
from alignbench.recipe.override import override
from alignbench.recipe.yaml import Document, Place, spell

LOCAL = "local"
"""The launcher where none is named."""

FIELDS = "launcher"
"""What a setting of a launcher begins with."""


def split(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the `a.b=c` that set values of the recipe, and those that set fields of the launcher."""
    own = [one for one in settings if one.partition("=")[0].partition(".")[0].strip() == FIELDS]
    return [one for one in settings if one not in own], own


def choose(name: str = LOCAL, settings: Sequence[str] = (), jobs: int | str = "auto") -> Launcher:
    """Return the launcher `name` with its fields, from `launcher.FIELD=VALUE`; `jobs` is one of them.

    Raises PluginError where it is not installed or broken, RecipeError with every field that is wrong.
    """
    kind = Local if name == LOCAL else plugins.load("launchers", name)
    fields: dict[str, Any] = {} if jobs == "auto" else {"jobs": jobs}
    place = Place(f"--launcher {name}")
    document = Document({FIELDS: fields}, {(FIELDS,): place}, {(): place, (FIELDS,): place})
    for one in settings:
        override(document, one)
    try:
        made: Launcher = kind(kind.Config.model_validate_json(json.dumps(document.data[FIELDS]), strict=True))
    except ValidationError as error:
        raise RecipeError(
            document.place(one.route, key=one.at_key).problem(one.what, one.fix, spell(one.route))
            for one in explain(error, kind.Config, document, (FIELDS,))
        ) from None
    made.name = name
    return made
