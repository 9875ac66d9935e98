"""What a run will take, measured on parts of it: labels and the evaluation on growing parts, in one process.

A part is a few rows and prompts that are as long as all of them are. What is measured goes to a file, a line for
each part, so that it outlives a process that is killed.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, store
from alignbench.api.config import TOTALS, Budget, Split
from alignbench.api.launcher import Event, Task
from alignbench.api.metric import Cell
from alignbench.api.policy import Answer, Policy
from alignbench.data.split import prompt_key
from alignbench.data.table import Table
from alignbench.recipe.plan import LabelPlan, Plan
from alignbench.recipe.schema import BASE
from alignbench.recipe.schema import Evaluation as Evaluated
from alignbench.rows import Prompt, Row
from alignbench.worker.clock import busy_clock
from alignbench.worker.finished import samples
from alignbench.worker.finished.answering import TUNING, answer, requests, temperatures
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.policy_io import save_policy
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import evaluate
from alignbench.worker.tasks.cell import align

if TYPE_CHECKING:
    from alignbench.models import Base

SMALLEST = 5
"""Rows or prompts of the first part: fewer would mostly measure what is done once."""

TOGETHER = 16
"""Prompts of the first part of a policy's answers: they are decoded together, and few take as long as one."""

FEWEST = 2
"""Prompts of the first part of what may take long for each, a decoder's answers and the evaluation."""

LEAST = 2
"""Rows of a part of another split, or for judges, at least."""

GROWTH = 3
"""How many times as large the next part is, where the first was too small."""

ROUNDS = (1 / 3, 1)
"""Shares of the time left, once there is a first part of everything, in which two larger parts are measured."""

FIXED = 0.5
"""Share of the time of a first part that is taken to be done once, to choose the size of the next."""

SHARES = 3
"""About how many fair shares of the time left a first part may take: most need less than one."""

PATIENCE = 0.75
"""Share of its time that measuring may take for a first part, where that is at most OF_A_LONG_RUN of its whole."""

MOST = 5
"""Times its time that measuring takes at most, however long the run is."""

UNTRAINED = 32
"""Rows that a label which trains nothing is taken to read before it answers, at most: a calibration does not grow."""

SHARE = 0.25
"""Share of what the whole will take that measuring its parts may take."""

AT_LEAST = 0.1
"""Share of its time that measuring may take however short the whole is."""

OF_A_LONG_RUN = 0.03
"""Share of what the whole will take that measuring may take although that is more than it was given."""

WORTH = 2
"""A further part is measured where it can be so many times as large as the last."""

Measure = Callable[[int, int], float]
"""Measures a part of a whole, and returns the seconds."""


