"""Prepares the run's table of rows: read, filtered, tokenised and split once, before any method runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from alignbench import store
from alignbench.api.policy import Policy
from alignbench.data.prepare import prepare
from alignbench.errors import RecipeError
from alignbench.recipe.schema import Recipe
from alignbench.worker.messages import Event, Task

if TYPE_CHECKING:
    from alignbench.models import Base

FOLDER = "data"


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Fill `run/data`. An unfinished attempt of an earlier process is thrown away."""
    folder = task.run / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    emit(Event("preparing data"))
    recipe = Recipe.model_validate_json(task.recipe)
    prepare(recipe, folder, root=task.root, models=_Shelf(recipe, task))
    store.commit(folder, key=task.what["key"], producer="alignbench")


class _Shelf:
    """What a judge that filters rows may read with, before there are any."""

    def __init__(self, recipe: Recipe, task: Task):
        self.recipe, self.root, self.store = recipe, task.root, store.Store(task.home)

    @cached_property
    def base(self) -> Base:
        """The quantised base, loaded when a filter first asks for it."""
        from alignbench.models import load_base

        return load_base(self.recipe.model, root=self.root)

    @property
    def start(self) -> Policy:
        return self.base.policy()

    def own_reward_model(self, rows: Any, **how: float) -> NoReturn:
        """Refuse: a judge of rows cannot be trained on them."""
        raise RecipeError("a judge that filters rows cannot be trained on them", "name one that is trained")
