"""The engine: a recipe in, a comparison out.

This file reads like the experiment: choose each method's settings on validation prompts; prepare the rows
once; align each label at each seed in a process of its own; measure each of them, in another one, with the same
judges and metrics; compare them; write the record. The parent process never imports torch.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignbench import layout, plugins, store
from alignbench.api.launcher import Finished, Launcher, Needs, Task
from alignbench.engine import collect, environment, keys, resources, tuning
from alignbench.engine.cells import Cell, cells_of
from alignbench.engine.experiment import CHECKPOINT_EVERY, HEARTBEAT, Experiment, Progress
from alignbench.engine.scheduler import Scheduler
from alignbench.errors import AlignbenchError, Exit
from alignbench.hooks import Observers
from alignbench.label import thresholds
from alignbench.launchers.local import Local
from alignbench.models.weights import files as model_files
from alignbench.recipe.plan import Plan
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded
from alignbench.versions import versions


def run(
    loaded: Loaded,
    *,
    out: Path,
    resolved: Plan | None = None,
    only: Iterable[str] = (),
    launcher: Launcher | None = None,
    heartbeat: float = HEARTBEAT,
    checkpoint_every: float = CHECKPOINT_EVERY,
    allow_env_change: bool = False,
    train: bool = True,
    track: Iterable[str] = (),
    registry: str = "",
    watch: Callable[[Progress], None] = lambda progress: None,
    observers: Observers | None = None,
) -> Exit:
    """Run a recipe to its comparison in `out`; what is already finished there is not run again.

    `resolved`: its plan, where it is known. `only`: labels to run, with those they need. `launcher`: where
    cells run; None: on this machine, as many at a time as it has room for. `heartbeat`: seconds without a
    heartbeat after which a cell is stopped (0: never). `checkpoint_every`: seconds. `allow_env_change` accepts
    what other libraries and plugins have made, and the record says so. `train`: without it no cell runs, and
    what is finished is measured again. `track`: trackers that get each cell's numbers. `registry`: digest of
    the registry of claims that the run belongs to. Returns Exit.DONE, or Exit.FAILED where a cell failed.
    Raises AlignbenchError for what a user can fix.
    On a KeyboardInterrupt the cells finish their step and keep it.
    """
    started, only, launcher = time.time(), tuple(only), launcher or Local()

    def tune(trials: Loaded, out: Path, only: tuple[str, ...]) -> None:
        run(
            trials,
            out=out,
            only=only,
            launcher=launcher,
            heartbeat=heartbeat,
            checkpoint_every=checkpoint_every,
            allow_env_change=allow_env_change,
            watch=watch,
        )

    if tuning.labels(loaded.recipe):
        loaded, resolved = tuning.tuned(loaded, out / layout.SWEEP, tune), None
    resolved, root = resolved or resolve(loaded.recipe), loaded.path.parent
    cells = cells_of(resolved, only)
    limit = resources.limit(resolved, launcher)
    if train:
        model_files.check(resolved, root)
    else:  # the base itself may be gone
        model_files.check_named(resolved, root)
    out.mkdir(parents=True, exist_ok=True)
    with store.alone(out):
        files = environment.files(resolved, root)
        compute = environment.compute(out, loaded.recipe.model, root)
        experiment = Experiment(
            plan=resolved.computing(compute),
            out=out,
            root=root,
            files=files,
            versions=versions(),
            mixed=environment.record(
                out, loaded, resolved, files, compute=compute, allow_env_change=allow_env_change
            ),
            threads=resources.threads(resolved),
            heartbeat=heartbeat,
            checkpoint_every=checkpoint_every,
            trackers=tuple(track),
            watch=watch,
            observers=observers or Observers(),
        )
        environment.write_origin(out, root)
        left = [cell for cell in cells if train and not (cell.folder(out) / store.COMMIT).exists()]
        resources.check_disk(resolved, left, out, root, resources.max_workers(resolved, launcher))
        store.write_text(out / layout.PLAN, experiment.plan.model_dump_json(indent=2) + "\n")
        experiment.observers.notify("alignbench_run_started", recipe=loaded.recipe, folder=out)
        with Local() as here:
            prepare(experiment, here)
        scheduler = Scheduler(experiment, launcher, cells, limit, train=train, measure=True)
        with launcher:
            statuses = scheduler.run()
            for name, last in scheduler.unmeasured.items():
                raise failure(name, last, out / name / layout.LOG)
            done = {cell: one.content for cell, one in statuses.items() if one.status == "done"}
            judged = judge(experiment, launcher, done, scheduler.measured)
            where = {"name": launcher.name, **launcher.record()}
        with Local() as here:
            evaluate(experiment, here, done, scheduler.measured, judged)
        found = collect.write(
            experiment, statuses, where, started=started, command=command(), registry=registry
        )
        experiment.observers.notify("alignbench_run_finished", results=found, folder=out)
        return Exit.DONE if all(one.status == "done" for one in statuses.values()) else Exit.FAILED


def prepare(experiment: Experiment, launcher: Launcher) -> None:
    """Prepare the rows: read, filtered, tokenised and split once, before any method runs."""
    key = keys.table_key(experiment.plan, files=experiment.files, versions=experiment.versions)
    if experiment.sealed(experiment.out / layout.DATA, key) is None:
        task = experiment.task("prepare", experiment.out / layout.DATA_LOG, key=key)
        complete(launcher, {layout.DATA: task}, experiment.watch)


PART = 32
"""Prompts of a part that is judged by a task of its own, at least."""


def judge(
    experiment: Experiment, launcher: Launcher, done: Mapping[Cell, str], measured: Mapping[str, str]
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
    done: Mapping[Cell, str],
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


def _named(cells: Iterable[Cell]) -> list[list[Any]]:
    return [[cell.label, cell.seed] for cell in cells]


def _evaluation_key(
    experiment: Experiment, done: Mapping[Cell, str], people: Mapping[str, str] | None = None
) -> str:
    contents = {str(cell): content for cell, content in done.items()}
    return keys.evaluation_key(experiment.plan, contents, experiment.versions, people)


def complete(launcher: Launcher, tasks: Mapping[str, Task], watch: Callable[[Progress], None]) -> None:
    """Run tasks to their ends, as many at a time as there is room for. Raises the error of the first that fails."""
    waiting, running = list(tasks), set[str]()
    while waiting or running:
        while waiting:
            needs = Needs(cpus=tasks[waiting[0]].threads)
            if running and (len(running) >= launcher.capacity(needs) or not launcher.fits(needs)):
                break
            running.add(name := waiting.pop(0))
            launcher.start(name, tasks[name], needs)
        for name, last in launcher.wait(lambda name, event: watch(Progress(name, event=event))).items():
            running.discard(name)
            watch(Progress(name, ended=last))
            if last.status != "done":
                raise failure(name, last, tasks[name].log)


def failure(name: str, last: Finished, log: Path) -> AlignbenchError:
    """Return the error of a task that failed."""
    return last.error or AlignbenchError(f"{name}: {last.reason}", f"see {log}")


def _recorded(experiment: Experiment) -> dict[str, str]:
    """Return a digest of people's rankings and of their thresholds: the run's own, and those that judges name."""
    named = [
        one for one in experiment.plan.recipe.evaluation.judges if plugins.load("judges", one.name).recorded
    ]
    folders = {one.name: experiment.root / str(one.config["folder"]) for one in named}
    digests = {name: thresholds.digest(folder) for name, folder in folders.items()}
    digests[""] = thresholds.digest(experiment.out / layout.PEOPLE)
    return {name: digest for name, digest in digests.items() if digest}


def command() -> str:
    """Return the command that runs, as a shell reads it; given again, it continues with what is there."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