class OutOfTime(BaseException):
    """A part took longer than it may. No Exception: nothing on the way is to handle it."""


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Measure `what["labels"]`, then the evaluation if it `evaluates`, in `what["seconds"]` or 3 % of what is foretold.

    First a small part of everything; then larger ones in what is left, most of it where the whole will take longest.
    A short run gets less time.
    """
    labels = task.what["labels"]
    session = Session(task, emit)
    record = Lines(task.run / layout.MEASURED)
    began = busy_clock()
    model = session.base.record()
    record.add(loaded=busy_clock() - began, model=model)
    for (
        label,
        planned,
    ) in session.plan.labels.items():  # others start from it, and another process measures it
        if label not in labels:
            cell = Cell(label, planned.seeds[0])
            stand_in(session, cell)
    began = busy_clock()
    time = Time(float(task.what["seconds"]), began, 2 * len(labels) + task.what["evaluates"])
    like: Label | None = None
    for name in labels:
        record.add(label=name, begun=True)
        one = Label(session, name, record)
        one.smallest(time, like)
        like = like or (one if one.answering is not None else None)
        record.add(label=name, done=True)
    if task.what["evaluates"]:
        Evaluation(session, record, task.what["planned"]).smallest(time)
    ends = min(time.ends(), began + max(SHARE * time.foretold(), AT_LEAST * time.seconds))
    for share in ROUNDS:
        until = busy_clock() + share * (ends - busy_clock())
        weights = [sqrt(one.foretold()) for one in time.series]
        for number, one in enumerate(time.series):
            one.grow((until - busy_clock()) * weights[number] / max(sum(weights[number:]), 1e-9))


class Time:
    """The time of a whole calibration, and what shares it."""

    def __init__(self, seconds: float, began: float, count: int):
        self.seconds, self.began, self.left = seconds, began, count
        self.series: list[Series] = []
        """What was measured so far."""

    def foretold(self) -> float:
        """Return what the whole of everything measured so far will take."""
        return sum(one.foretold() for one in self.series)

    def ends(self) -> float:
        """Return when all is to be measured; a long run has more time."""
        return self.began + min(max(self.seconds, OF_A_LONG_RUN * self.foretold()), MOST * self.seconds)

    def begin(self, one: Series) -> None:
        """Measure the first part of a series, in a few shares of what is left at most.

        A part of so long a run that it is worth its time may take longer while there is time, since the whole has more
        time then.
        """
        left = max(0.0, self.ends() - busy_clock())
        seconds = left * SHARES / (self.left + SHARES - 1)
        if left and one.smallest <= OF_A_LONG_RUN * one.times * one.whole:
            seconds = max(seconds, PATIENCE * self.seconds)
        one.begin(seconds)
        self.series.append(one)
        self.left -= 1

    def skip(self, count: int) -> None:
        """Leave the share of `count` series to the others."""
        self.left -= count


class Series:
    """Growing parts of a whole, and what they took."""

    def __init__(self, whole: int, work: Measure, failed: Callable[[str], None], smallest: int = SMALLEST):
        self.whole, self.work, self.failed = whole, work, failed
        self.smallest = min(smallest, whole)
        self.most = whole
        """The size from which nothing grows any more."""
        self.times = 1.0
        """How often the whole is done."""
        self.points: list[tuple[int, float]] = []

    def begin(self, seconds: float) -> None:
        """Measure a small part; where it fails, larger ones, until `seconds` are spent. The last may take as long."""
        ends, why, size = busy_clock() + seconds, "", self.smallest
        while not self.points:
            why = self._take(size, seconds)
            if size == self.whole or busy_clock() >= ends:
                break
            size = min(GROWTH * size, self.whole)
        if not self.points:
            self.failed(why)

    def grow(self, seconds: float) -> None:
        """Measure the largest part that `seconds` suffice for, if it says more than the last."""
        if not self.points or self.points[-1][0] >= self.most:
            return
        last, took = self.points[-1]
        slope = self._slope() * (1 if len(self.points) > 1 else 1 - FIXED)
        size = min(last + int(max(0.0, seconds - took) / max(slope, 1e-9)), self.most)
        if size >= min(WORTH * last, self.most):
            self._take(size, 2 * seconds)

    def at(self, size: int) -> float:
        """Return what a part is expected to take."""
        return self.points[-1][1] + self._slope() * (size - self.points[-1][0]) if self.points else 0.0

    def _slope(self) -> float:
        """What a row takes more: by the last two parts, and no less than a quarter of what one of the last took."""
        last, took = self.points[-1]
        if len(self.points) == 1:
            return took / last
        before, less = self.points[-2]
        return max(took / last / 4, (took - less) / (last - before))

    def foretold(self) -> float:
        """Return what the whole is expected to take, as often as it is done."""
        return self.times * self.at(self.most)

    def _take(self, size: int, seconds: float) -> str:
        """Measure one part; return why it failed."""
        began = busy_clock()
        try:
            with limited(seconds):
                self.points.append((size, self.work(size, self.whole)))
        except OutOfTime:
            return f"{size} of {self.whole} took longer than {busy_clock() - began:.0f} s"
        except Exception as error:
            return str(error) or type(error).__name__
        return ""


class Lines:
    """The file of what was measured."""

    def __init__(self, path: Path):
        self.path = path
        if path.exists():  # an earlier process may have been killed within a line
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, **record: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class Label:
    """One label at its first seed, on growing parts of its rows, then of the prompts."""

    def __init__(self, session: Session, label: str, record: Lines):
        self.session, self.label, self.record = session, label, record
        self.planned = session.plan.labels.get(label)
        self.seed = session.recipe.seeds[0] if self.planned is None else self.planned.seeds[0]
        self.folder = layout.cell_folder(session.run, label, self.seed)
        self.aligned: tuple[CellContext, Any] | None = None
        self.answering: Series | None = None
        """Its answers, where it is the base with an adapter. Such policies are equally fast, and after a few rows they
        answer as what they start from, so that one is measured for all."""

    def smallest(self, time: Time, like: Label | None) -> None:
        """Measure the smallest parts; `like` is an earlier label that answered for others.

        Later labels start from the policy; from the base, where there is none.
        """
        whole = len(self.session.training_rows(Prompt))
        rows = 1 if self.planned is None else self._rows(self.planned, whole)
        self.session.emit(Event(f"calibrating {self.label}"))
        aligning = Series(rows, self._align, self._failed)
        time.begin(aligning)
        if self.aligned is None:
            time.skip(1)
        else:
            run, policy = self.aligned
            if not run.ledger.cost.train_tokens:
                aligning.most = min(rows, UNTRAINED)
            adapted = self.label != BASE and getattr(policy, "base", None) is self.session.base
            if adapted and like is not None:
                time.skip(1)
                self._answer_like(like, policy)
            else:
                prompts = self.session.recipe.evaluation.prompts
                smallest = TOGETHER if "adapter" in policy.can else FEWEST
                answering = Series(prompts, self._answer, self._failed, smallest)
                answering.times = sum(self._requests(policy)) / answering.whole
                time.begin(answering)
                self.answering = answering if adapted and answering.points else None
            self.session.emit(Event(f"calibrated {self.label}"))
        stand_in(self.session, Cell(self.label, self.seed))

    def _failed(self, why: str) -> None:
        self.record.add(label=self.label, failed=why)

    def _rows(self, planned: LabelPlan, whole: int) -> int:
        """Return the rows that the whole draws for its budget; of a budget that counts work, those there are."""
        budget = planned.budget
        if budget.steps is not None:
            return max(1, int(budget.steps) * planned.training.batch)
        return max(1, int(budget.rows)) if budget.rows is not None else whole

    def _align(self, count: int, whole: int) -> float:
        part = PartSession(self.session, count, count / whole)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        reset_peak()
        began = busy_clock()
        try:
            run, policy = align(part, self.label, self.seed, self.folder)
        except BaseException:
            stand_in(self.session, Cell(self.label, self.seed))
            raise
        took = busy_clock() - began
        self.aligned = run, policy
        batch = 1 if self.planned is None else min(count, self.planned.training.batch)
        cost = run.ledger.cost
        self.record.add(
            label=self.label,
            aligned=count,
            whole=whole if cost.train_tokens else min(whole, UNTRAINED),
            seconds=took,
            tokens=cost.tokens,
            batch=batch,
            memory=peak(part.base),
        )
        return took

    def _answer(self, count: int, whole: int) -> float:
        assert self.aligned is not None
        run, policy = self.aligned
        part = PartSession(self.session, count, count / whole)
        part.plan = at_one_temperature(part.plan)
        reset_peak()
        began = busy_clock()
        answer(part, policy, run.start, self.label, self.seed, self.folder)
        took = busy_clock() - began
        self.record.add(
            label=self.label,
            answered=count,
            requests=self._requests(policy),
            seconds=took,
            memory=peak(self.session.base),
        )
        return took

    def _requests(self, policy: Policy) -> list[float]:
        """Return the prompts of each call of the whole, at as many samples of each as those of a part have."""
        evaluation = self.session.recipe.evaluation
        grid = temperatures(evaluation, policy)
        most = max(samples for *_, samples in requests(evaluation, grid))
        return [count * samples / most for _, _, count, samples in requests(evaluation, grid)]

    def _answer_like(self, other: Label, policy: Policy) -> None:
        assert other.answering is not None
        other.answering.times += sum(self._requests(policy)) / other.answering.whole
        self.record.add(label=self.label, answers_like=other.label)
        shutil.copy2(other.folder / layout.SAMPLES, self.folder / layout.SAMPLES)


def stand_in(session: Session, cell: Cell) -> None:
    """Save the base with an adapter that changes nothing as the policy of a cell that has none."""
    folder = layout.cell_folder(session.run, *cell)
    if not (folder / layout.POLICY / layout.POLICY_KIND).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # A seed of its own, so that nothing takes it for another label's policy.
        policy = session.base.add_adapter(
            f"stand-in {cell.label}", seed=store.stream_key(cell.seed, cell.label)
        )
        save_policy(policy, folder / layout.POLICY, method="", config={}, start=BASE)
        session.base.drop(policy)


class Evaluation:
    """The evaluation of all labels, on growing parts of the prompts and of the judges' rows."""

    def __init__(self, session: Session, record: Lines, labels: Many[str]):
        self.session, self.record, self.labels = session, record, labels

    def smallest(self, time: Time) -> None:
        """Measure a small part. A label of another process counts with a stand-in and the answers of a label here."""
        recipe = self.session.recipe
        planned = self.session.plan.labels
        cells = [
            Cell(one, planned[one].seeds[0] if one in planned else recipe.seeds[0]) for one in self.labels
        ]
        folders = {cell: layout.cell_folder(self.session.run, *cell) for cell in cells}
        known = {
            cell: samples.read(folder)
            for cell, folder in folders.items()
            if (folder / layout.SAMPLES).is_file()
        }
        if not known:
            self.record.add(failed="no label could be measured in the process that measures the evaluation")
            return
        self.session.emit(Event("calibrating the evaluation"))
        answered = {cell: known.get(cell, next(iter(known.values()))) for cell in cells}
        for cell in cells:
            stand_in(self.session, cell)

        def one(count: int, whole: int) -> float:
            part = PartSession(self.session, count, count / whole)
            for number, (cell, settings) in enumerate(answered.items()):
                _write(part, layout.cell_folder(part.run, *cell), settings, number)
            shutil.rmtree(part.run / layout.EVALUATION, ignore_errors=True)
            (part.run / layout.EVALUATION).mkdir()
            began = busy_clock()
            evaluate.measure(part, list(answered), part.run / layout.EVALUATION)
            took = busy_clock() - began
            self.record.add(evaluated=count, whole=whole, seconds=took)
            return took

        series = Series(recipe.evaluation.prompts, one, lambda why: self.record.add(failed=why), FEWEST)
        time.begin(series)


