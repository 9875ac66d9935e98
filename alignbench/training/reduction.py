"""The means of a loss: values of a micro-batch's rows and tokens, reduced over the whole optimiser step."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Any

import torch
from torch import Tensor

from alignbench.api.method import GroupScores, Loss, Numbers, PerToken, Values
from alignbench.errors import PluginError


class Reduction:
    """Reduces what a loss returns of each micro-batch to shares that add up to the means of one step.

    Law: loss, gradient and numbers of a step are the same whatever its micro-batches are.
    """

    def __init__(self, rows: int, lengths: Mapping[str, Many[int]]):
        """Begin a step of `rows` rows; `lengths` are the response tokens of each group's sequences."""
        self.rows, self.lengths = rows, lengths
        self.tokens = {name: sum(found) for name, found in lengths.items()}
        self.numbers: dict[str, Tensor | float] = {}
        """The logged numbers of the step, as far as its micro-batches have been added."""
        self._begun = False

    def loss(
        self, loss: Loss, scores: Mapping[str, GroupScores], rows: Many[Any]
    ) -> Tensor | dict[str, Tensor]:
        """Return a micro-batch's share of the step's loss, a scalar; of named terms, one scalar each.

        Raises PluginError where the values fit neither the rows nor the response tokens of one group.
        """
        if isinstance(loss, Mapping):
            return {
                name: self._sum(values, f"the term '{name}'", scores, rows) for name, values in loss.items()
            }
        return self._sum(loss, "the loss", scores, rows)

    @torch.no_grad()
    def add(self, numbers: Numbers, scores: Mapping[str, GroupScores], rows: Many[Any]) -> None:
        """Add a micro-batch's share of the logged numbers.

        Raises PluginError as `loss` does, and where a float or the names differ between micro-batches.
        """
        if self._begun and numbers.keys() != self.numbers.keys():
            found = sorted(numbers.keys() ^ self.numbers.keys())
            raise PluginError(
                f"the numbers to log differ between micro-batches: {', '.join(found)}",
                "log the same names for all rows",
            )
        for name, value in numbers.items():
            if isinstance(value, int | float):
                if self.numbers.setdefault(name, value) != value:
                    raise PluginError(
                        f"the number '{name}' is {self.numbers[name]} in one micro-batch and {value} in another",
                        "a float is a constant of the step: return values per row [n] or per token [N, R]",
                    )
                continue
            share = self._share(value, f"the number '{name}'", scores, rows)
            self.numbers[name] = self.numbers[name] + share if self._begun else share
        self._begun = True

    def _sum(
        self, values: Values | Many[Values], what: str, scores: Mapping[str, GroupScores], rows: Many[Any]
    ) -> Tensor:
        if isinstance(values, Tensor | PerToken):
            return self._share(values, what, scores, rows)
        first, *others = (self._share(one, what, scores, rows) for one in values)
        for share in others:
            first = first + share
        return first

    def _share(self, values: Values, what: str, scores: Mapping[str, GroupScores], rows: Many[Any]) -> Tensor:
        if isinstance(values, PerToken):
            mask, tokens = scores[values.group].mask, self.tokens[values.group]
            return values.values.masked_fill(~mask, 0).sum() / tokens
        if values.ndim == 1 and len(values) == len(rows):
            return values.sum() / self.rows
        if values.ndim == 2:
            return self._share(scores[self._only(what)].per_token(values), what, scores, rows)
        shapes = ", ".join(
            f"'{name}' [{', '.join(map(str, one.mask.shape))}]" for name, one in scores.items()
        )
        raise PluginError(
            f"{what} has shape {list(values.shape)}, but the micro-batch has [{len(rows)}] rows and the groups "
            f"{shapes}",
            "return values per row [n] or per token [N, R]; the trainer takes the mean",
        )

    def _only(self, what: str) -> str:
        """Return the group of a bare tensor [N, R]: all groups of the step must have equal responses.

        What fits one group only may fit two in the next micro-batch; so that the groups of the whole step decide.
        """
        first, *others = self.lengths
        if any(self.lengths[name] != self.lengths[first] for name in others):
            names = ", ".join(f"'{name}'" for name in self.lengths)
            raise PluginError(
                f"{what} has one value per token, which could be those of {names}",
                f'name the group, as in scores["{first}"].per_token(values)',
            )
        return first
