"""The engine: a recipe in, a comparison out.

This file reads like the experiment: prepare the rows once; for each seed and each label in start order,
align and answer in a process of its own; measure all the answers with the same yardsticks; write the record.
The parent process never imports torch.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from alignbench import store
from alignbench.engine import collect, environment, keys, plan, resources, tuning
from alignbench.engine.executor import Executor, has_cuda
from alignbench.engine.plan import Cell
from alignbench.errors import AlignbenchError, Exit, RecipeError, StorageError
from alignbench.hooks import Observers
from alignbench.label import journal
from alignbench.label.design import FOLDER as LABELS
from alignbench.recipe.schema import Loaded, Recipe, canonical
from alignbench.versions import versions
from alignbench.worker.messages import Event, Finished, Task
from alignbench.worker.prepare import FOLDER as DATA
from alignbench.worker.resume import CHECKPOINTS

EVALUATION = "evaluation"
"""The folder of all measurements."""

HEARTBEAT = 1800.0
"""Seconds without a sign of life after which a cell hangs: less than a download may take is too little."""

EVERY = 60.0
"""Seconds between two checkpoints of a training."""


@dataclass(frozen=True, slots=True)
class News:
    """What happens in a run, for whoever watches: a task's name, and what it says or how it ended."""

    task: str
    event: Event | None = None
    ended: Finished | None = None
    cells: int = 0
    """Cells of the whole run."""


@dataclass(slots=True)
class Fate:
    """How a cell ended."""

    status: str
    reason: str = ""
    content: str = ""
    """Content digest of a finished cell."""
    clock: float = 0.0
    """When it ended, as in Finished."""


def run(
    loaded: Loaded,
    *,
    out: Path,
    only: Iterable[str] = (),
    jobs: int | Literal["auto"] = "auto",
    heartbeat: float = HEARTBEAT,
    every: float = EVERY,
    allow_env_change: bool = False,
    train: bool = True,
    track: Iterable[str] = (),
    watch: Callable[[News], None] = lambda news: None,
    observers: Observers | None = None,
) -> Exit:
    """Run a recipe to its comparison in `out`; what is already finished there is not run again.

    A cell without a sign of life for `heartbeat` seconds (0: for ever) is stopped; a training leaves a
    checkpoint `every` so many seconds; `allow_env_change` goes on with what other libraries and plugins have
    made, and the record says so; without `train` no cell runs, and what is finished is measured again;
    `track` names trackers that hear each cell's numbers. Returns
    Exit.DONE, or Exit.FAILED where a cell failed. Raises AlignbenchError for what a user can fix. On a
    KeyboardInterrupt the cells finish their step and keep it.
    """
    only = tuple(only)
    if tuning.labels(loaded.recipe):
        how: dict[str, Any] = {"heartbeat": heartbeat, "every": every, "allow_env_change": allow_env_change}
        tune = partial(run, jobs=jobs, watch=watch, **how)
        loaded = tuning.tuned(loaded, out / tuning.FOLDER, tune)
    recipe = loaded.recipe
    observers = observers or Observers()
    started = time.time()
    threads = _threads(recipe.training.threads)
    lanes = _jobs(jobs, threads, recipe)
    cells = plan.cells(recipe, only)
    out.mkdir(parents=True, exist_ok=True)
    with store.alone(out):
        mixed = environment.settle(out, loaded, allow_env_change=allow_env_change)
        files = environment.files(recipe, loaded.path.parent)
        environment.write_origin(out, loaded.path.parent)
        left = [cell for cell in cells if train and not (cell.folder(out) / store.COMMIT).exists()]
        resources.check(recipe, left, out, loaded.path.parent, lanes)
        store.write_json(
            out / "plan.json", [{"label": c.label, "seed": c.seed, "after": c.parents} for c in cells]
        )
        trackers = list(track)
        observers.tell("alignbench_run_started", recipe=recipe, folder=out)

        def task(kind: str, log: Path, **what: Any) -> Task:
            width = threads if kind == "cell" else max(threads, _threads("auto", alone=True))
            root, home = loaded.path.parent, store.default_root()
            return Task(kind, out, root, canonical(recipe), home, log, width, what, every)

        with Executor() as executor:
            _prepare(executor, out, recipe, files, bool(mixed), task, watch)
            fates = _align(
                executor,
                out,
                recipe,
                files,
                bool(mixed),
                cells,
                lanes,
                heartbeat,
                task,
                watch,
                observers,
                trackers,
                train,
            )
            _evaluate(executor, out, recipe, fates, task, watch)
        results = collect.write(
            out, loaded, fates, started=started, threads=threads, command=command(), mixed=mixed
        )
        observers.tell("alignbench_run_finished", results=results, folder=out)
        return Exit.DONE if all(fate.status == "done" for fate in fates.values()) else Exit.FAILED