def _write(session: Session, folder: Path, settings: samples.Settings, turn: int) -> None:
    """Write the answers again, as those to the prompts of a part at all temperatures.

    What they say does not matter, but that they differ: of equal answers a judge reads one. Each is turned by `turn`
    words and tokens, and by more at each temperature.
    """
    evaluation = session.recipe.evaluation
    grid = [None] if None in settings else evaluation.sampling.temperature
    known = next(iter(settings.values()))

    def write(split: Split, count: int, many: int, name: str) -> None:
        prompts = session.table.prompts(split, count)
        answers = {
            temperature: [
                replace(
                    _turned(known[(at * many + number) % len(known)], turn * len(grid) + place),
                    prompt_id=prompt.id,
                    sample=number,
                )
                for at, prompt in enumerate(prompts)
                for number in range(many)
            ]
            for place, temperature in enumerate(grid)
        }
        samples.write(folder, answers, name)

    write(evaluation.split, evaluation.prompts, evaluation.samples_per_prompt, layout.SAMPLES)
    if len({split for _, split, *_ in requests(evaluation, grid)}) > 1:
        write(TUNING, evaluation.tuning_prompts, 1, layout.TUNING_SAMPLES)


def _turned(answer: Answer, by: int) -> Answer:
    words, ids = answer.text.split(" "), answer.ids
    at, place = by % max(1, len(words)), by % max(1, len(ids))
    return replace(answer, text=" ".join(words[at:] + words[:at]), ids=ids[place:] + ids[:place])


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside, once `seconds` of this process's own clock have passed."""
    began = busy_clock()

    def late(*_: object) -> None:
        left = seconds - (busy_clock() - began)
        if left <= 0:
            raise OutOfTime
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


