"""Log-probabilities of a run's rows under its start: computed once, and shared by all cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Many
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.api.method import Rows, Run
from alignbench.errors import PluginError
from alignbench.rows import Sequence

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_first_loss", "logprobs"]


def logprobs(run: Run, rows: Rows[Any]) -> Callable[[Many[Sequence]], Tensor]:
    """Return a look-up of the start's log-probabilities of `rows`, of any epoch of the budget.

    It maps N sequences to float32 [N], on the base's device: the log-probability of each whole response under the
    start. Raises PluginError where the start is a decoder.
    """
    from alignbench.models import ModelPolicy
    from alignbench.training import reference

    start = run.start
    if not isinstance(start, ModelPolicy):
        raise PluginError(
            "a start that is a decoder gives no log-probabilities", "start from the label below that decoder"
        )
    wanted = _wanted(run, rows)

    def make(folder: Path) -> None:
        reference.compute(start, wanted, folder)
        start.base.meter.scored(len(wanted))

    folder = run.shared(
        make,
        what="scoring the reference",
        start=start,
        sequences=store.digest([[one.prompt, one.response] for one in wanted]),
    )
    return reference.lookup(folder, start.base.device)


def check_first_loss(losses: Tensor, known: Tensor, tolerance: float | None) -> None:
    """Raise PluginError where a training's first losses [N] are not those of a policy that equals its reference.

    `known` [N] are the losses at the reference, `tolerance` is that of `GroupScores`: None checks nothing.
    """
    if tolerance is None:
        return
    found, wanted = losses.detach().mean().item(), known.detach().mean().item()
    if not abs(found - wanted) <= tolerance * max(abs(wanted), 1e-3):
        raise PluginError(
            f"the first loss is {found:.6f}, not {wanted:.6f}: policy and reference differ before training",
            "the reference log-probabilities do not belong to this start, data or precision",
        )


def _wanted(run: Run, rows: Rows[Any]) -> list[Sequence]:
    """Return what the budget can reach: of a budget in tokens or seconds, whatever any epoch has."""
    budget, size = run.budget, len(rows)
    drawn = budget.rows or (budget.steps or 0) * run.batch or (budget.epochs or 0) * size
    if not drawn:
        return rows.sequences()
    reached = (row for number in range(math.ceil(drawn / size)) for row in rows.epoch(number))
    return list(dict.fromkeys(sequence for row in reached for sequence in row.sequences()))
