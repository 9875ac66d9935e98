"""Trainers and models of other libraries inside a run: its budget, log and checks, and what they compute."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast

from alignbench.api.method import ExternalRun, Rows, Run

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignbench.training.callback import Observer

__all__ = ["callback", "count"]


def callback(run: Run, rows: Rows[Any] | None = None, *, leave_out: Collection[str] = ()) -> Observer:
    """Return a callback for any transformers trainer, TRL's included.

    What it logs goes to the run's curves, what its model computes to the run's costs, it stops where the run's budget
    is spent, and a loss that is not finite raises Diverged. `leave_out` names numbers that are not logged.

    With `rows` it leads the training too. Its `lead(trainer, columns)` gives a trainer the rows in the order of all
    methods, and `steps` is its `max_steps`; set it not to shuffle. The learning rate follows the recipe's
    schedule, whatever the trainer's own is. The rows are recorded as learnt from. Checkpoints are kept at steps that
    the trainer logs, and a killed training goes on from the last one: log every step.
    """
    from alignbench.training.callback import Observer

    return Observer(cast("ExternalRun", run), rows, leave_out)


def count(model: PreTrainedModel) -> None:
    """Count what a transformers model computes that a method loads by itself, such as an encoder or a teacher.

    The base, its adapters, judges and the model of a trainer with `callback` are counted already.
    """
    from alignbench.models import counting

    counting.count(model)
