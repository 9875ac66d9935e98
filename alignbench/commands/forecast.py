"""What a run will take: its data read once, the recipe run twice in small, and a line drawn through both."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from alignbench import layout, results, store
from alignbench.api.config import Budget
from alignbench.engine import resources
from alignbench.engine import run as engine
from alignbench.engine.executor import Executor, Progress
from alignbench.engine.plan import Cell, cells, parents, ranks
from alignbench.errors import AlignbenchError
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded, Recipe
from alignbench.worker.messages import Task

SIZES = (2, 6)
"""Batches of the two small runs: what does not grow with the rows, such as loading, falls out of two."""
HEADROOM = 1.2
"""How much more memory the whole is taken to need than the small runs: its longest rows are longer than theirs.
The quickstart needed 1.12 to 1.21 times as much."""
PROMPTS = 4
"""Evaluation prompts for each batch of a small run."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one cell of a label takes."""

    seconds: float
    """On a machine that has nothing else to do: time in which other programs had the core is not counted."""
    tokens: float
    """Positions with gradient plus positions generated, in training."""
    peak_memory_bytes: float
    """The larger of the two small runs', with HEADROOM for longer rows; 0 where nothing was trained."""
    failed: str = ""
    """Why a small run of it failed; the numbers are then those of what did run."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a whole run takes."""

    labels: Mapping[str, Estimate]
    prepare_seconds: float
    evaluate_seconds: float
    took_seconds: float
    """What finding out took."""
    model: results.Model = field(default_factory=results.Model)
    """What was found of the base when it was loaded."""

    def seconds(
        self, cells: Iterable[Cell], max_workers: int, like: Mapping[str, str] | None = None
    ) -> float:
        """Return the wall time of `cells`, `max_workers` side by side, with data and evaluation.

        A label that was not forecast takes as long as the one that `like` gives for it.
        """
        known = {cell: (like or {}).get(cell.label, cell.label) for cell in cells}
        each = {cell: self.labels[label].seconds for cell, label in known.items() if label in self.labels}
        return self.prepare_seconds + side_by_side(each, max_workers) + self.evaluate_seconds


def side_by_side(seconds: Mapping[Cell, float], max_workers: int) -> float:
    """Return how long cells take that start as the engine starts them, each once its parents are done."""
    needed = {cell: set(found) for cell, found in parents(tuple(seconds)).items()}
    rank, now = ranks({cell: list(found) for cell, found in needed.items()}, max_workers), 0.0
    waiting, running = sorted(seconds, key=rank.__getitem__), dict[Cell, float]()
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
    loaded: Loaded, only: Iterable[str] = (), watch: Callable[[Progress], None] = lambda progress: None
) -> Forecast:
    """Run a recipe, or `only` these labels and what they start from, twice in small; return what it would take.

    Nothing of the small runs is kept.
    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="alignbench-plan-") as place, _own_store(Path(place)):
        rows, read = _read(loaded, Path(place) / "data", watch)
        small = [_run(loaded, Path(place) / str(size), size, tuple(only), watch) for size in SIZES]
    recipe = loaded.recipe
    planned = dict.fromkeys(cell.label for cell in cells(resolve(recipe), only))
    budgets = {label: one.budget for label, one in resolve(recipe).labels.items()}
    labels = {label: _label(recipe, label, budgets, small, rows) for label in planned}
    prompts = recipe.evaluation.prompts
    evaluate = _line([(run.prompts, run.clock.spent(layout.EVALUATION)) for run in small], prompts)
    models = [run.found.model for run in small if run.found is not None]
    model = models[-1] if models else results.Model()
    return Forecast(labels, read, evaluate, time.monotonic() - began, model)


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


@dataclass(frozen=True)
class _Small:
    """One small run."""

    rows: int
    prompts: int
    found: results.Results | None
    clock: Clock
    recipe: Recipe
    fault: str = ""


def _run(
    loaded: Loaded, out: Path, size: int, only: tuple[str, ...], watch: Callable[[Progress], None]
) -> _Small:
    recipe, clock = shrunk(loaded.recipe, size), Clock()

    def follow(progress: Progress) -> None:
        clock.update(progress)
        watch(progress)

    fault = ""
    try:
        engine.run(replace(loaded, recipe=recipe), out=out, only=only, max_workers=1, watch=follow)
    except AlignbenchError as error:
        fault = str(error)
    kept = _kept(out) if (out / layout.DATA / layout.RECORD).is_file() else 0
    found = results.read(out) if (out / layout.RESULTS).is_file() else None
    return _Small(kept, recipe.evaluation.prompts, found, clock, recipe, fault)


def shrunk(recipe: Recipe, size: int) -> Recipe:
    """Return the recipe for about `size` batches of rows at its first seed.

    Each label has what the whole recipe leaves it, made smaller: of a budget for the whole chain, its own part.
    """
    own = resolve(recipe).labels
    batch, longest = recipe.training.batch, recipe.data.max_length

    def less(budget: Budget) -> Budget:
        if budget.epochs is not None:
            return budget
        bounds = {
            "steps": size,
            "rows": size * batch,
            "tokens": size * batch * longest // 4,
            "flops": (budget.flops or 0) * min(1.0, size / 100),
            "seconds": 2.0 * size,
        }
        unit = next(unit for unit in bounds if getattr(budget, unit) is not None)
        return budget.model_copy(update={unit: min(getattr(budget, unit), bounds[unit])})

    data = recipe.data
    limit = size * batch if data.limit is None else min(data.limit, size * batch)
    evaluation = recipe.evaluation
    prompts = min(evaluation.prompts, size * PROMPTS)
    tuning = max(2, round(evaluation.tuning_prompts * prompts / evaluation.prompts))
    methods = {
        label: block.model_copy(update={"budget": less(own[label].budget), "seeds": None, "sweep": {}})
        for label, block in recipe.methods.items()
    }
    return recipe.model_copy(
        update={
            "data": data.model_copy(update={"limit": limit, "allowed_drop": 1.0}),
            "methods": methods,
            "evaluation": evaluation.model_copy(update={"prompts": prompts, "tuning_prompts": tuning}),
            "seeds": recipe.seeds[:1],
            "sweep": None,
        }
    )


def _read(loaded: Loaded, out: Path, watch: Callable[[Progress], None]) -> tuple[int, float]:
    """Prepare all of the recipe's data; return the training rows it keeps, and how long it took."""
    out.mkdir()
    plan = resolve(loaded.recipe).model_dump_json()
    task = Task(
        "prepare",
        out,
        loaded.path.parent,
        plan,
        store.default_root(),
        out / layout.DATA_LOG,
        1,
        {"key": plan},
    )
    clock = Clock()

    def follow(progress: Progress) -> None:
        clock.update(progress)
        watch(progress)

    with Executor(resources.devices()) as executor:
        executor.run(layout.DATA, task, follow)
    return _kept(out), clock.spent("data")