def _prepare(
    executor: Executor,
    out: Path,
    recipe: Recipe,
    files: Mapping[str, str],
    mixed: bool,
    task: Callable[..., Task],
    watch: Callable[[News], None],
) -> None:
    key = keys.table_identity(recipe, files=files, versions=versions())
    if _sealed(out / DATA, key, mixed) is None:
        run_alone(executor, "data", task("prepare", out / "data.log", key=key), watch)


def _align(
    executor: Executor,
    out: Path,
    recipe: Recipe,
    files: Mapping[str, str],
    mixed: bool,
    cells: tuple[Cell, ...],
    lanes: int,
    heartbeat: float,
    task: Callable[..., Task],
    watch: Callable[[News], None],
    observers: Observers,
    trackers: list[str],
    train: bool,
) -> dict[Cell, Fate]:
    """Run every cell whose parents are done, at most `lanes` at a time, until each has a fate."""
    data = (store.manifest(out / DATA) or {})["content"]
    waiting, running, fates = list(cells), {}, {}
    names = {str(cell): cell for cell in cells}

    def settle(cell: Cell, fate: Fate) -> None:
        fates[cell] = fate
        folder = cell.folder(out)
        folder.mkdir(parents=True, exist_ok=True)
        store.write_json(folder / "status.json", {"status": fate.status, "reason": fate.reason})
        watch(News(str(cell), ended=Finished(fate.status, fate.reason, clock=fate.clock), cells=len(cells)))
        observers.tell(
            "alignbench_cell_finished",
            label=cell.label,
            seed=cell.seed,
            status=fate.status,
            reason=fate.reason,
        )

    def heard(name: str, event: Event) -> None:
        watch(News(name, event=event, cells=len(cells)))
        if event.numbers:
            cell = names[name]
            observers.tell(
                "alignbench_step",
                label=cell.label,
                seed=cell.seed,
                step=event.done,
                numbers=dict(event.numbers),
            )

    while waiting or running:
        for cell in list(waiting):
            parents = [other for other in cells if other.seed == cell.seed and other.label in cell.parents]
            if any(parent in fates and fates[parent].status != "done" for parent in parents):
                lost = next(
                    parent for parent in parents if parent in fates and fates[parent].status != "done"
                )
                waiting.remove(cell)
                settle(cell, Fate("blocked", f"its start '{lost.label}' is {fates[lost].status}"))
            elif all(parent in fates for parent in parents):
                key = keys.identity(
                    recipe,
                    cell,
                    versions=versions(),
                    files=files,
                    data=data,
                    parents={parent.label: fates[parent].content for parent in parents},
                )
                folder = cell.folder(out)
                if (sealed := _sealed(folder, key, mixed)) is not None:
                    waiting.remove(cell)
                    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
                    settle(cell, Fate("done", content=sealed["content"]))
                elif not train:
                    waiting.remove(cell)
                    settle(cell, _before(folder))
                elif len(running) < lanes:
                    waiting.remove(cell)
                    running[str(cell)] = (cell, key)
                    folder.mkdir(parents=True, exist_ok=True)
                    observers.tell("alignbench_cell_started", label=cell.label, seed=cell.seed)
                    what = {"label": cell.label, "seed": cell.seed, "folder": str(folder), "key": key}
                    what["track"] = trackers
                    executor.start(str(cell), task("cell", folder / "log.txt", **what), heartbeat=heartbeat)
        if not running:
            continue
        for name, last in executor.hear(heard).items():
            cell, key = running.pop(name)
            if isinstance(last.error, StorageError):
                raise last.error  # no other cell could write either, and all would be for nothing
            sealed = store.manifest(cell.folder(out), key=key) if last.status == "done" else None
            if sealed is not None:
                settle(cell, Fate("done", content=sealed["content"], clock=last.clock))
            elif last.status == "done":
                settle(cell, Fate("failed", "it ended without a whole result", clock=last.clock))
            else:
                settle(cell, Fate(last.status, last.reason, clock=last.clock))
    # In the order of the plan: the record must not depend on which cell was done first.
    return {cell: fates[cell] for cell in cells}


