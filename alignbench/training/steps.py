"""The rows of one optimiser step after another, and how much of the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, count, takewhile
from typing import Any

from alignbench.api.config import Budget
from alignbench.api.method import Rows
from alignbench.training import batches as order
from alignbench.training.budget import Spent

Batches = Rows[Any] | Callable[[int], list[Any]]


class Steps:
    """The rows of one step after another, from a view of rows or from a method's own function."""

    def __init__(
        self,
        batches: Batches,
        batch: int,
        seed: int,
        budget: Budget,
        spent: Spent,
        repeats: int = 1,
        limit: Budget | None = None,
    ):
        self.batches, self.spent, self.repeats = batches, spent, repeats
        self.budgets = [budget] if limit is None else [budget, limit]
        self.batch, self.seed = batch, seed
        self.size: int | None = None
        self.limit: int | None = None
        if not callable(batches):
            self.size = order.size(batches)
            rows = max(1, round(budget.epochs * self.size)) if budget.epochs else budget.rows
            if rows is not None:
                self.limit = rows - int(spent.rows)
        self._begun = [spent.share(one, self.size) for one in self.budgets]
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start at `step`, without drawing the rows before it."""
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

    def drawn(self, step: list[Any], prompts: Callable[[list[Any]], int]) -> float:
        """Return how many rows of the budget a step uses: of a method's own step as many as it has `prompts`."""
        rows = min(len(step), prompts(step)) if callable(self.batches) else self.rows(step)
        return rows / self.repeats

    def rows(self, step: list[Any]) -> int:
        """Return how many rows of the table a step has: two views of one row are one row."""
        return len(step) if callable(self.batches) else len({row.id for row in step})

    def progress(self) -> float:
        """Return the share of this training that is done, from 0 to 1: of the budget that ends it first."""
        done = 0.0
        for budget, begun in zip(self.budgets, self._begun, strict=True):
            left = 1 - begun
            share = 1.0 if left <= 0 else (self.spent.share(budget, self.size) - begun) / left
            done = max(done, share)
        return 1.0 if done > 1 - 1e-9 else done  # parts of rows need not add up exactly
