"""Trainers of other libraries inside a run: a callback that gives them its budget, log and checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.api.method import Run

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["callback"]


def callback(run: Run) -> TrainerCallback:
    """Return a callback for any transformers trainer, TRL's included.

    What it logs goes to the run's curves, it stops where the run's budget is spent, and a loss that is not finite
    raises Diverged.
    """
    from alignbench.training.callback import Observer

    return Observer(run)
