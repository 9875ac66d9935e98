"""Keys: everything that goes into a prepared table or a cell, as one digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench import plugins
from alignbench.engine.plan import Cell
from alignbench.recipe.graph import (
    built_on,
    group_of,
    relabelled,
    reserved,
)
from alignbench.recipe.schema import MethodBlock, Recipe
from alignbench.store import digest


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
        anew = relabelled(recipe, cell.label)
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
