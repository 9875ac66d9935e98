"""A run opened again: its base and the policies of its finished cells, to talk to or to take out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench import layout, store
from alignbench.api.launcher import Task
from alignbench.engine.cells import PlannedCell
from alignbench.engine.environment import origin
from alignbench.errors import RecipeError
from alignbench.recipe.schema import Recipe
from alignbench.results import Results

if TYPE_CHECKING:
    from alignbench.worker.run.session import Session


def recipe_of(run: Path) -> Recipe:
    """Return the recipe of a run. Raises RecipeError where the folder holds none."""
    return Recipe.model_validate_json(_read(run / layout.RECIPE))


def finished(results: Results, labels: Iterable[str] = (), seed: int | None = None) -> list[PlannedCell]:
    """Return one finished cell for each label, at `seed` or at its first finished one.

    Without `labels` those of all labels. Raises RecipeError for a label that is not there or not finished.
    """
    done = [cell for cell in results.cells if cell.status == "done" and seed in (None, cell.seed)]
    first = {cell.label: PlannedCell(cell.label, cell.seed) for cell in reversed(done)}
    wanted = list(labels) or [label.label for label in results.labels if label.label in first]
    if lacking := [label for label in wanted if label not in first]:
        at = "" if seed is None else f" at seed {seed}"
        known = ", ".join(dict.fromkeys(cell.label for cell in done)) or "none"
        raise RecipeError(f"{', '.join(lacking)}: no finished cell{at}", f"finished are {known}")
    return [first[label] for label in wanted]


def reopen(run: Path, threads: int) -> Session:
    """Return the session of a run: its base, and the policies of its finished cells. Imports torch."""
    import torch

    from alignbench.worker.run.session import Session

    torch.set_num_threads(threads)
    plan = _read(run / layout.PLAN)
    return Session(Task("chat", run, origin(run), plan, store.default_root(), run / layout.CHAT_LOG, threads))


def _read(file: Path) -> str:
    """Return what a file of a run holds. Raises RecipeError where its folder holds no run."""
    if not file.is_file():
        raise RecipeError(f"{file.parent} holds no run", "name the folder that `alignbench run` wrote")
    return file.read_text(encoding="utf-8")