def _kept(out: Path) -> int:
    record = json.loads((out / layout.DATA / layout.RECORD).read_text(encoding="utf-8"))
    return int(record["splits"]["train"]["kept"])


def _label(
    recipe: Recipe, label: str, budgets: Mapping[str, Budget], small: list[_Small], rows: int
) -> Estimate:
    budget = budgets.get(label, recipe.budget)
    times, tokens, memory, answers, why = [], [], 0.0, [], ""
    for run in small:
        cell = next((one for one in run.found.cells if one.label == label), None) if run.found else None
        if cell is None or cell.status != "done":
            why = why or (cell.reason or cell.status if cell is not None else run.fault or "it did not run")
            continue
        mine = run.recipe.methods.get(label)
        amount = _amount(run.recipe.budget if mine is None else mine.budget or run.recipe.budget, run.rows)
        name = layout.cell_name(label, cell.seed)
        answered = run.clock.answers(name)
        times.append((amount, run.clock.spent(name) - answered))
        answers.append((run.prompts, answered))
        tokens.append((amount, cell.cost.tokens or 0))
        memory = max(memory, cell.cost.peak_memory_bytes or 0.0)
    whole = _amount(budget, rows)
    seconds = _line(times, whole) + _line(answers, recipe.evaluation.prompts)
    return Estimate(seconds, _line(tokens, whole), HEADROOM * memory, why)


def _amount(budget: Budget, rows: int) -> float:
    """Return a budget in its own unit; one in epochs, in rows."""
    if budget.epochs is not None:
        return budget.epochs * rows
    return budget.amount


def _line(points: list[tuple[float, float]], at: float) -> float:
    """Return the line through two points at `at`, never falling; through one point and nought."""
    if not points:
        return 0.0
    (x, y), *more = points
    if not more or more[-1][0] <= x:
        return points[-1][1] * (at / points[-1][0] if points[-1][0] else 1.0)
    slope = max(0.0, (more[-1][1] - y) / (more[-1][0] - x))
    return more[-1][1] + slope * (at - more[-1][0])


@contextmanager
def _own_store(place: Path) -> Iterator[None]:
    """Keep what the small runs share apart: a stage found in the store would look free."""
    before = os.environ.get("ALIGNBENCH_HOME")
    os.environ["ALIGNBENCH_HOME"] = str(place / "store")
    try:
        yield
    finally:
        if before is None:
            del os.environ["ALIGNBENCH_HOME"]
        else:
            os.environ["ALIGNBENCH_HOME"] = before
