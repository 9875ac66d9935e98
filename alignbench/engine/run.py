"""The engine: a recipe in, a comparison out.

This file reads like the experiment: choose each method's settings on validation prompts; prepare the rows
once; align each label at each seed in a process of its own; measure each of them, in another one, with the same
judges and metrics; compare them; write the record. The parent process never imports torch.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from alignbench import layout, plugins, store
from alignbench.api.launcher import Finished, Launcher, Needs, Task
from alignbench.engine import collect, environment, keys, plan, resources, tuning
from alignbench.engine.experiment import CHECKPOINT_EVERY, HEARTBEAT, Experiment, Progress
from alignbench.engine.plan import Cell
from alignbench.engine.scheduler import CellStatus, Scheduler
from alignbench.errors import AlignbenchError, Exit
from alignbench.hooks import Observers
from alignbench.label import bars
from alignbench.launchers.local import Local
from alignbench.models import files as model_files
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded
from alignbench.versions import versions


def run(
    loaded: Loaded,
    *,
    out: Path,
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

    `only`: labels to run, with those they need. `launcher`: where cells run; None: on this machine, as many at a
    time as it has room for. `heartbeat`: seconds without a heartbeat after which a cell is stopped (0: never).
    `checkpoint_every`: seconds. `allow_env_change`
    accepts what other libraries and plugins have made, and the record says so. `train`: without it no cell
    runs, and what is finished is measured again. `track`: trackers that get
    each cell's numbers. `registry`: digest of the registry of claims that the run belongs to. Returns
    Exit.DONE, or Exit.FAILED where a cell failed. Raises AlignbenchError for what a user can fix.
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
        loaded = tuning.tuned(loaded, out / layout.SWEEP, tune)
    resolved, root = resolve(loaded.recipe), loaded.path.parent
    cells = plan.cells(resolved, only)
    limit = resources.limit(loaded.recipe, launcher)
    if train:
        model_files.check(resolved, root)
    else:  # the base itself may be gone
        model_files.check_named(resolved, root)
    out.mkdir(parents=True, exist_ok=True)
    with store.alone(out):
        files = environment.files(loaded.recipe, root)
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
            threads=resources.threads(loaded.recipe),
            heartbeat=heartbeat,
            checkpoint_every=checkpoint_every,
            trackers=tuple(track),
            watch=watch,
            observers=observers or Observers(),
        )
        environment.write_origin(out, root)
        left = [cell for cell in cells if train and not (cell.folder(out) / store.COMMIT).exists()]
        resources.check_disk(loaded.recipe, left, out, root, resources.max_workers(loaded.recipe, launcher))
        store.write_json(
            out / layout.PLAN, [{"label": c.label, "seed": c.seed, "after": c.parents} for c in cells]
        )
        experiment.observers.notify("alignbench_run_started", recipe=loaded.recipe, folder=out)
        with Local() as here:
            prepare(experiment, here)
        scheduler = Scheduler(experiment, launcher, cells, limit, train=train, measure=True)
        with launcher:
            statuses = scheduler.run()
            where = {"name": launcher.name, **launcher.record()}
        for name, last in scheduler.unmeasured.items():
            raise failure(name, last, out / name / layout.LOG)
        with Local() as here:
            evaluate(experiment, here, statuses, scheduler.measured)
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
        complete(launcher, layout.DATA, task, experiment.watch)


def evaluate(
    experiment: Experiment,
    launcher: Launcher,
    statuses: Mapping[Cell, CellStatus],
    measured: Mapping[str, str],
) -> None:
    """Compare all finished cells, in one process; `measured`: the keys of what was measured of each, by name."""
    done = {cell: one.content for cell, one in statuses.items() if one.status == "done"}
    if not done:
        return
    contents = {str(cell): content for cell, content in done.items()}
    key = keys.evaluation_key(experiment.plan, contents, experiment.versions, _recorded(experiment))
    if store.manifest(experiment.out / layout.EVALUATION, key=key) is None:
        cells = [[cell.label, cell.seed] for cell in done]
        log = experiment.out / layout.EVALUATION_LOG
        task = experiment.task("evaluate", log, cells=cells, key=key, measured=dict(measured))
        complete(launcher, layout.EVALUATION, task, experiment.watch)


def complete(launcher: Launcher, name: str, task: Task, watch: Callable[[Progress], None]) -> None:
    """Run one task to its end. Raises its error, or AlignbenchError where it failed without one."""
    launcher.start(name, task, Needs(cpus=task.threads))
    ended: dict[str, Finished] = {}
    while not ended:
        ended = launcher.wait(lambda name, event: watch(Progress(name, event=event)))
    last = ended[name]
    watch(Progress(name, ended=last))
    if last.status != "done":
        raise failure(name, last, task.log)


def failure(name: str, last: Finished, log: Path) -> AlignbenchError:
    """Return the error of a task that failed."""
    return last.error or AlignbenchError(f"{name}: {last.reason}", f"see {log}")


def _recorded(experiment: Experiment) -> dict[str, str]:
    """Return a digest of people's rankings, and of the bars for raters: the run's own, and those that judges name."""
    named = [
        one for one in experiment.plan.recipe.evaluation.judges if plugins.load("judges", one.name).recorded
    ]
    folders = {one.name: experiment.root / str(one.config["folder"]) for one in named}
    digests = {name: bars.digest(folder) for name, folder in folders.items()}
    digests[""] = bars.digest(experiment.out / layout.PEOPLE)
    return {name: digest for name, digest in digests.items() if digest}


def command() -> str:
    """Return the command that runs, as a shell reads it; given again, it continues with what is there."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