def _before(folder: Path) -> Fate:
    """How an unfinished cell ended the last time, as `status.json` has it."""
    file = folder / "status.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    status = known.get("status", "cancelled")
    return Fate("failed" if status == "done" else status, known.get("reason") or "it was not run")


def _evaluate(
    executor: Executor,
    out: Path,
    recipe: Any,
    fates: Mapping[Cell, Fate],
    task: Callable[..., Task],
    watch: Callable[[News], None],
) -> None:
    done = {cell: fate.content for cell, fate in fates.items() if fate.status == "done"}
    if not done:
        return
    said = {str(cell): content for cell, content in done.items()}
    made_of = {"cells": said, "recipe": recipe.model_dump(mode="json"), "versions": versions()}
    if people := journal.digest(out / LABELS):
        made_of["people"] = people
    key = store.digest(made_of)
    if store.manifest(out / EVALUATION, key=key) is None:
        what = {"cells": [[cell.label, cell.seed] for cell in done], "key": key}
        run_alone(executor, EVALUATION, task("evaluate", out / "evaluation.log", **what), watch)


def _sealed(folder: Path, key: str, mixed: bool) -> dict[str, Any] | None:
    """Return the manifest of what was made of this very input: with `mixed`, in whatever environment."""
    found = store.manifest(folder, key=None if mixed else key)
    return found if found is not None and keys.same_inputs(found["key"], key) else None


def run_alone(executor: Executor, name: str, task: Task, watch: Callable[[News], None]) -> None:
    """Run one task that nothing can do without; its error is the run's error."""
    executor.start(name, task)
    while True:
        for last in executor.hear(lambda name, event: watch(News(name, event=event))).values():
            watch(News(name, ended=last))
            if last.error is not None:
                raise last.error
            if last.status != "done":
                raise AlignbenchError(f"{name}: {last.reason}", f"see {task.log}")
            return


def lanes(recipe: Recipe) -> int:
    """Return how many cells of a recipe run side by side on this machine, if nobody says otherwise."""
    return _jobs("auto", _threads(recipe.training.threads), recipe)


def standing(loaded: Loaded, out: Path, cells: Iterable[Cell]) -> dict[Cell, bool]:
    """Return whether each cell is finished in `out` already, so that a run of this recipe would keep it."""
    recipe, files = loaded.recipe, environment.files(loaded.recipe, loaded.path.parent)
    key = keys.table_identity(recipe, files=files, versions=versions())
    data = (store.manifest(out / DATA, key=key) or {}).get("content")
    contents: dict[Cell, str] = {}
    found: dict[Cell, bool] = {}
    for cell in cells:
        parents = {
            label: contents.get(
                next((c for c in contents if (c.label, c.seed) == (label, cell.seed)), cell), ""
            )
            for label in cell.parents
        }
        sealed = None
        if data is not None and all(parents.values()):
            key = keys.identity(recipe, cell, versions=versions(), files=files, data=data, parents=parents)
            sealed = store.manifest(cell.folder(out), key=key)
        if sealed is not None:
            contents[cell] = sealed["content"]
        found[cell] = sealed is not None
    return found


def _threads(asked: int | Literal["auto"], *, alone: bool = False) -> int:
    """CPU threads of a task. Fixed by recipe or machine, never by `--jobs`, which must not change a byte.

    Cells share the cores of a machine without a device two by two; what runs `alone` has them all.
    """
    if asked != "auto":
        return asked
    cores = len(os.sched_getaffinity(0))
    return cores if alone or has_cuda() else max(1, cores // 2)


def _jobs(asked: int | Literal["auto"], threads: int, recipe: Recipe) -> int:
    """Cells that run side by side. A budget of time means nothing where cells take it from each other."""
    budgets = (recipe.budget, *(block.budget for block in recipe.methods.values()))
    if any(budget is not None and budget.seconds for budget in budgets):
        if asked not in ("auto", 1):
            raise RecipeError(
                f"--jobs {asked}: a budget in seconds means nothing where cells share a machine",
                "use --jobs 1",
            )
        return 1
    if asked != "auto":
        return max(1, asked)
    return 1 if has_cuda() else max(1, len(os.sched_getaffinity(0)) // threads)


def command() -> str:
    """Return the command that runs, as a shell reads it; given again, it goes on with what is there."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
