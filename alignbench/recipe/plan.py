"""The plan of a run: all that follows from a checked recipe, as plain values that cross the process border."""

from __future__ import annotations

from typing import Any, Literal

from alignbench.api.config import Budget, NamedJudge, Settings
from alignbench.api.method import Departure
from alignbench.recipe.schema import Named, Recipe, Relabelled, Start, Training


class PluginSource(Settings):
    """Where a plugin that the recipe names comes from."""

    distribution: str
    version: str
    digest: str
    """sha256 of its source files."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class LabelPlan(Settings):
    """One label of the comparison."""

    method: str
    config: dict[str, Any]
    """The method's fields, defaults included."""
    start: Start
    parents: tuple[str, ...]
    """Labels that must be finished first."""
    seeds: tuple[int, ...]
    budget: Budget
    """What it may spend itself; of a budget for the chain, what its starts leave."""
    training: Training
    """The recipe's, with the label's own fields."""
    judges: tuple[NamedJudge, ...]
    """The judges that it learns from."""
    comparisons: Relabelled | None
    """How the comparisons it learns from are made; None: those of the file."""
    departures: tuple[Departure, ...]
    """In what it differs from what the recipe gives to all."""
    same_cost_as: str | None
    """The label whose answers cost what its own do, where its method matches them."""
    builds_on: tuple[str, ...]
    """Plugins that its fields name, and those that these name: keys of `Plan.sources`."""


class Plan(Settings):
    """A resolved recipe: `alignbench.recipe.resolve.resolve` makes it, once for a run."""

    recipe: Recipe
    """What is asked of all labels alike; what one label does is in `labels` alone."""
    labels: dict[str, LabelPlan]
    """Without `base`; a label comes after those it needs."""
    tuning_judge: Named | None
    """Chooses the sampling temperatures: that of the first evaluation judge that can judge any answer."""
    reserved: float
    """Share of the training rows that judges are trained on, and that no method sees."""
    sources: dict[str, PluginSource]
    """Every installed plugin that the recipe names, by group and name: `judges gold`."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of `base`, and of a label that names no others."""
        return tuple(self.recipe.seeds)

    @property
    def budget(self) -> Budget:
        """Of a label that names no other."""
        return self.recipe.budget

    @property
    def training(self) -> Training:
        """Of a label that names no other."""
        return self.recipe.training

    def computing(self, compute: Literal["float32", "bfloat16", "float16"]) -> Plan:
        """Return the same plan for a base that computes in this precision, which is part of every key."""
        model = self.recipe.model.model_copy(update={"compute": compute})
        return self.model_copy(update={"recipe": self.recipe.model_copy(update={"model": model})})

    def source(self, group: str, name: str) -> PluginSource:
        """Return where a plugin that the recipe names comes from."""
        return self.sources[f"{group} {name}"]
