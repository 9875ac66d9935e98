"""Calls a loss as the trainer does, on scores that a test writes down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from typing import Any

from torch import Tensor

from alignbench.api.method import GroupScores, Loss, Numbers
from alignbench.models.forward.groups import Scores
from alignbench.training.reduction import Reduction


def group_scores(
    group: str,
    mask: Tensor,
    *,
    logps: Tensor | None = None,
    values: Tensor | None = None,
    kl: Tensor | None = None,
    tolerance: float | None = 1e-5,
) -> Scores:
    """Return the scores of one group: `mask` bool [N, R], `logps`, `values` and `kl` float32 [N, R]."""
    scores = Scores(group, mask, tolerance)
    for kind, given in (("logps", logps), ("values", values), ("kl", kl)):
        if given is not None:
            setattr(scores, kind, given.masked_fill(~mask, 0.0))
    return scores


def reduced(
    loss: Callable[[Mapping[str, GroupScores], list[Any]], tuple[Loss, Numbers]],
    scores: Mapping[str, GroupScores],
    rows: Many[Any],
) -> tuple[Tensor | dict[str, Tensor], dict[str, float]]:
    """Return the loss of one step on `scores`, a scalar or one for each term, and its logged numbers."""
    reduction = Reduction(len(rows), {name: one.mask.sum(1).tolist() for name, one in scores.items()})
    values, numbers = loss(scores, list(rows))
    reduction.add(numbers, scores, rows)
    return reduction.loss(values, scores, rows), {n: float(value) for n, value in reduction.numbers.items()}
