"""Trainers and models of other libraries inside a run: its budget, log and checks, and what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.api.method import Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

__all__ = ["callback", "count"]


def callback(run: Run) -> TrainerCallback:
    """Return a callback for any transformers trainer, TRL's included.

    What it logs goes to the run's curves, what its model computes to the run's costs, it stops where the run's budget
    is spent, and a loss that is not finite raises Diverged.
    """
    from alignbench.training.callback import Observer

    return Observer(run)


def count(model: PreTrainedModel) -> None:
    """Count what a transformers model computes that a method loads by itself, such as an encoder or a teacher.

    The base, its adapters, judges and the model of a trainer with `callback` are counted already.
    """
    from alignbench.models import counting

    counting.count(model)
