"""What a run will take: its data read once, the recipe run twice in small, and a line drawn through both."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from alignbench import engine, results, store
from alignbench.engine.executor import Executor
from alignbench.engine.plan import Cell
from alignbench.engine.prepare import FOLDER as DATA
from alignbench.engine.worker import Task
from alignbench.errors import AlignbenchError
from alignbench.method import Budget
from alignbench.recipe import BASE, Loaded, Recipe, canonical

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

    def seconds(self, cells: tuple[Cell, ...], lanes: int) -> float:
        """Return the wall time of `cells`, `lanes` side by side, with data and evaluation."""
        work = sum(self.labels[cell.label].seconds for cell in cells if cell.label in self.labels)
        return self.prepare_seconds + work / lanes + self.evaluate_seconds


def calibrate(loaded: Loaded, watch: Callable[[engine.News], None] = lambda news: None) -> Forecast:
    """Run a recipe twice in small and return what it would take in full. Nothing of it is kept."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="alignbench-plan-") as place, _own_store(Path(place)):
        rows, read = _read(loaded, Path(place) / "data", watch)
        small = [_run(loaded, Path(place) / str(size), size, watch) for size in SIZES]
    recipe = loaded.recipe
    labels = {label: _label(recipe, label, small, rows) for label in (BASE, *recipe.methods)}
    prompts = recipe.evaluation.prompts
    evaluate = _line([(run.prompts, run.clock.spent.get(engine.EVALUATION, 0.0)) for run in small], prompts)
    return Forecast(labels, read, evaluate, time.monotonic() - began)


@dataclass
class _Clock:
    """How long each task of a run took, and how much of that went by before it answered."""

    begun: dict[str, float] = field(default_factory=dict)
    answering: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)

    def hear(self, news: engine.News) -> None:
        now = time.monotonic()
        self.begun.setdefault(news.task, now)
        if news.event is not None and news.event.phase == "answering":
            self.answering.setdefault(news.task, now)
        if news.ended is not None:
            self.spent[news.task] = now - self.begun[news.task]

    def before_answers(self, cell: str) -> float:
        begun = self.begun.get(cell, 0.0)
        return self.answering.get(cell, begun + self.spent.get(cell, 0.0)) - begun


@dataclass(frozen=True)
class _Small:
    """One small run."""

    rows: int
    prompts: int
    found: results.Results | None
    clock: _Clock
    recipe: Recipe
    fault: str = ""


def _run(loaded: Loaded, out: Path, size: int, watch: Callable[[engine.News], None]) -> _Small:
    recipe, clock = shrunk(loaded.recipe, size), _Clock()

    def hear(news: engine.News) -> None:
        clock.hear(news)
        watch(news)

    fault = ""
    try:
        engine.run(replace(loaded, recipe=recipe), out=out, jobs=1, watch=hear)
    except AlignbenchError as error:
        fault = str(error)
    kept = _kept(out) if (out / DATA / "record.json").is_file() else 0
    found = results.read(out) if (out / results.FILE).is_file() else None
    return _Small(kept, recipe.evaluation.prompts, found, clock, recipe, fault)


def shrunk(recipe: Recipe, size: int) -> Recipe:
    """Return the recipe for about `size` batches of rows at its first seed."""
    batch, longest = recipe.training.batch, recipe.data.max_length

    def less(budget: Budget | None) -> Budget | None:
        if budget is None or budget.epochs is not None:
            return budget
        bounds = {
            "steps": size,
            "rows": size * batch,
            "tokens": size * batch * longest // 4,
            "seconds": 2.0 * size,
        }
        unit = next(unit for unit in bounds if getattr(budget, unit) is not None)
        return budget.model_copy(update={unit: min(getattr(budget, unit), bounds[unit])})

    data = recipe.data
    limit = size * batch if data.limit is None else min(data.limit, size * batch)
    prompts = min(recipe.evaluation.prompts, size * PROMPTS)
    methods = {
        label: block.model_copy(update={"budget": less(block.budget), "seeds": None})
        for label, block in recipe.methods.items()
    }
    return recipe.model_copy(
        update={
            "data": data.model_copy(update={"limit": limit, "allowed_drop": 1.0}),
            "budget": less(recipe.budget),
            "methods": methods,
            "evaluation": recipe.evaluation.model_copy(update={"prompts": prompts}),
            "seeds": recipe.seeds[:1],
        }
    )


def _read(loaded: Loaded, out: Path, watch: Callable[[engine.News], None]) -> tuple[int, float]:
    """Prepare all of the recipe's data; return the training rows it keeps, and how long it took."""
    began = time.monotonic()
    out.mkdir()
    said = canonical(loaded.recipe)
    task = Task(
        "prepare", out, loaded.path.parent, said, store.default_root(), out / "data.log", 1, {"key": said}
    )
    with Executor() as executor:
        engine.run_alone(executor, "data", task, watch)
    return _kept(out), time.monotonic() - began


def _kept(out: Path) -> int:
    record = json.loads((out / DATA / "record.json").read_text(encoding="utf-8"))
    return int(record["splits"]["train"]["kept"])


def _label(recipe: Recipe, label: str, small: list[_Small], rows: int) -> Estimate:
    block = recipe.methods.get(label)
    budget = recipe.budget if block is None or block.budget is None else block.budget
    times, tokens, memory, answers, why = [], [], 0.0, [], ""
    for run in small:
        cell = next((one for one in run.found.cells if one.label == label), None) if run.found else None
        if cell is None or cell.status != "done":
            why = why or (cell.reason or cell.status if cell is not None else run.fault or "it did not run")
            continue
        mine = run.recipe.methods.get(label)
        amount = _amount(run.recipe.budget if mine is None or mine.budget is None else mine.budget, run.rows)
        times.append((amount, run.clock.before_answers(f"{label}/seed-{cell.seed}")))
        tokens.append((amount, (cell.cost.train_tokens or 0) + (cell.cost.generated_tokens or 0)))
        memory = max(memory, cell.cost.peak_memory_bytes or 0.0)
        answers.append((cell.cost.answer_seconds or 0.0) * recipe.evaluation.samples_per_prompt)
    whole = _amount(budget, rows)
    answering = (answers[-1] if answers else 0.0) * recipe.evaluation.prompts
    return Estimate(_line(times, whole) + answering, _line(tokens, whole), HEADROOM * memory, why)


def _amount(budget: Budget, rows: int) -> float:
    """Return a budget in its own unit; one in epochs, in rows."""
    if budget.epochs is not None:
        return budget.epochs * rows
    units = ("rows", "steps", "tokens", "seconds")
    return float(next(value for unit in units if (value := getattr(budget, unit)) is not None))


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
