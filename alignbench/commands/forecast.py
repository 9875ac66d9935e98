"""What a run will take: its data read once, parts of every label measured, and a line drawn through them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignbench import layout, results, store
from alignbench.api.launcher import Finished, Launcher, Needs, Task
from alignbench.engine import resources
from alignbench.engine.cells import PlannedCell, cells_of, parents_of, ranks
from alignbench.engine.experiment import Progress
from alignbench.engine.tasks import complete
from alignbench.errors import AlignbenchError
from alignbench.launchers.local import Local
from alignbench.models.weights import files as model_files
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import BASE, Loaded
from alignbench.worker.tasks.growing import FIXED, SECOND

SECONDS = 50.0
"""What measuring parts may take, reading the data and loading the base aside; or 3 % of what one seed takes."""
HEADROOM = 1.2
"""How much more memory the whole is taken to need than its parts: its longest rows are longer than theirs.
The quickstart needed 1.12 to 1.21 times as much."""
MORE_HEADROOM = 1.4
"""The same of parts of fewer rows than SECOND."""
CALIBRATION = "calibration"
"""The tasks that measure."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one cell of a label takes."""

    seconds: float
    """On a machine that has nothing else to do: time in which other programs had the core is not counted."""
    tokens: float
    """Positions with gradient plus positions generated, in training."""
    peak_memory_bytes: float
    """At the whole batch, with HEADROOM for longer rows."""
    failed: str = ""
    """Why a part of it failed; the numbers are then those of what was measured, or zero."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a whole run takes."""

    labels: Mapping[str, Estimate]
    prepare_seconds: float
    evaluate_seconds: float
    """Of the comparison of the cells of one seed, in one process, and of the training of judges, which is done once."""
    measure_seconds: float
    """Of one cell, in a process of its own."""
    took_seconds: float
    """What finding out took."""
    model: results.Model = field(default_factory=results.Model)
    """What was found of the base when it was loaded."""
    failed: str = ""
    """Why the evaluation could not be measured whole."""

    def seconds(
        self, cells: Iterable[PlannedCell], max_workers: int, like: Mapping[str, str] | None = None
    ) -> float:
        """Return the wall time of `cells`, `max_workers` side by side, with data and evaluation.

        A label that was not forecast takes as long as the one that `like` gives for it.
        """
        known = {cell: (like or {}).get(cell.label, cell.label) for cell in cells}
        each = {cell: self.labels[label].seconds for cell, label in known.items() if label in self.labels}
        measured = {measuring(cell): self.measure_seconds for cell in each}
        aligned = side_by_side({**each, **measured}, max_workers)
        return self.prepare_seconds + aligned + (self.evaluate_seconds if each else 0.0)


def measuring(cell: PlannedCell) -> PlannedCell:
    """Return the task that measures a cell, as a cell that starts from it."""
    return PlannedCell(f"{layout.MEASUREMENTS}/{cell.label}", cell.seed, (cell.label,))


def side_by_side(seconds: Mapping[PlannedCell, float], max_workers: int) -> float:
    """Return how long cells take that start as the engine starts them, each once its parents are done."""
    needed = {cell: set(found) for cell, found in parents_of(tuple(seconds)).items()}
    rank, now = ranks({cell: list(found) for cell, found in needed.items()}, max_workers), 0.0
    waiting, running = sorted(seconds, key=rank.__getitem__), dict[PlannedCell, float]()
    while waiting or running:
        ready = [cell for cell in waiting if not needed[cell]][: max_workers - len(running)]
        running |= {cell: now + seconds[cell] for cell in ready}
        waiting = [cell for cell in waiting if cell not in running]
        done = min(running, key=running.__getitem__)
        now = running.pop(done)
        for left in needed.values():
            left.discard(done)
    return now


def calibrate(
    loaded: Loaded,
    plan: Plan,
    only: Iterable[str] = (),
    watch: Callable[[Progress], None] = lambda progress: None,
    seconds: float = SECONDS,
) -> Forecast:
    """Measure parts of a recipe, whose plan is `plan`; return what all would take.

    `only`: these labels and what they start from.

    Nothing that is made on the way is kept. Measuring takes `seconds`, or 3 % of what it foretells of one seed where
    that is more; a first part that is at most 3 % of its whole may take three quarters of `seconds` in any case. A
    label that cannot be measured in its share of it says why, and the others are measured without it.
    """
    began = time.monotonic()
    model_files.check(plan, loaded.path.parent)
    planned = list(dict.fromkeys(cell.label for cell in cells_of(plan, only)))
    with TemporaryDirectory(prefix="alignbench-plan-") as place:
        folder = Path(place)
        with Local() as launcher:
            read = _read(launcher, loaded, plan, folder, watch)
            lines = _measure(launcher, loaded, plan, folder, planned, seconds, watch)
    load = next((line["loaded"] for line in lines if "loaded" in line), 0.0)
    once = max((line["once"] for line in lines if "once" in line), default=0.0)
    labels = {label: _label(plan, label, load, lines, 0.0 if label == BASE else once) for label in planned}
    evaluated = sorted((line for line in lines if "evaluated" in line), key=lambda line: line["evaluated"])

    def evaluation(name: str) -> float:
        points = [(line["evaluated"], line[name]) for line in evaluated]
        return _line(points, loaded.recipe.evaluation.prompts)

    measure = load + evaluation("measuring") if evaluated else 0.0
    evaluate = load + evaluation("judges") + evaluation("comparing") if evaluated else 0.0
    model = next((results.Model(**line["model"]) for line in lines if "model" in line), results.Model())
    failed = next((line["failed"] for line in lines if "failed" in line and "label" not in line), "")
    return Forecast(labels, read, evaluate, measure, time.monotonic() - began, model, failed)


