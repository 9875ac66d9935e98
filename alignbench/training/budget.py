"""What a cell may spend, what it has spent, and the learning rate that follows from the two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from alignbench.api.config import Budget


@dataclass
class Spent:
    """What is spent so far, in each unit of a budget but epochs."""

    rows: float = 0
    """Rows drawn, counting a row each time it is drawn; a part of one for each pass over a row drawn once."""
    steps: int = 0
    """Optimiser steps."""
    tokens: float = 0
    """Positions computed."""
    flops: float = 0.0
    """Floating-point operations."""
    seconds: float = 0.0
    """Wall time."""

    def share(self, budget: Budget, size: int | None = None) -> float:
        """Return the share of `budget` that is spent, from 0; 1 and more: it is used up.

        `size` is the number of rows of an epoch, which only a budget in epochs asks for.
        """
        if budget.epochs is not None:
            if size is None:
                raise ValueError("a budget in epochs needs the number of rows of an epoch")
            return self.rows / max(1, round(budget.epochs * size))
        return getattr(self, budget.unit) / budget.amount


def rate(
    schedule: Literal["cosine", "linear", "constant"], warmup: float, before: float, after: float
) -> float:
    """Return the learning rate of one step, as a share of its peak.

    `before` and `after` are the shares of the budget spent before and after the step: so that a warm-up
    never wastes the first step on a rate of zero, and a decay not the last.
    """
    if after < warmup:
        return after / warmup
    if schedule == "constant" or warmup >= 1:
        return 1.0
    progress = min(1.0, max(0.0, before - warmup) / (1 - warmup))
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
