"""A training that diverges though all its numbers stay finite says so in its row, and a healthy one says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.rows import Demonstration
from alignbench.worker import prepare
from alignbench.worker.context import CellContext
from alignbench.worker.messages import Task
from alignbench.worker.session import Session


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("divergence")
    recipe = Recipe.model_validate(
        {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": 96, "max_length": 128},
            "training": {"batch": 8, "threads": 1},
            "budget": {"steps": 8},
            "methods": {"tried": {"method": "frozen"}},
        }
    )
    paths = {"run": folder / "run", "root": folder, "home": folder / "home", "log": folder / "log.txt"}
    plan = resolve(recipe).model_dump_json()
    task = Task("prepare", **paths, plan=plan, threads=1, what={"key": "divergence"})
    prepare.main(task, lambda event: None)
    return Session(task)


def warnings_of(session: Session, folder: Path, learning_rate: float) -> list[str]:
    """Fine-tune at this learning rate, and return the warnings of the row."""
    run = CellContext(session, label="tried", seed=0, method="frozen", start="base", folder=folder)
    run.train(
        run.adapt(),
        run.rows(Demonstration),
        lambda rows: {"all": [one for row in rows for one in row.sequences()]},
        lambda scored, rows: (scored["all"].per_token(-scored["all"].logps), {}),
        learning_rate=learning_rate,
    )
    return [str(warned) for warned in run.ledger.warnings.values()]


def test_a_training_whose_loss_blows_up_has_a_warning(session: Session, tmp_path: Path):
    (warning,) = warnings_of(session, tmp_path, learning_rate=0.3)
    assert warning.startswith("step 8: the training diverged: its loss rose from 0.")


def test_a_healthy_training_has_none(session: Session, tmp_path: Path):
    assert warnings_of(session, tmp_path, learning_rate=3e-3) == []