@dataclass
class Clock:
    """How long each task of a run took, without the seconds in which other programs had its core."""

    begun: dict[str, float] = field(default_factory=dict)
    answering: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def update(self, progress: Progress) -> None:
        event, ended = progress.event, progress.ended
        if event is not None:
            self.begun.setdefault(progress.task, event.clock)
            if event.phase == "answering":
                self.answering.setdefault(progress.task, event.clock)
        if ended is not None and ended.clock:
            self.ended[progress.task] = ended.clock

    def spent(self, task: str) -> float:
        """Return the seconds of a task from its first message to its last."""
        return (
            self.ended.get(task, 0.0) - self.begun[task] if task in self.begun and task in self.ended else 0.0
        )

    def answers(self, cell: str) -> float:
        """Return the part of them in which a cell answered, and wrote its answers down."""
        return self.ended[cell] - self.answering[cell] if self.spent(cell) and cell in self.answering else 0.0


def _task(kind: str, loaded: Loaded, plan: Plan, run: Path, log: Path, **what: Any) -> Task:
    threads = resources.threads(plan)
    return Task(
        kind,
        run,
        loaded.path.parent,
        plan.model_dump_json(),
        store.default_root(),
        log,
        threads,
        what,
        every=1e9,
    )


def _read(
    launcher: Launcher, loaded: Loaded, plan: Plan, out: Path, watch: Callable[[Progress], None]
) -> float:
    """Prepare all of the recipe's data; return how long it took."""
    clock = Clock()

    def follow(progress: Progress) -> None:
        clock.update(progress)
        watch(progress)

    task = _task("prepare", loaded, plan, out, out / layout.DATA_LOG, key=plan.model_dump_json())
    complete(launcher, {layout.DATA: task}, follow)
    return clock.spent(layout.DATA)


@dataclass
class CalibratedLabels:
    """The labels that one process measures after the other, and the folder for what it makes."""

    labels: list[str]
    folder: Path
    evaluates: bool
    lost: list[dict[str, Any]] = field(default_factory=list)
    """Labels at which a process died, and why."""
    error: AlignbenchError | None = None
    """Why not even the base could be loaded."""
    asked: list[str] = field(default_factory=list)
    """What the last process was to measure."""
    read: int = 0
    """Lines that earlier processes have written."""

    def task(self, loaded: Loaded, plan: Plan, planned: list[str], labels: list[str], seconds: float) -> Task:
        """Return the task that measures `labels`, of those that are this part's; `planned` are those of all parts."""
        self.asked, self.read = labels, len(_lines(self.folder))
        what = {"labels": labels, "planned": planned, "seconds": seconds, "evaluates": self.evaluates}
        return _task("calibrate", loaded, plan, self.folder, self.folder / layout.LOG, **what)

    def after(self, ended: Finished) -> list[str] | None:
        """Return the labels that another process is to measure, none if only the evaluation; None: nothing is left."""
        if ended.status == "done":
            return None
        lines = _lines(self.folder)
        new = lines[self.read :]
        begun = next((str(line["label"]) for line in reversed(new) if line.get("begun")), "")
        died = begun and not any(line.get("done") and line["label"] == begun for line in new)
        evaluating = self.evaluates and not any("evaluated" in line for line in lines)
        if died:
            self.lost.append({"label": begun, "failed": ended.reason})
            left = self.asked[self.asked.index(begun) + 1 :]
            return left if left or evaluating else None
        if not begun and self.asked:  # not even the base could be loaded
            self.error = ended.error or AlignbenchError(f"{CALIBRATION}: {ended.reason}")
            self.lost += [{"label": label, "failed": ended.reason} for label in self.asked]
        if evaluating:
            self.lost.append({"failed": ended.reason})
        return None

    def lines(self) -> list[dict[str, Any]]:
        return [*_lines(self.folder), *self.lost]


