"""The quickstart's cells in this process, through the engine's own `cell.main`: what several benchmarks look into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alignbench.api.launcher import Task
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.worker.tasks import cell, prepare

RECIPE: Recipe = load(Path(__file__).parents[1] / "recipes" / "quickstart.yaml", ()).recipe


def prepared(folder: Path, *, every: float = 60.0) -> Task:
    """Return the task of a run in `folder` whose rows are prepared; `every`: seconds between checkpoints."""
    task = Task(
        "prepare",
        run=folder / "run",
        root=folder,
        home=folder / "home",
        log=folder / "log.txt",
        plan=resolve(RECIPE).model_dump_json(),
        threads=1,
        every=every,
        what={"key": "data"},
    )
    prepare.main(task, lambda event: None)
    return task


def made(task: Task, label: str) -> Path:
    """Make the cell of `label` at seed 0; return its folder."""
    where = task.run / "cells" / label / "seed-0"
    what = {"label": label, "seed": 0, "folder": str(where), "key": label}
    cell.main(replace(task, what=what), lambda event: None)
    return where
