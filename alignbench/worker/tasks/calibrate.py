"""What a run will take, measured on parts of it: labels and the evaluation on growing parts, in one process.

A part is a few rows and prompts that are as long as all of them are. What is measured goes to a file, a line for
each part, so that it outlives a process that is killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from collections.abc import Sequence as Many
from contextlib import suppress
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, store
from alignbench.api.config import Split
from alignbench.api.launcher import Event, Task
from alignbench.api.metric import Cell
from alignbench.api.policy import Answer, Policy
from alignbench.recipe.plan import LabelPlan
from alignbench.recipe.schema import BASE
from alignbench.rows import Prompt
from alignbench.worker.clock import busy_clock
from alignbench.worker.finished import samples
from alignbench.worker.finished.answering import TUNING, answer, requests, temperatures
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.policy_io import save_policy
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import evaluate, measure
from alignbench.worker.tasks.cell import align
from alignbench.worker.tasks.growing import (
    SECOND,
    SHARES,
    SMALLEST,
    OutOfTime,
    Series,
    SharedTime,
    limited,
)
from alignbench.worker.tasks.parts import PartSession, at_one_temperature

if TYPE_CHECKING:
    from alignbench.models import Base

SOME, TOGETHER = 4, 32
"""Prompts of the first part of a policy's answers, which bears what is done once, and of the second.

They are decoded together, and the more, the less time each takes: of 100 answers that took 35 s (SmolLM2), 16 foretold
by themselves 63, and 4 and 16 together 48.
"""

DECODED_FIXED = 0.7
"""Share of the time of SOME prompts' answers that is taken to be done once: so it was with 4 and 32 (SmolLM2)."""

SEARCHED, SEARCHED_FIXED = 2, 0.25
"""Prompts of the first part of a decoder's answers, which may take long for each, and the share of its time that is
taken to be done once. Of one that searches, two prompts took 27 s (SmolLM2), and 100 prompts 1,100 s."""

FEWEST, MORE = 2, 4
"""Prompts of the first part of the evaluation, and of the second."""

ROUNDS = (1 / 3, 1)
"""Shares of the time left, once there is a first part of everything, in which two larger parts are measured."""

UNTRAINED = 32
"""Rows that a label which trains nothing is taken to read before it answers, at most: a calibration does not grow."""

SHARE = 0.25
"""Share of what the whole will take that measuring its parts may take."""