# --- parts --------------------------------------------------------------------------------------------------


class PartSession(Session):
    """A session that sees `rows` training rows and `share` of everything else, on the base of another.

    What was made of another part is not found in its store.
    """

    def __init__(self, session: Session, rows: int, share: float):
        self.__dict__.update(session.__dict__)
        self.rows, self.share = rows, share
        self.plan = smaller(session.plan, rows, share)
        self.table = PartTable(session.table, share, self.plan.recipe.evaluation)
        self.store = store.Store(session.run / "store" / f"{rows}-{share:.6f}")

    def training_rows(self, view: type[Row]) -> Many[Row]:
        return spread(super().training_rows(view), self.rows)

    def held_out_rows(self, part: tuple[float, float]) -> list[Row]:
        found = super().held_out_rows(part)
        return spread(found, max(LEAST, ceil(self.share * len(found))))


class PartTable(Table):
    """A table of which each split has a part; the session takes the part of the training rows."""

    def __init__(self, table: Table, share: float, evaluation: Evaluated):
        self.__dict__.update(table.__dict__)
        self._table, self._share = table, share
        self._prompts = {evaluation.split: evaluation.prompts, TUNING: evaluation.tuning_prompts}
        self._parts: dict[str, list[Row]] = {}

    def kept(self, split: Split) -> list[Row]:
        rows = self._table.kept(split)
        if split == "train":
            return rows
        if split not in self._parts:
            # The first of each prompt, so that there are as many prompts as rows.
            first = {prompt_key(row.prompt): row for row in reversed(rows) if isinstance(row, Prompt)}
            count = max(self._prompts.get(split, 0), ceil(self._share * len(rows)), LEAST)
            self._parts[split] = spread(list(first.values()) or rows, count)
        return self._parts[split]


