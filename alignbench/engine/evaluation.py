"""The evaluation's steps: judges read the answers of all finished cells, then one process compares the cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignbench import layout, plugins, store
from alignbench.api.launcher import Launcher
from alignbench.engine import keys
from alignbench.engine.cells import PlannedCell
from alignbench.engine.experiment import Experiment
from alignbench.engine.tasks import complete
from alignbench.label import thresholds

PART = 32
"""Prompts of a part that is judged by a task of its own, at least."""


def judge(
    experiment: Experiment, launcher: Launcher, done: Mapping[PlannedCell, str], measured: Mapping[str, str]
) -> list[str]:
    """Let judges that are not cheap read the answers of all finished cells, some prompts in each task.

    Returns the keys of the parts, whose number recipe and cells fix, never the launcher. `done`: content digests.
    """
    evaluation, out = experiment.plan.recipe.evaluation, experiment.out
    judges = [plugins.load("judges", one.name) for one in evaluation.judges]
    compares = any("comparisons" in plugins.load("metrics", one.name).needs for one in evaluation.metrics)
    parts = min(evaluation.prompts // PART, len(done))
    asked = (evaluation.chooses or compares) and not all(one.cheap or one.recorded for one in judges)
    if parts < 2 or not asked:
        return []
    whole = _evaluation_key(experiment, done)
    found = [store.digest({"judged": whole, "part": [place, parts]}) for place in range(parts)]
    common = {"cells": _named(done), "measured": dict(measured), "parts": parts}
    reads = [out / layout.DATA, *(layout.measurements_folder(out, one.label, one.seed) for one in done)]
    tasks = {}
    for place, key in enumerate(found):
        folder = layout.judging_folder(out, place)
        if store.manifest(folder, key=key) is None:
            what = {"folder": str(folder), "key": key, "part": place, **common}
            task = experiment.task("judge", folder / layout.LOG, reads=reads, **what)
            tasks[folder.relative_to(out).as_posix()] = task
    complete(launcher, tasks, experiment.watch)
    return found


def evaluate(
    experiment: Experiment,
    launcher: Launcher,
    done: Mapping[PlannedCell, str],
    measured: Mapping[str, str],
    judged: Sequence[str],
) -> None:
    """Compare all finished cells, in one process. `done`: their content digests; `measured`: the keys of what was
    measured of each, by name; `judged`: those of the parts of `judge`.
    """
    if not done:
        return
    key = _evaluation_key(experiment, done, _recorded(experiment))
    if store.manifest(experiment.out / layout.EVALUATION, key=key) is None:
        log, what = (
            experiment.out / layout.EVALUATION_LOG,
            {"measured": dict(measured), "judged": list(judged)},
        )
        task = experiment.task("evaluate", log, cells=_named(done), key=key, **what)
        complete(launcher, {layout.EVALUATION: task}, experiment.watch)


def _named(cells: Iterable[PlannedCell]) -> list[list[Any]]:
    return [[cell.label, cell.seed] for cell in cells]


def _evaluation_key(
    experiment: Experiment, done: Mapping[PlannedCell, str], people: Mapping[str, str] | None = None
) -> str:
    contents = {str(cell): content for cell, content in done.items()}
    return keys.evaluation_key(experiment.plan, contents, experiment.versions, people)


def _recorded(experiment: Experiment) -> dict[str, str]:
    """Return a digest of people's rankings and of their thresholds: the run's own, and those that judges name."""
    named = [
        one for one in experiment.plan.recipe.evaluation.judges if plugins.load("judges", one.name).recorded
    ]
    folders = {one.name: experiment.root / str(one.config["folder"]) for one in named}
    digests = {name: thresholds.digest(folder) for name, folder in folders.items()}
    digests[""] = thresholds.digest(experiment.out / layout.PEOPLE)
    return {name: digest for name, digest in digests.items() if digest}
