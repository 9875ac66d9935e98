"""Keys: everything that goes into a prepared table, a cell or an evaluation, as one digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.data.pool import SPLITS, answered, wanted
from alignbench.engine.cells import PlannedCell
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Recipe
from alignbench.store import digest


def table_key(plan: Plan, *, files: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return the key of the prepared table, of all that goes into its rows; `files`: digests by name."""
    sources = {
        name: one.digest for name, one in plan.sources.items() if name.startswith(("data ", "filters "))
    }
    recipe = plan.recipe
    inputs = {
        **recipe.model_dump(mode="json", include={"model", "data"}),
        "files": dict(files),
        "wanted": {split: [wanted(recipe, split), answered(recipe, split)] for split in SPLITS},
    }
    return _key(inputs, {"versions": dict(versions), "sources": sources})


MAKES_A_CELL = {"method", "config", "start", "budget", "training", "judges"}
"""Fields of a label's plan that go into its policies and samples; its seeds are no part of one cell."""


def cell_key(
    plan: Plan,
    cell: PlannedCell,
    *,
    versions: Mapping[str, str],
    data: str,
    parents: Mapping[str, str],
    files: Mapping[str, str],
) -> str:
    """Return the key of a cell: everything that goes into its policy and its samples.

    `data` is the content digest of the prepared table, `parents` those of the cells it needs, `files` those
    of the files that the recipe names.
    """
    recipe = plan.recipe.model_dump(mode="json")
    label, own = plan.labels.get(cell.label), None
    comparisons, sources = None, {}
    if label is not None:
        own = label.model_dump(mode="json", include=MAKES_A_CELL)
        comparisons = label.comparisons
        named = [f"methods {label.method}", *label.builds_on]
        if comparisons is not None:
            named.append(f"judges {comparisons.judge.name}")
        sources = {name: [str(one), one.digest] for name in named if (one := plan.sources.get(name))}
    inputs = {
        "cell": [cell.label, cell.seed],
        "model": recipe["model"],
        "training": recipe["training"],
        "budget": recipe["budget"],
        "label": own,
        "comparisons": None if comparisons is None else comparisons.model_dump(mode="json"),
        "reserved": plan.reserved,
        "evaluation": asked_of_cells(plan.recipe),
        "data": data,
        "parents": dict(parents),
        "files": dict(files),
    }
    return _key(inputs, {"versions": dict(versions), "sources": sources})


def asked_of_cells(recipe: Recipe) -> dict[str, Any]:
    """Return what an evaluation asks of each cell: the answers that it draws, and on the way."""
    names = {"prompts", "split", "samples_per_prompt", "sampling", "curve"}
    if recipe.evaluation.chooses:
        names.add("tuning_prompts")
    return recipe.evaluation.model_dump(mode="json", include=names)


def measured_key(
    plan: Plan,
    cell: PlannedCell,
    *,
    versions: Mapping[str, str],
    data: str,
    contents: Mapping[str, str],
    files: Mapping[str, str],
) -> str:
    """Return the key of what is measured of a cell alone; `contents`: content digests of the cell and of all that it
    builds on, by cell name; the rest as of `cell_key`."""
    recipe = plan.recipe.model_dump(mode="json")
    for compared in ("margin", "allow"):
        del recipe["evaluation"][compared]
    inputs = {
        "measured": [cell.label, cell.seed],
        "contents": dict(contents),
        **{name: recipe[name] for name in ("model", "training", "evaluation")},
        "reserved": plan.reserved,
        "data": data,
        "files": dict(files),
    }
    return _key(inputs, {"versions": dict(versions), "sources": _evaluators(plan)})


def evaluation_key(
    plan: Plan,
    contents: Mapping[str, str],
    versions: Mapping[str, str],
    people: Mapping[str, str] | None = None,
) -> str:
    """Return the key of the evaluation; `contents`: content digests of the finished cells, by cell name;
    `people`: digests of the judgments of people, by judge, where there are any."""
    recipe = plan.recipe.model_dump(mode="json")
    made_of = {
        "cells": dict(contents),
        "recipe": recipe,
        "versions": dict(versions),
        "sources": _evaluators(plan),
    }
    return digest({**made_of, "people": dict(people)} if people else made_of)


def _evaluators(plan: Plan) -> dict[str, list[str]]:
    """Return the versions and sources of the judges and metrics."""
    return {
        name: [str(one), one.digest]
        for name, one in plan.sources.items()
        if name.startswith(("judges ", "metrics "))
    }


def same_inputs(one: str, other: str) -> bool:
    """Return whether two keys differ in nothing but the environment: libraries and plugins."""
    return one.partition(".")[0] == other.partition(".")[0]


def _key(inputs: Any, environment: Any) -> str:
    return f"{digest(inputs)}.{digest(environment)}"
