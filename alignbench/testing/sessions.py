"""A real session to test in: the rows of a recipe, prepared in a folder as a run prepares them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignbench import layout
from alignbench.api.launcher import Task
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.worker import prepare
from alignbench.worker.session import Session


def open_session(
    folder: Path, recipe: Mapping[str, Any] | Recipe, *, root: Path | None = None, home: Path | None = None
) -> Session:
    """Return a session whose run folder is `folder/run`; its base is loaded when it is first used.

    Paths in the recipe start from `root` (default: `folder`); `home` holds what cells share (default: one of its own).
    """
    checked = Recipe.model_validate(recipe)
    task = Task(
        "prepare",
        run=folder / "run",
        root=folder if root is None else root,
        home=folder / "home" if home is None else home,
        log=folder / layout.LOG,
        plan=resolve(checked).model_dump_json(),
        threads=1,
        what={"key": folder.name},
    )
    prepare.main(task, lambda event: None)
    return Session(task)
