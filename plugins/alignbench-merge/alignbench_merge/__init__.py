"""Merging: the adapters of several labels become one policy, without a training."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from alignbench import AdapterLabel, Method, MethodConfig, Policy, Run

if TYPE_CHECKING:
    from alignbench_merge.adapters import Part, Rule


class Merging(MethodConfig):
    """What is merged."""

    labels: list[AdapterLabel] = []
    """Labels whose adapters are merged; with none, the policy is its start."""
    weights: list[float] = []
    """What each label's change is multiplied by; by default 1 divided by their number."""

    @model_validator(mode="after")
    def _one_weight_for_each_label(self) -> Self:
        if self.weights and len(self.weights) != len(self.labels):
            raise ValueError(
                f"there are {len(self.weights)} weights for {len(self.labels)} labels; give each label one, or none"
            )
        return self

    @property
    def shares(self) -> list[float]:
        """The weight of each label."""
        return self.weights or [1 / len(self.labels) for _ in self.labels]


class TaskArithmetic(Method):
    """The start, plus the weighted sum of what other labels changed of it. A negative weight takes a change back.

    Source: Ilharco et al. 2022, "Editing models with task arithmetic" (arXiv:2212.04089).
    """

    api = 2
    consumes = ()

    class Config(Merging):
        """What is merged, and with which weights."""

    def align(self, run: Run) -> Policy:
        from alignbench_merge.adapters import merge
        from alignbench_merge.merging import add

        shares = self.config.shares
        return merge(run, self.config.labels, lambda parts: lambda changes: add(changes, shares))


class TIES(Method):
    """The start, plus the mean of what other labels changed of it, where they agree on the sign.

    Source: Yadav et al. 2023, "TIES-Merging: resolving interference when merging models" (arXiv:2306.01708).
    """

    api = 2
    consumes = ()

    class Config(Merging):
        """What is merged, with which weights, and how much of it."""

        density: float = Field(0.2, gt=0, le=1)
        """Share of the values of each label's change that are kept: its largest."""
        scale: float = 1.0
        """What the merged change is multiplied by (lambda)."""

        @model_validator(mode="after")
        def _weights_of_a_mean(self) -> Self:
            if any(weight <= 0 for weight in self.weights):
                raise ValueError("the weights of a mean are above 0; leave out what should not count")
            return self

    def align(self, run: Run) -> Policy:
        from alignbench_merge.adapters import merge
        from alignbench_merge.merging import least_kept, ties

        config = self.config

        def rule(parts: Many[Part]) -> Rule:
            cuts = [least_kept(part, config.density) for part in parts]
            return lambda changes: config.scale * ties(changes, config.shares, cuts)

        return merge(run, config.labels, rule)