def _measure(
    launcher: Launcher,
    loaded: Loaded,
    plan: Plan,
    out: Path,
    labels: list[str],
    seconds: float,
    watch: Callable[[Progress], None],
) -> list[dict[str, Any]]:
    """Return what child processes have measured, as many side by side as the run would have; where one dies, another
    goes on with the labels that are left. Raises where none could load the base."""
    shared = divided(plan, labels, max(1, resources.max_workers(plan, launcher)))
    parts: dict[str, CalibratedLabels] = {}
    for number, some in enumerate(shared):
        part = CalibratedLabels(some, out / f"{CALIBRATION}-{number}", number == len(shared) - 1)
        part.folder.mkdir()
        (part.folder / layout.DATA).symlink_to(out / layout.DATA, target_is_directory=True)
        name = CALIBRATION if len(shared) == 1 else f"{CALIBRATION} {number + 1}"
        parts[name] = part
        _start(launcher, name, part.task(loaded, plan, labels, part.labels, seconds))
    active = set(parts)
    while active:
        ended = launcher.wait(lambda name, event: watch(Progress(name, event=event)))
        for name, one in ended.items():
            watch(Progress(name, ended=one))
            if (left := parts[name].after(one)) is not None:
                _start(launcher, name, parts[name].task(loaded, plan, labels, left, seconds))
            else:
                active.discard(name)
    lines = [line for part in parts.values() for line in part.lines()]
    error = next((part.error for part in parts.values() if part.error), None)
    if error is not None and not any("loaded" in line for line in lines):
        raise error
    return lines


def divided(plan: Plan, labels: Sequence[str], most: int) -> list[list[str]]:
    """Return `labels` in at most so many parts of about equal size.

    The base stands for a start that another process measures, but for no other label that a label names.
    """
    together: list[list[str]] = []
    for label in labels:
        planned = plan.labels.get(label)
        named = set() if planned is None else {one for one in planned.parents if one != planned.start}
        joined = [some for some in together if named & set(some)]
        together = [some for some in together if some not in joined]
        together.append([*(one for some in joined for one in some), label])
    order = list(labels)
    found: list[list[str]] = [[] for _ in range(most)]
    for some in sorted(together, key=lambda some: order.index(some[0])):
        min(found, key=len).extend(some)
    return [sorted(some, key=order.index) for some in found if some]


def _start(launcher: Launcher, name: str, task: Task) -> None:
    launcher.start(name, task, Needs(cpus=task.threads))


def _lines(out: Path) -> list[dict[str, Any]]:
    file = out / layout.MEASURED
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a process that is killed may leave half a line
            found.append(json.loads(line))
    return found


def _label(
    plan: Plan, label: str, load: float, lines: Iterable[Mapping[str, Any]], once: float = 0.0
) -> Estimate:
    """Put a label's parts together; `once`: seconds of what the first training of a process does besides."""
    lines = list(lines)
    own = [line for line in lines if line.get("label") == label]
    aligned = sorted((line for line in own if "aligned" in line), key=lambda line: line["aligned"])
    answered = _answered(label, own, lines)
    failed = next((line["failed"] for line in own if "failed" in line), "")
    if not aligned or not answered:
        return Estimate(0.0, 0.0, 0.0, failed or "it was not measured")
    whole = aligned[-1]["whole"]
    training = plan.recipe.training if label == BASE else plan.labels[label].training
    batch = training.batch if training.micro_batch == "auto" else min(training.batch, training.micro_batch)
    seconds = _line([(line["aligned"], line["seconds"]) for line in aligned], whole)
    answering = [(line["answered"], line["seconds"]) for line in answered]
    seconds += sum(
        _line(answering, count, fixed=answered[-1].get("fixed", FIXED)) for count in answered[-1]["requests"]
    )
    large = [line for line in aligned if line["aligned"] >= SECOND]
    memory = _line([(line["batch"], line["memory"]) for line in large or aligned], batch, proportional=False)
    return Estimate(
        load + once + seconds,
        _line([(line["aligned"], line["tokens"]) for line in aligned], whole),
        max(
            (HEADROOM if large else MORE_HEADROOM) * memory, *(HEADROOM * line["memory"] for line in answered)
        ),
        failed,
    )


def _answered(
    label: str, own: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return what was measured of a label's answers, or of answers like them, the fewest first.

    Where another process was to measure an adapter's and could not, those of the base stand for it.
    """
    like = next((line["answers_like"] for line in own if "answers_like" in line), label)
    if like is None:
        measured = [line["label"] for line in lines if "answered" in line and line.get("adapted")]
        like = next(iter(measured), BASE)
    found = [line for line in lines if line.get("label") == like and "answered" in line]
    return sorted(found, key=lambda line: line["answered"])


def _line(
    points: list[tuple[float, float]], at: float, *, proportional: bool = True, fixed: float = FIXED
) -> float:
    """Return the line through the last two points at `at`; of one point, `fixed` is the share done once.

    Where the last took no longer than the one before it, what is done once hid what a row takes: it rises by a
    quarter of what a row of the last took.
    """
    (x, y) = points[-1]
    before = [point for point in points if point[0] < x]
    if not before:
        return y * (fixed + (1 - fixed) * at / x) if proportional else y
    slope = (y - before[-1][1]) / (x - before[-1][0])
    if slope <= 0:
        slope = y / x / 4 if proportional else 0.0
    return y + slope * (at - x)
