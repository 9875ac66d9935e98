"""The plan: every cell of a run, in start order, and what each is not treated alike in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import plugins
from alignbench.errors import RecipeError
from alignbench.method import Departure
from alignbench.recipe import BASE, FILE, MethodBlock, ModelStart, Recipe
from alignbench.store import digest
from alignbench.wiring import (
    built_on,
    compares,
    edges,
    group_of,
    judges_of,
    order,
    overlap,
    reserved,
    rewritten,
)

if TYPE_CHECKING:
    from alignbench.metrics import Metric


@dataclass(frozen=True, slots=True)
class Cell:
    """One label at one seed: the unit of work, of isolation and of resume."""

    label: str
    seed: int
    parents: tuple[str, ...] = ()
    """Labels whose policies of the same seed it needs."""

    def __str__(self) -> str:
        return f"{self.label}/seed-{self.seed}"

    def folder(self, run: Path) -> Path:
        return run / "cells" / self.label / f"seed-{self.seed}"


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


def departures(recipe: Recipe, label: str) -> tuple[Departure, ...]:
    """Return in what a label differs from what the recipe gives to all."""
    block, found = recipe.methods[label], []
    if block.budget is not None and block.budget != recipe.budget:
        found.append(Departure("budget", str(recipe.budget), str(block.budget)))
    for name, own in block.training.items():
        shared = getattr(recipe.training, name)
        if own != shared:
            found.append(Departure(f"training.{name}", str(shared), str(own)))
    if recipe.sweep is not None and not block.sweep:
        found.append(Departure("tuning", f"{recipe.sweep.trials} trials", "none"))
    source = recipe.data.source
    if source != FILE and compares(recipe, label) and rewritten(recipe, label) is None:
        found.append(Departure("comparisons", f"answers of {source.policy}", "the file's"))
    if block.seeds is not None and block.seeds != recipe.seeds:
        found.append(Departure("seeds", _listed(recipe.seeds), _listed(block.seeds)))
    for judge in judges_of(recipe, label):
        found += [
            Departure(f"trained on its yardstick, {name}") for name in overlap(recipe, judge, allowed=True)
        ]
        kind = plugins.load("judges", judge.name)
        reader = kind.reads_with(kind.Config(**judge.config), recipe.model.id)
        if reader == recipe.model.id:
            found.append(Departure(f"labelled by its own base, as the judge {judge.name}"))
        elif related(reader, recipe.model.id):
            found.append(Departure(f"labelled by a relative of its base, {reader}"))
    if isinstance(block.start, ModelStart):
        found.append(Departure("base model", recipe.model.id, block.start.model))
    return tuple(found)


def related(one: str, other: str) -> bool:
    """Whether two models seem to be of one family, by their names: a model's, or the letters it begins with."""
    if not one or not other:
        return False
    stems = [re.match("[a-z]*", id.rstrip("/").rpartition("/")[2].lower()) for id in (one, other)]
    first, second = (stem.group() if stem else "" for stem in stems)
    return (first == second != "") or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def table_identity(recipe: Recipe, *, files: Mapping[str, str], versions: dict[str, str]) -> str:
    """Return the key of the prepared table, of all that goes into its rows; `files`: digests by name."""
    named = [recipe.data.train, recipe.data.validation, recipe.data.test, recipe.data.pretraining]
    groups: tuple[tuple[plugins.Group, list[Any]], ...] = (("data", named), ("filters", recipe.data.filters))
    sources = {
        f"{group} {one.name}": plugins.source_digest(plugins.find(group, one.name))
        for group, ones in groups
        for one in ones
        if one is not None and one.name in plugins.installed(group)
    }
    inputs = {**recipe.model_dump(mode="json", include={"model", "data"}), "files": dict(files)}
    return _key(inputs, {"versions": versions, "sources": sources})


def _key(inputs: Any, environment: Any) -> str:
    return f"{digest(inputs)}.{digest(environment)}"


def same_inputs(one: str, other: str) -> bool:
    """Return whether two keys differ in nothing but the environment: libraries and plugins."""
    return one.partition(".")[0] == other.partition(".")[0]


def identity(
    recipe: Recipe,
    cell: Cell,
    *,
    versions: dict[str, str],
    data: str,
    parents: dict[str, str],
    files: Mapping[str, str] | None = None,
) -> str:
    """Return the key of a cell: everything that goes into its policy and its samples.

    `data` is the content digest of the prepared table, `parents` those of the cells it needs, `files` those
    of the files that the recipe names.
    """
    said = recipe.model_dump(mode="json")
    block = said["methods"].get(cell.label)
    anew = None
    if block is not None:
        del block["seeds"], block["sweep"]  # the cell's own seed and fields say it all
        anew = rewritten(recipe, cell.label)
    plugin = {} if block is None else _plugins_of(recipe.methods[cell.label])
    if anew is not None:
        judge = plugins.find("judges", anew.judge.name)
        plugin["compared by"] = [str(judge), plugins.source_digest(judge)]
    asked = ("prompts", "split", "samples_per_prompt", "sampling")
    sampled = {name: said["evaluation"][name] for name in asked}
    if recipe.evaluation.curve is not None:
        sampled["curve"] = said["evaluation"]["curve"]
    return _key(
        {
            "cell": [cell.label, cell.seed],
            "model": said["model"],
            "training": said["training"],
            "budget": said["budget"],
            "block": block,
            "comparisons": "file" if anew is None else anew.model_dump(mode="json"),
            **({"reserved": share} if (share := reserved(recipe)) else {}),
            "evaluation": sampled,
            "data": data,
            "parents": parents,
            "files": dict(files or {}),
        },
        {"versions": versions, **plugin},
    )


def _plugins_of(block: MethodBlock) -> dict[str, Any]:
    """The method and every plugin that its fields name, each with the digest of its source."""
    found = plugins.find("methods", block.method)
    others = [
        plugins.find(group_of(one), one.name)
        for one in built_on(block.method, block.config)
        if one.name in plugins.installed(group_of(one))
    ]
    return {
        "plugin": str(found),
        "source": plugins.source_digest(found),
        "builds on": [[str(one), one.name, plugins.source_digest(one)] for one in others],
    }


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
