"""Log-probabilities of a run's rows under its start: computed once, and shared by all cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.api.method import Rows, Run
from alignbench.errors import PluginError
from alignbench.rows import Sequence
from alignbench.spending import counts_everything

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models import Network

__all__ = ["ahead", "check_first_loss", "logprobs"]

SAFETY = 0.97
"""Share of what is left that is planned ahead, where a budget counts everything; the last rows are scored later."""


def logprobs(run: Run, rows: Rows[Any]) -> Callable[[Many[Sequence]], Tensor]:
    """Return a look-up of the start's log-probabilities of `rows`, of any epoch of the budget.

    It maps N sequences to float32 [N], on the base's device: the log-probability of each whole response under the
    start. Of a budget that counts everything, as many rows are scored as will be trained on with what is then left.
    Raises PluginError where the start is a decoder.
    """
    from alignbench.models import ModelPolicy
    from alignbench.models.scoring import response_scores
    from alignbench.training import reference

    start = run.start
    if not isinstance(start, ModelPolicy):
        raise PluginError(
            "a start that is a decoder gives no log-probabilities", "start from the label below that decoder"
        )
    wanted = _wanted(run, rows, start.base)

    def make(folder: Path) -> None:
        reference.compute(start, wanted, folder)

    folder = run.shared(
        make,
        what="scoring the reference",
        start=start,
        sequences=store.digest([[one.prompt, one.response] for one in wanted]),
    )
    late = partial(response_scores, start) if counts_everything(run) else None
    return reference.lookup(folder, start.base.device, late)


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


def ahead(margin: Tensor, tolerance: float | None) -> Tensor:
    """Return for each margin [N] whether it is above zero: 1, 0, or one half where equal policies could differ as much.

    Before its first step a policy equals its start, and the sign of a margin says nothing. `tolerance` is that of
    `GroupScores`; None counts as 0.
    """
    return 0.5 + 0.5 * margin.sign() * (margin.abs() > (tolerance or 0.0))


def _foreseen(run: Run, rows: Rows[Any], base: Network) -> list[Sequence]:
    """Return the sequences of the rows that come first in the training, as many as it will reach.

    A sequence is scored once, for a forward pass, and trained on for each epoch, for a forward and a backward pass.
    """
    from alignbench.training.batches import stream

    forward, trained = (1.0, 1.0) if run.budget.unit == "tokens" else (2.0 * base.size, 4.0 * base.size)
    left = 0.0 if run.budget.unit == "seconds" else SAFETY * run.left
    wanted: dict[Sequence, None] = {}
    for step in stream(rows, run.batch, store.stream_key(run.seed, "order"), None):
        for row in step:
            sequences = row.sequences()
            alone = sum(len(one) - 1 for one in sequences)
            shared = alone - sum(len(one.prompt) for one in sequences)
            shared += sum(map(len, {id(one.prompt): one.prompt for one in sequences}.values()))
            left -= trained * shared + forward * alone * (sequences[0] not in wanted)
            wanted |= dict.fromkeys(sequences)
        if left <= 0:
            return list(wanted)
    raise AssertionError("the order of the rows has no end")


def _wanted(run: Run, rows: Rows[Any], base: Network) -> list[Sequence]:
    """Return what the budget can reach."""
    if counts_everything(run):
        return _foreseen(run, rows, base)
    budget, size = run.budget, len(rows)
    drawn = budget.rows or (budget.steps or 0) * run.batch or (budget.epochs or 0) * size
    reached = (row for number in range(math.ceil(drawn / size)) for row in rows.epoch(number))
    return list(dict.fromkeys(sequence for row in reached for sequence in row.sequences()))
