"""Resolves a checked recipe into the plan of a run: afterwards nothing asks its graph again."""

from __future__ import annotations

from collections.abc import Iterator

from alignbench import plugins
from alignbench.api.config import NamedJudge
from alignbench.recipe.configs import build, built_on, group_of
from alignbench.recipe.departures import departures
from alignbench.recipe.graph import edges, order, relabelled, reserved, tuning_judge
from alignbench.recipe.plan import LabelPlan, Plan, PluginSource
from alignbench.recipe.schema import Recipe, Relabelled, Training, own_budget


def resolve(recipe: Recipe) -> Plan:
    """Return the plan of a checked recipe.

    Raises RecipeError where labels need each other in a circle, PluginError where a plugin is not installed.
    """
    needs = edges(recipe)
    labels = {label: _label(recipe, label, needs[label]) for label in order(needs)}
    judges = [judge for one in labels.values() for judge in one.judges]
    sources = {
        f"{group} {name}": _source(group, name)
        for group, name in sorted(set(_named(recipe, labels)))
        if name.rpartition(":")[2] in plugins.installed(group)  # another data source is a file, or on the hub
    }
    able = (one for one in recipe.evaluation.judges if not plugins.load("judges", one.name).recorded)
    return Plan(
        recipe=recipe,
        labels=labels,
        tuning_judge=next(map(tuning_judge, able), None),
        reserved=reserved(recipe, judges),
        sources=sources,
    )


def _label(recipe: Recipe, label: str, parents: tuple[str, ...]) -> LabelPlan:
    block, comparisons = recipe.methods[label], relabelled(recipe, label)
    kind, config = build("methods", block.method, block.config)
    named = tuple(built_on(block.method, block.config))
    judges = tuple(one for one in named if isinstance(one, NamedJudge))
    if comparisons is not None:
        judges += (comparisons.judge,)
    return LabelPlan(
        method=block.method,
        config=config.model_dump(mode="json"),
        start=block.start,
        parents=parents,
        seeds=tuple(recipe.seeds if block.seeds is None else block.seeds),
        budget=own_budget(recipe, label),
        training=Training(**{**recipe.training.model_dump(), **block.training}),
        judges=judges,
        comparisons=comparisons,
        departures=departures(recipe, label, judges, comparisons),
        same_cost_as=getattr(config, kind.same_cost_as) if kind.same_cost_as else None,
        builds_on=tuple(f"{group_of(one)} {one.name}" for one in named),
    )


def _named(recipe: Recipe, labels: dict[str, LabelPlan]) -> Iterator[tuple[plugins.Group, str]]:
    """Yield every plugin that the recipe names."""
    data, evaluation = recipe.data, recipe.evaluation
    for one in (data.train, data.validation, data.test, data.pretraining):
        if one is not None:
            yield "data", one.name
    for one in data.filters:
        yield "filters", one.name
    if isinstance(data.source, Relabelled):
        yield "judges", data.source.judge.name
    for one in evaluation.judges:
        yield "judges", one.name
    for one in evaluation.metrics:
        yield "metrics", one.name
    for label in labels.values():
        yield "methods", label.method
        for key in label.builds_on:
            group, _, name = key.partition(" ")
            yield group, name  # pyright: ignore[reportReturnType]


def _source(group: plugins.Group, name: str) -> PluginSource:
    found = plugins.find(group, name)
    return PluginSource(
        distribution=found.distribution, version=found.version, digest=plugins.source_digest(found)
    )
