"""A real session to test in: the rows of a recipe, prepared in a folder as a run prepares them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignbench import layout
from alignbench.api.launcher import Task
from alignbench.recipe.plan import Plan
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import prepare


def open_session(
    folder: Path, recipe: Mapping[str, Any] | Recipe, *, root: Path | None = None, home: Path | None = None
) -> Session:
    """Return a session whose run folder is `folder/run`; its base is loaded when it is first used.

    A recipe without `methods` has the label `base` alone, so that no method need be installed.
    Paths in the recipe start from `root` (default: `folder`); `home` holds what cells share (default: one of its own).
    """
    task = Task(
        "prepare",
        run=folder / "run",
        root=folder if root is None else root,
        home=folder / "home" if home is None else home,
        log=folder / layout.LOG,
        plan=planned(recipe).model_dump_json(),
        threads=1,
        what={"key": folder.name},
    )
    prepare.main(task, lambda event: None)
    return Session(task)


def planned(recipe: Mapping[str, Any] | Recipe) -> Plan:
    """Return the plan of a recipe, which may lack `methods`."""
    if isinstance(recipe, Recipe) or "methods" in recipe:
        return resolve(Recipe.model_validate(recipe))
    # A recipe names one at least: this one is never looked up.
    checked = Recipe.model_validate({**recipe, "methods": {"none": {}}})
    plan = resolve(checked.model_copy(update={"methods": {}}))
    return plan.model_copy(update={"recipe": checked})
