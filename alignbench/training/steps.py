"""The rows of step after step: where they come from, how many there will be, and how far the budget reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, count, takewhile
from typing import Any

from alignbench.api.config import Budget
from alignbench.api.method import Rows
from alignbench.training import batches as order
from alignbench.training.budget import Spent

ENDLESS = 2**31 - 1
"""Steps planned where only the running account can tell the end."""

Batches = Rows[Any] | Callable[[int], list[Any]]


class Steps:
    """The rows of step after step, and how far the budget reaches."""

    def __init__(
        self, batches: Batches, batch: int, seed: int, budget: Budget, spent: Spent, passes: int = 1
    ):
        self.batches, self.budget, self.spent, self.passes = batches, budget, spent, passes
        self.batch, self.seed = batch, seed
        self.planned = ENDLESS if budget.steps is None else budget.steps - spent.steps
        self.size: int | None = None
        self.limit: int | None = None
        if not callable(batches):
            self.size = order.size(batches)
            rows = max(1, round(budget.epochs * self.size)) if budget.epochs else budget.rows
            if rows is not None:
                self.limit = rows - int(spent.rows)
                self.planned = order.steps_of(self.size, batch, self.limit)
        self._begun = spent.share(budget, self.size)
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begin with the rows of `step`, without drawing those before it."""
        self._source: Iterator[list[Any]]
        if callable(self.batches):
            self._source = takewhile(bool, map(self.batches, count(step)))
        else:
            self._source = order.stream(self.batches, self.batch, self.seed, self.limit, skip=step)

    def first(self) -> list[Any]:
        """Return the rows of the next step without using them up."""
        rows = next(self._source, [])
        self._source = chain([rows], self._source) if rows else iter(())
        return rows

    def __iter__(self) -> Iterator[list[Any]]:
        return self._source

    def drawn(self, step: list[Any]) -> float:
        """Return how many rows a step takes off the budget."""
        return self.rows(step) / self.passes

    def rows(self, step: list[Any]) -> int:
        """Return how many rows a step has: two views of one row are one row."""
        return len(step) if callable(self.batches) else len({row.id for row in step})

    def progress(self) -> float:
        """Return the share of this training that is done, from 0 to 1."""
        left = 1 - self._begun
        done = 1.0 if left <= 0 else (self.spent.share(self.budget, self.size) - self._begun) / left
        return 1.0 if done > 1 - 1e-9 else done  # parts of rows need not add up exactly