AT_LEAST = 0.1
"""Share of its time that measuring may take however short the whole is."""


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Measure `what["labels"]`, then the evaluation if it `evaluates`, in `what["seconds"]` or 3 % of what is foretold.

    First a small part of everything. Then second parts, which tell what is done once from what each row takes, as far
    as the time goes; then larger ones in what is left, most of it where the whole will take longest. A short run gets
    less time.
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
    time = SharedTime(float(task.what["seconds"]), began, 2 * len(labels) + task.what["evaluates"])
    like: Label | None = None
    warmed: Label | None = None
    for name in labels:
        record.add(label=name, begun=True)
        one = Label(session, name, record, answers_measured=not task.what["evaluates"])
        if one.planned is not None and warmed is None:
            warmed = one
            one.warm_up(time)
        one.smallest(time, like)
        like = like or (one if one.answering is not None else None)
        record.add(label=name, done=True)
    if task.what["evaluates"]:
        Evaluation(session, record, task.what["planned"]).smallest(time)
    ends = min(time.ends(), began + max(SHARE * time.foretold(), AT_LEAST * time.seconds))
    time.separate(ends)
    if warmed is not None:
        warmed.record_once()
    for share in ROUNDS:
        until = busy_clock() + share * (ends - busy_clock())
        weights = [sqrt(one.foretold()) for one in time.series]
        for number, one in enumerate(time.series):
            one.grow((until - busy_clock()) * weights[number] / max(sum(weights[number:]), 1e-9))


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

    def __init__(self, session: Session, label: str, record: Lines, answers_measured: bool = False):
        """`answers_measured`: another process measures how the base with an adapter answers: that of the evaluation."""
        self.session, self.label, self.record, self.answers_measured = (
            session,
            label,
            record,
            answers_measured,
        )
        self.planned = session.plan.labels.get(label)
        self.seed = session.recipe.seeds[0] if self.planned is None else self.planned.seeds[0]
        self.folder = layout.cell_folder(session.run, label, self.seed)
        self.aligned: tuple[CellContext, Any] | None = None
        self.adapted = False
        """Whether its policy is the base with an adapter."""
        self.first: float | None = None
        """What its smallest part took before anything else was trained in this process."""
        self.aligning: Series | None = None
        self.made: frozenset[str] = frozenset()
        """The adapters that its last part has left on the base, by their names to peft: the more, the slower it is."""
        self.answering: Series | None = None
        """Its answers, where it is the base with an adapter. Such policies are equally fast, and after a few rows they
        answer as what they start from, so that one is measured for all."""

    def warm_up(self, time: SharedTime) -> None:
        """Take its smallest part once: the first training of a process tries paths and compiles products."""
        whole = self._whole()
        began = busy_clock()
        # What fails or takes too long does so again where it is measured.
        with suppress(Exception, OutOfTime), limited(max(0.0, time.ends() - began) / SHARES):
            self._train(min(SMALLEST, whole), whole)
            self.first = busy_clock() - began

    def smallest(self, time: SharedTime, like: Label | None) -> None:
        """Measure the smallest parts; `like` is an earlier label that answered for others."""
        rows = self._whole()
        self.session.emit(Event(f"calibrating {self.label}"))
        aligning = self.aligning = Series(rows, self._align, self._failed, SMALLEST, SECOND)
        time.begin(aligning)
        if self.aligned is None:
            time.skip(1)
        else:
            run, policy = self.aligned
            if not run.ledger.cost.train_tokens:
                aligning.most = min(rows, UNTRAINED)
            self.adapted = self.label != BASE and getattr(policy, "base", None) is self.session.base
            if self.adapted and self.answers_measured:
                time.skip(1)
                self.record.add(label=self.label, answers_like=None)
            elif self.adapted and like is not None:
                time.skip(1)
                self._answer_like(like, policy)
            else:
                prompts = self.session.recipe.evaluation.prompts
                searches = "adapter" not in policy.can
                parts = (SEARCHED, None, SEARCHED_FIXED) if searches else (SOME, TOGETHER, DECODED_FIXED)
                answering = Series(prompts, self._answer, self._failed, *parts)
                answering.times = sum(self._requests(policy)) / answering.whole
                time.begin(answering)
                self.answering = answering if self.adapted and answering.points else None
            if self.adapted and self.answering is None:  # its policy is not asked any more
                self.session.base.drop_all(self.made)
            self.session.emit(Event(f"calibrated {self.label}"))

    def record_once(self) -> None:
        """Record what the first training of this process took more than a later one of as many rows."""
        again = None if self.aligning is None else dict(self.aligning.points).get(SMALLEST)
        if self.first is not None and again is not None:
            self.record.add(once=max(0.0, self.first - again))

    def _failed(self, why: str) -> None:
        self.record.add(label=self.label, failed=why)

    def _whole(self) -> int:
        if self.planned is None:
            return 1
        return self._rows(self.planned, len(self.session.training_rows(Prompt)))

    def _rows(self, planned: LabelPlan, whole: int) -> int:
        """Return the rows that the whole draws for its budget; of a budget that counts work, those there are."""
        budget = planned.budget
        if budget.steps is not None:
            return max(1, int(budget.steps) * planned.training.batch)
        return max(1, int(budget.rows)) if budget.rows is not None else whole

    def _train(self, count: int, whole: int) -> tuple[CellContext, Policy]:
        """Align on a part. Later labels start from the policy; from the base, where there is none."""
        part, base = PartSession(self.session, count, count / whole), self.session.base
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        before, stale = base.adapters, frozenset[str]()
        try:
            found = align(part, self.label, self.seed, self.folder)
            stale, self.made = self.made, base.adapters - before
            return found
        finally:
            # What a part that failed has left is stale as well.
            base.drop_all(stale or base.adapters - before - self.made)
            stand_in(self.session, Cell(self.label, self.seed))

    def _align(self, count: int, whole: int) -> float:
        reset_peak()
        began = busy_clock()
        self.aligned = run, _ = self._train(count, whole)
        took = busy_clock() - began
        batch = 1 if self.planned is None else min(count, self.planned.training.batch)
        cost = run.ledger.cost
        self.record.add(
            label=self.label,
            aligned=count,
            whole=whole if cost.train_tokens else min(whole, UNTRAINED),
            seconds=took,
            tokens=cost.tokens,
            batch=batch,
            memory=peak(self.session.base),
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
            adapted=self.adapted,
            requests=self._requests(policy),
            seconds=took,
            fixed=DECODED_FIXED if "adapter" in policy.can else SEARCHED_FIXED,
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
    """The evaluation of all labels, on growing parts of the prompts and of the judges' rows.

    What is measured of one cell stands for all: it takes about as long for each, and the comparison reads it only.
    """

    def __init__(self, session: Session, record: Lines, labels: Many[str]):
        self.session, self.record, self.labels = session, record, labels

    def smallest(self, time: SharedTime) -> None:
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
        # An adapter's answers are read in every way that there is: rewards, comparisons and log-probabilities.
        for cell in cells:
            stand_in(self.session, cell)
        settings = next((of for cell, of in known.items() if cell.label != BASE), next(iter(known.values())))
        first, second = cells[-2:] if len(cells) > 1 else cells * 2

        def one(count: int, whole: int) -> float:
            before = self.session.base.adapters
            try:
                return measured(count, whole)
            finally:
                self.session.base.drop_all(self.session.base.adapters - before)

        def measured(count: int, whole: int) -> float:
            part = PartSession(self.session, count, count / whole)
            for number, cell in enumerate(cells):
                _write(part, layout.cell_folder(part.run, *cell), settings, number)
            shutil.rmtree(part.run / layout.EVALUATION, ignore_errors=True)
            (part.run / layout.EVALUATION).mkdir()
            began = busy_clock()
            measure.measure(part, first)  # the first opens the judges, which may have to be trained
            opened = busy_clock()
            found = measure.measure(part, second)
            read = busy_clock()
            evaluate.measure(part, cells, part.run / layout.EVALUATION, {cell: dict(found) for cell in cells})
            compared = busy_clock()
            self.record.add(
                evaluated=count,
                whole=whole,
                judges=max(0.0, (opened - began) - (read - opened)),
                measuring=read - opened,
                comparing=compared - read,
            )
            return compared - began

        series = Series(recipe.evaluation.prompts, one, lambda why: self.record.add(failed=why), FEWEST, MORE)
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


# --- memory -------------------------------------------------------------------------------------------------


def peak(base: Base) -> int:
    """Return the most bytes in use since `reset_peak`."""
    from alignbench.training.trainer import peak_memory

    return peak_memory(base.device)


def reset_peak() -> None:
    """Let the kernel forget the most memory that this process has used, where it can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
