"""The engine: a recipe in, a comparison out.

This file reads like the experiment: choose each method's settings on validation prompts; prepare the rows
once; align each label at each seed in a process of its own; measure each of them, in another one, with the same
judges and metrics; compare them; write the record. The parent process never imports torch.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

from alignbench import layout, store
from alignbench.api.launcher import Launcher
from alignbench.data.checks import learnt_from
from alignbench.data.table import open_table
from alignbench.engine import collect, evaluation, keys, resources, tuning
from alignbench.engine.cells import cells_of
from alignbench.engine.experiment import CHECKPOINT_EVERY, HEARTBEAT, Experiment, Progress, opened
from alignbench.engine.scheduler import Scheduler
from alignbench.engine.tasks import complete
from alignbench.errors import Exit
from alignbench.hooks import Observers
from alignbench.launchers.local import Local
from alignbench.models.weights import files as model_files
from alignbench.recipe.plan import Plan
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded


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
    if tuning.labels(loaded.recipe):
        alike = {"launcher": launcher, "heartbeat": heartbeat, "checkpoint_every": checkpoint_every}
        trials = partial(run, allow_env_change=allow_env_change, watch=watch, **alike)
        loaded, resolved = tuning.tuned(loaded, out / layout.SWEEP, trials), None
    plan, root = resolved or resolve(loaded.recipe), loaded.path.parent
    cells = cells_of(plan, only)
    limit = resources.limit(plan, launcher)
    # Where nothing is trained, the base itself may be gone.
    check_model = model_files.check if train else model_files.check_named
    check_model(plan, root)
    out.mkdir(parents=True, exist_ok=True)
    with store.alone(out):
        experiment = opened(
            loaded,
            plan,
            out,
            heartbeat=heartbeat,
            checkpoint_every=checkpoint_every,
            allow_env_change=allow_env_change,
            trackers=tuple(track),
            watch=watch,
            observers=observers or Observers(),
        )
        left = [cell for cell in cells if train and not (cell.folder(out) / store.COMMIT).exists()]
        resources.check_disk(plan, left, out, root, resources.max_workers(plan, launcher))
        experiment.observers.notify("alignbench_run_started", recipe=loaded.recipe, folder=out)
        with Local() as here:
            prepare(experiment, here, {cell.label for cell in left})
        with launcher:
            scheduler = Scheduler(experiment, launcher, cells, limit, train=train, measure=True)
            statuses = scheduler.run()
            done = {cell: one.content for cell, one in statuses.items() if one.status == "done"}
            judged = evaluation.judge(experiment, launcher, done, scheduler.measured)
            where = {"name": launcher.name, **launcher.record()}
        with Local() as here:
            evaluation.evaluate(experiment, here, done, scheduler.measured, judged)
        how = {"started": started, "command": command(), "registry": registry}
        found = collect.write(experiment, statuses, where, **how)
        experiment.observers.notify("alignbench_run_finished", results=found, folder=out)
        return Exit.DONE if all(one.status == "done" for one in statuses.values()) else Exit.FAILED


def prepare(experiment: Experiment, launcher: Launcher, labels: Collection[str]) -> None:
    """Prepare the rows: read, filtered, tokenised and split once, before any method runs.

    Raises AlignbenchError where they teach one of the labels that are to be trained nothing.
    """
    key = keys.table_key(experiment.plan, files=experiment.files, versions=experiment.versions)
    if experiment.sealed(experiment.out / layout.DATA, key) is None:
        task = experiment.task("prepare", experiment.out / layout.DATA_LOG, key=key)
        complete(launcher, {layout.DATA: task}, experiment.watch)
    read = partial(open_table(experiment.out / layout.DATA).kept, "train")
    learnt_from(read, experiment.plan, labels)


def command() -> str:
    """Return the command that runs, as a shell reads it; given again, it continues with what is there."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
