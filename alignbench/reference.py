"""Log-probabilities of a run's rows under its start: computed once, and shared by all cells."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection
from collections.abc import Sequence as Many
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.api.method import Rows, Run
from alignbench.errors import PluginError
from alignbench.rows import Ids, Sequence
from alignbench.spending import counts_everything

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench.models import Network

__all__ = ["ahead", "check_first_loss", "logprobs"]

PARTS = 3
"""Of a budget that counts everything, parts of the reference: each is planned by what the parts before it have cost."""
FORESEEN = 1.01
"""Share of what is left that is planned ahead. A row that is scored within its step makes that step dearer than the
trainer can know, so that the budget would be exceeded."""


def logprobs(run: Run, rows: Rows[Any]) -> Callable[[Many[Sequence]], Tensor]:
    """Return a look-up of the start's log-probabilities of `rows`, of any epoch of the budget.

    It maps N sequences to float32 [N], on the base's device: the log-probability of each whole response under the
    start. Of a budget that counts everything, as many rows are scored as will be trained on with what is then left.
    Raises PluginError where the start is a decoder.
    """
    from alignbench.models import ModelPolicy
    from alignbench.models.forward.scoring import response_scores
    from alignbench.training import reference

    start = run.start
    if not isinstance(start, ModelPolicy):
        raise PluginError(
            "a start that is a decoder gives no log-probabilities", "start from the label below that decoder"
        )
    total = counts_everything(run)
    known: dict[Sequence, None] = {}
    folders: list[Path] = []
    for _ in range(PARTS if total else 1):
        wanted = _foreseen(run, rows, start.base, known) if total else _reached(run, rows)
        if not (new := [one for one in wanted if one not in known]):
            break
        known |= dict.fromkeys(new)
        folders.append(
            run.shared(
                partial(reference.compute, start, new),
                what="scoring the reference",
                start=start,
                sequences=store.digest([[one.prompt, one.response] for one in new]),
            )
        )
    return reference.lookup(folders, start.base.device, partial(response_scores, start) if total else None)


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
            "take the reference of this start, these rows and this precision: alignbench.reference.logprobs(run, rows)",
        )


def ahead(margin: Tensor, tolerance: float | None) -> Tensor:
    """Return for each margin [N] whether it is above zero: 1, 0, or one half where equal policies could differ as much.

    Before its first step a policy equals its start, and the sign of a margin says nothing. `tolerance` is that of
    `GroupScores`; None counts as 0.
    """
    return 0.5 + 0.5 * margin.sign() * (margin.abs() > (tolerance or 0.0))


def _foreseen(run: Run, rows: Rows[Any], base: Network, known: Collection[Sequence]) -> list[Sequence]:
    """Return the sequences of the rows that come first in the training, as many as it will reach.

    A sequence that is not `known` is scored once, for a forward pass, and trained on in each epoch, for a forward and
    a backward pass. A step computes once what its texts begin with alike; scoring shares at least what all begin with.
    """
    from alignbench.training.batches import stream

    forward, trained = (1.0, 1.0) if run.budget.unit == "tokens" else (2.0 * base.size, 4.0 * base.size)
    left = 0.0 if run.budget.unit == "seconds" else FORESEEN * run.left
    wanted: dict[Sequence, None] = {}
    common: Ids | None = None
    for step in stream(rows, run.batch, store.stream_key(run.seed, "order"), None):
        texts: list[Ids] = []
        for row in step:
            for one in row.sequences():
                text = (*one.prompt, *one.response[:-1])
                place = bisect.bisect(texts, text)
                around = texts[max(0, place - 1) : place + 1]
                left -= trained * (len(text) - max((_alike(text, other) for other in around), default=0))
                texts.insert(place, text)
                common = text if common is None else text[: _alike(common, text)]
                left -= forward * (len(text) - len(common)) * (one not in wanted and one not in known)
                wanted[one] = None
            if left <= 0:
                return list(wanted)
    raise AssertionError("the order of the rows has no end")


def _alike(one: Ids, other: Ids) -> int:
    """Return how many tokens two texts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _reached(run: Run, rows: Rows[Any]) -> list[Sequence]:
    """Return the sequences of all rows that a budget in epochs, rows or steps reaches.

    A row counts once, however many views it has: both answers of a pair are one row.
    """
    budget = run.budget
    most = budget.rows or (budget.steps or 0) * run.batch
    reached: dict[Sequence, None] = {}
    drawn, number = 0, 0
    while number < budget.epochs if budget.epochs else drawn < most:
        epoch = rows.epoch(number)
        reached |= dict.fromkeys(sequence for row in epoch for sequence in row.sequences())
        drawn += len({row.id for row in epoch})
        number += 1
        if not epoch:
            break
    return list(reached)
