"""The plan: every cell of a run, in start order, and what each is not treated alike in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import plugins
from alignbench.errors import RecipeError
from alignbench.layout import cell_folder, cell_name
from alignbench.recipe.graph import (
    edges,
    order,
)
from alignbench.recipe.schema import BASE, Recipe

if TYPE_CHECKING:
    from alignbench.api.metric import Metric


@dataclass(frozen=True, slots=True)
class Cell:
    """One label at one seed: the unit of work, of isolation and of resume."""

    label: str
    seed: int
    parents: tuple[str, ...] = ()
    """Labels whose policies of the same seed it needs."""

    def __str__(self) -> str:
        return cell_name(self.label, self.seed)

    def folder(self, run: Path) -> Path:
        return cell_folder(run, self.label, self.seed)


def cells(recipe: Recipe, only: Iterable[str] = ()) -> tuple[Cell, ...]:
    """Return the cells in start order: seed by seed, `base` first.

    `only` keeps the named labels and what they start from. Raises RecipeError for a label that is not there.
    """
    parents = {BASE: (), **{label: tuple(edges(recipe)[label]) for label in recipe.methods}}
    wanted = set(only) or set(parents)
    if unknown := wanted - set(parents):
        raise RecipeError(
            f"--only names {', '.join(sorted(unknown))}, which the recipe does not have",
            f"it has {', '.join(parents)}",
        )
    queue = list(wanted | {BASE})
    while queue:
        for parent in parents[queue.pop()]:
            if parent not in wanted:
                wanted.add(parent)
                queue.append(parent)
    labels = [label for label in (BASE, *(x for x in order(recipe) if x != BASE)) if label in wanted | {BASE}]
    asked = {label: _seeds(recipe, label) for label in labels}
    for label in reversed(labels):  # what a label stands on is needed at its seeds too
        for parent in (BASE, *parents[label]):
            asked[parent] = list(dict.fromkeys([*asked[parent], *asked[label]]))
    return tuple(
        Cell(label, seed, parents[label]) for seed in asked[BASE] for label in labels if seed in asked[label]
    )


def _seeds(recipe: Recipe, label: str) -> list[int]:
    block = recipe.methods.get(label)
    return recipe.seeds if block is None or block.seeds is None else block.seeds


def requested(recipe: Recipe, root: Path) -> list[dict[str, Any]]:
    """Return what metrics ask of every policy beside the evaluation prompts; equal questions stand once.

    Each with the `metrics` that share it, its `prompts`, its `answers` (the most that one of them takes) and
    `most tokens` of all of them, None where a metric words its questions only while it measures.
    """
    found: dict[str, dict[str, Any]] = {}
    for named in recipe.evaluation.metrics:
        kind: type[Metric] = plugins.load("metrics", named.name)
        metric = kind(kind.Config(**named.config))
        requests = metric.requests(root)
        parts = [
            (one.key, len(one.prompts), len(one.prompts) * one.samples, one.sampling.max_new_tokens)
            for one in requests
        ]
        if not parts and (count := metric.answers(root)):
            parts = [(named.name, count, count, None)]
        for key, prompts, answers, longest in parts:
            one = found.setdefault(key, {"metrics": [], "prompts": prompts, "answers": 0, "most tokens": 0})
            one["metrics"] = list(dict.fromkeys([*one["metrics"], named.name]))
            one["answers"] = max(one["answers"], answers)
            one["most tokens"] = None if longest is None else one["answers"] * longest
    return list(found.values())
