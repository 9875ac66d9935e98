"""Prepares the run's table of rows: read, filtered, tokenised and split once, before any method runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from alignbench import layout, store
from alignbench.api.launcher import Event, Task
from alignbench.data.prepare import prepare
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Recipe
from alignbench.worker.run.model_access import ModelAccess, refuse

if TYPE_CHECKING:
    from alignbench.models import Base


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Fill `run/data`. An unfinished attempt of an earlier process is thrown away."""
    folder = task.run / layout.DATA
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    emit(Event("preparing data"))
    recipe = Plan.model_validate_json(task.plan).recipe
    prepare(recipe, folder, root=task.root, models=ModelAccess(_Source(recipe, task), None, refuse))
    store.commit(folder, key=task.what["key"], producer="alignbench")


class _Source:
    """Where a judge that filters rows gets its base from."""

    def __init__(self, recipe: Recipe, task: Task):
        self.recipe, self.root, self.store = recipe, task.root, store.Store(task.home)

    @property
    def base(self) -> Base:
        """The quantised base, loaded when a filter first asks for it."""
        return self._base

    @cached_property
    def _base(self) -> Base:
        from alignbench.models import load_base

        return load_base(self.recipe.model, root=self.root)
