"""A part of a run: a session that sees a few rows and prompts, as long as all of them are."""

from __future__ import annotations

from collections.abc import Sequence as Many
from itertools import pairwise
from math import ceil
from statistics import fmean

from alignbench import store
from alignbench.api.config import TOTALS, Budget, Split
from alignbench.data.split import prompt_key
from alignbench.data.table import Table
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Evaluation
from alignbench.rows import Prompt, Row
from alignbench.worker.finished.answering import TUNING
from alignbench.worker.run.session import Session

LEAST = 2
"""Rows of a part of another split, or for judges, at least."""


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

    def __init__(self, table: Table, share: float, evaluation: Evaluation):
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
    """Return `count` rows in their order that are as long as all rows: of as many equal parts by length, a row of the
    mean length of each."""
    if count >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda place: (rows[place].length, place))
    ends = [round(number * len(rows) / count) for number in range(count + 1)]
    chosen = []
    for part in (ranked[begin:end] for begin, end in pairwise(ends)):
        mean = fmean(rows[place].length for place in part)
        chosen.append(min(part, key=lambda place: abs(rows[place].length - mean)))
    return [rows[place] for place in sorted(chosen)]


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
