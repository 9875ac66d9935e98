"""Tuning with an equal number of trials for every method, on validation prompts, before the comparison.

All trials are labels of one ordinary run, in the folder `sweep` of the comparison: resumed, recorded and
reported like any other. A judge that is trained in the run does not choose what it reports on: its tuning judge does.
The best of each method then enters the comparison, on test prompts.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

from alignbench import results
from alignbench.api.config import Named
from alignbench.errors import AlignbenchError, PluginError, RecipeError
from alignbench.recipe.graph import complete, tuning_judge
from alignbench.recipe.schema import Loaded, MethodBlock, Range, Recipe

DRAWS = 16
"""Draws for each trial after which the values of a sweep are taken to give no further setting."""


def tuned(loaded: Loaded, out: Path, run: Callable[..., object]) -> Loaded:
    """Run the trials of every method in `out`, and return the recipe with the best setting of each.

    The recipe must not depend on which labels are asked for: one run may ask for more of them later. Raises
    RecipeError for a field that a method does not have, AlignbenchError where no trial of a method has a number
    to be chosen by.
    """
    trials, names = tuning(loaded)
    run(trials, out=out, only=names)
    return chosen(loaded, out)


def tuning(loaded: Loaded) -> tuple[Loaded, tuple[str, ...]]:
    """Return the run of the trials, and which of its labels to ask for; those they start from run too."""
    names = tuple(name for names in labels(loaded.recipe).values() for name in names)
    return replace(loaded, recipe=expanded(loaded.recipe)), names


def chosen(loaded: Loaded, out: Path) -> Loaded:
    """Return the recipe with the best setting of each method, by the finished trials in `out`."""
    recipe, found = loaded.recipe, results.read(out)
    trials, methods = expanded(recipe), dict(recipe.methods)
    for label, names in labels(recipe).items():
        best = _best(found, names, recipe)
        methods[label] = methods[label].model_copy(update={"config": trials.methods[best].config})
    return replace(loaded, recipe=complete(recipe.model_copy(update={"methods": methods})))


def labels(recipe: Recipe) -> dict[str, list[str]]:
    """Return the labels of each method's trials: its own, then `label.1`, `label.2` and so on."""
    count = 0 if recipe.sweep is None else recipe.sweep.trials
    return {
        label: [label, *(f"{label}.{number}" for number in range(1, count))]
        for label, block in recipe.methods.items()
        if block.sweep
    }


def expanded(recipe: Recipe) -> Recipe:
    """Return the recipe of all trials: every label as it is written, and a label for each drawn setting."""
    sweep = recipe.sweep
    assert sweep is not None
    recipe = complete(recipe)
    plain = {"seeds": None, "sweep": {}}
    methods = {label: block.model_copy(update=plain) for label, block in recipe.methods.items()}
    for label, names in labels(recipe).items():
        block = recipe.methods[label]
        for name, config in zip(names, _settings(label, block, sweep.seed, len(names)), strict=True):
            methods[name] = block.model_copy(update={**plain, "config": config})
    metrics = [Named(name=sweep.metric.partition(".")[0])]
    judges = [tuning_judge(judge) for judge in recipe.evaluation.judges]
    changed = {"split": "validation", "metrics": metrics, "judges": judges, "margin": {}}
    evaluation = recipe.evaluation.model_copy(update=changed)
    return complete(
        recipe.model_copy(
            update={
                "methods": methods,
                "evaluation": evaluation,
                "seeds": [sweep.seed],
                "sweep": None,
            }
        )
    )


def _settings(label: str, block: MethodBlock, seed: int, count: int) -> list[dict[str, Any]]:
    """Return `count` different settings of one method, the one that is written first: equal trials for all."""
    found = [block.config]
    for drawn in islice(_draw(label, block, seed), DRAWS * count):
        if len(found) == count:
            break
        config = copy.deepcopy(block.config)
        for field, value in drawn.items():
            _set(config, field, value, label)
        if config not in found:
            found.append(config)
    if len(found) < count:
        raise RecipeError(
            f"methods.{label}.sweep: its values make {len(found)} different settings with the one that is written, "
            f"and sweep.trials is {count}: add values, or lower sweep.trials to {len(found)}"
        )
    return found


def _draw(label: str, block: MethodBlock, seed: int) -> Iterator[dict[str, Any]]:
    """Settings of one method without end: evenly spread, and the same for equal seed and label."""
    try:
        import optuna
    except ImportError as error:
        raise PluginError("tuning needs optuna", "pip install 'alignbench[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(seed=(seed + crc32(label.encode())) % 2**32, scramble=True)
    study = optuna.create_study(sampler=sampler)
    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for field, values in block.sweep.items():
        if not isinstance(values, Range):
            space[field] = optuna.distributions.CategoricalDistribution(values)
        elif isinstance(values.low, int) and isinstance(values.high, int):
            space[field] = optuna.distributions.IntDistribution(values.low, values.high, log=values.log)
        else:
            space[field] = optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
    study.ask(space)  # the sequence begins with a point that only serves to learn the space
    while True:
        yield study.ask(space).params


def _set(config: dict[str, Any], field: str, value: Any, label: str) -> None:
    *parts, last = field.split(".")
    for part in parts:
        config = config.get(part)  # pyright: ignore[reportAssignmentType]
        if not isinstance(config, dict):
            break
    if not isinstance(config, dict) or last not in config:
        raise RecipeError(
            f"methods.{label}.sweep.{field}: the method has no such field",
            "`alignbench methods NAME` lists its fields",
        )
    config[last] = value


def _best(found: results.Results, names: list[str], recipe: Recipe) -> str:
    assert recipe.sweep is not None
    metric = recipe.sweep.metric
    values = {
        name: measured.value
        for name in names
        if (label := found.label(name)) is not None
        and (measured := label.metrics.get(metric)) is not None
        and measured.value is not None
    }
    if not values:
        raise AlignbenchError(
            f"no trial of '{names[0]}' has a '{metric}' to be chosen by", "see the folder sweep"
        )
    worst_first = found.metrics[metric].higher_is_better is False
    return max(values, key=lambda name: -values[name] if worst_first else values[name])
