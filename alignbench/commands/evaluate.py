"""A run measured again: what is trained stays as it is, people's new rankings are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignbench import layout
from alignbench.commands.open_run import recipe_of
from alignbench.engine import environment
from alignbench.engine import run as engine
from alignbench.errors import Exit
from alignbench.recipe.schema import Loaded


def evaluate(
    run: Path, *, allow_env_change: bool = False, watch: Callable[[Any], None] = lambda message: None
) -> Exit:
    """Measure the finished cells of a run again and write its record; a cell that is not finished stays so.

    Raises RecipeError where the folder holds no run, or its files or environment changed since.
    """
    recipe = recipe_of(run)
    text = (run / layout.RECIPE_TEXT).read_text(encoding="utf-8")
    loaded = Loaded(recipe, environment.origin(run) / layout.RECIPE_TEXT, text)
    return engine.run(loaded, out=run, train=False, allow_env_change=allow_env_change, watch=watch)
