"""`alignbench.api.method.Run` for one cell, or for one stage inside a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.api.config import Split
from alignbench.api.method import GroupScores, Method, Rows, ScoringGroup
from alignbench.api.policy import Policy, TrainablePolicy
from alignbench.recipe.schema import BASE, COMPARISONS, Start
from alignbench.rows import Row, Text, View
from alignbench.worker.run import arguments, feedback, shared, stages, trainings
from alignbench.worker.run.cell_state import CellState
from alignbench.worker.run.isolation import isolated
from alignbench.worker.run.resume import rows_digest
from alignbench.worker.run.session import Session

if TYPE_CHECKING:
    from alignbench.training.checkpoint import Checkpoints


class CellContext(CellState):
    """`alignbench.api.method.Run` for one cell, or for one stage inside a cell.

    Trainings and stages have files of their own. What is not in that contract is for the rest of this package.
    """

    def rows(self, view: type[View], split: Split = "train", given: Many[Row] | None = None) -> Rows[View]:
        arguments.view(view)
        if given is not None:
            return self.session.table.rows(view, seed=self.seed, given=self.declared(given))
        rows = self.given
        if rows is None and split == "train" and view is not Text:
            relabel = self.comparisons is not None and view in COMPARISONS
            rows = self.relabelled if relabel else self.session.training_rows(view)
        return self.session.table.rows(view, split, seed=self.seed, given=rows)

    @cached_property
    def relabelled(self) -> list[Row]:
        """The comparisons that `data.source` asks for."""
        assert self.comparisons is not None
        return self.declared(feedback.comparisons(self, self.comparisons))

    train = trainings.train
    stage = stages.stage

    def borrow(self, policy: TrainablePolicy) -> AbstractContextManager[tuple[Any, Any]]:
        from alignbench.worker.run.borrow import borrowed

        if self.left <= 0:
            raise stages.nothing_left(self)
        return borrowed(self, policy)

    def checkpoints(self, rows: Rows[Any]) -> Checkpoints:
        """Return the checkpoints of the next training, which is another library's."""
        inputs = {
            "rows": rows_digest(rows),
            "budget": self.budget.model_dump(),
            "training": self.training.model_dump(),
        }
        every = self.session.task.every
        return self.scope.checkpoints(self.ledger, self.meter, self.curves, inputs, every=every)

    def trained(
        self,
        *,
        epochs: float,
        rows: float,
        steps: int,
        peak_memory_bytes: int = 0,
        learned: Many[Row] = (),
    ) -> None:
        """Take a training of another library off the budget; `learned`, rows of a view, entered its loss."""
        self.ledger.account.add(epochs=epochs, rows=rows, steps=steps)
        self.ledger.cost.add(peak_memory_bytes=peak_memory_bytes)
        if steps and not learned:
            self.record.departure("trained on rows that its trainer does not name")
        for who, comparison in self.origins.compared(learned):
            self.ledger.compared.setdefault(who, set()).add(comparison)
        for row in learned:
            origin, id = self.origins.of_row(row)
            self.ledger.learned.setdefault(origin, set()).add(id)

    def score(self, groups: Mapping[str, ScoringGroup]) -> Mapping[str, GroupScores]:
        from alignbench.models.forward.groups import score

        return score(self.start, groups)  # pyright: ignore[reportArgumentType]

    def shared(self, make: Callable[[Path], None], **inputs: Any) -> Path:
        return shared.shared(self, make, inputs)

    def align(self, method: Method) -> Policy:
        """Run the method, its random state apart, and charge what is computed meanwhile to this run."""
        with isolated(self.number("global")), self.meter.charging():
            return method.align(self)


def finished_policy(session: Session, label: str, seed: int) -> Policy:
    """Rebuild the policy of a finished cell."""
    return _at_base(session, seed).policy(label)


def outside_start(session: Session, start: Start, seed: int) -> Policy:
    """Return the frozen policy that a label starts from, where it lies outside the run."""
    return CellContext(session, label=BASE, seed=seed, method="", start=start, folder=session.run).start


def judge_reward_model(session: Session) -> Callable[..., Any]:
    """Return what trains the reward models that judge in the evaluation."""
    return _at_base(session, 0).held_out_reward_model


def _at_base(session: Session, seed: int) -> CellContext:
    return CellContext(session, label=BASE, seed=seed, method="", start=BASE, folder=session.run)