def spread(rows: Many[Row], count: int) -> list[Row]:
    """Return `count` rows in their order whose lengths are spread as those of all rows are."""
    if count >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda place: (rows[place].length, place))
    chosen = sorted(ranked[int((number + 0.5) * len(rows) / count)] for number in range(count))
    return [rows[place] for place in chosen]


def smaller(plan: Plan, rows: int, share: float) -> Plan:
    """Return the plan of a part: `rows` rows for every label, and `share` of the prompts."""
    evaluation = plan.recipe.evaluation
    fewer = evaluation.model_copy(
        update={
            "prompts": max(1, round(share * evaluation.prompts)),
            "tuning_prompts": max(1, round(share * evaluation.tuning_prompts)),
        }
    )
    labels = {
        label: one.model_copy(
            update={
                "budget": _less(one.budget, rows, share),
                "training": one.training.model_copy(update={"batch": min(one.training.batch, rows)}),
            }
        )
        for label, one in plan.labels.items()
    }
    training = plan.recipe.training
    recipe = plan.recipe.model_copy(
        update={
            "evaluation": fewer,
            "training": training.model_copy(update={"batch": min(training.batch, rows)}),
        }
    )
    return plan.model_copy(update={"recipe": recipe, "labels": labels})


def at_one_temperature(plan: Plan) -> Plan:
    """Return a plan that asks for answers at the highest temperature only: each takes about as long."""
    evaluation = plan.recipe.evaluation
    sampling = evaluation.sampling.model_copy(update={"temperature": [max(evaluation.sampling.temperature)]})
    recipe = plan.recipe.model_copy(
        update={"evaluation": evaluation.model_copy(update={"sampling": sampling})}
    )
    return plan.model_copy(update={"recipe": recipe})


def _less(budget: Budget, rows: int, share: float) -> Budget:
    if budget.unit in TOTALS:
        return budget.model_copy(update={budget.unit: share * budget.amount})
    if budget.rows is not None:
        return budget.model_copy(update={"rows": rows})
    if budget.steps is not None:
        return budget.model_copy(update={"steps": max(1, round(share * budget.steps))})
    return budget


# --- memory -------------------------------------------------------------------------------------------------


def peak(base: Base) -> int:
    """Return the most bytes in use since `reset_peak`."""
    from alignbench.training.trainer import peak_memory

    return peak_memory(base.device)


def reset_peak() -> None:
    """Let the kernel forget the most memory that this process has used, where it can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
