"""`alignbench.api.method.Run` for one cell, or for one stage inside a cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from collections.abc import Sequence as Many
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, plugins, store
from alignbench.api.config import Budget, NamedJudge, Select, Split
from alignbench.api.method import GroupScores, Rows, ScoringGroup, Sequence
from alignbench.api.policy import Policy, TrainablePolicy
from alignbench.errors import PluginError
from alignbench.recipe.schema import COMPARISONS, AdapterStart, ModelStart, Relabelled, Start, Training
from alignbench.rows import Prompt, Row, Text, View
from alignbench.worker import feedback, shared, stages, trainings
from alignbench.worker.isolation import isolated
from alignbench.worker.ledger import Ledger
from alignbench.worker.messages import Event
from alignbench.worker.metering import CellMeter
from alignbench.worker.model_access import ModelAccess
from alignbench.worker.resume import CheckpointScope
from alignbench.worker.row_origins import RowOrigins
from alignbench.worker.trackers import Tracking

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Module

    from alignbench.api.judge import Judge
    from alignbench.api.method import Method
    from alignbench.models import ModelPolicy
    from alignbench.worker.session import Session


class CellContext:
    """`alignbench.api.method.Run` for one cell, or for one stage inside a cell.

    What is not in that contract is for the rest of this package.
    """

    def __init__(
        self,
        session: Session,
        *,
        label: str,
        seed: int,
        method: str,
        start: Start | Policy,
        folder: Path,
        budget: Budget | None = None,
        training: Mapping[str, Any] | None = None,
        rows: Many[Row] | None = None,
        comparisons: Relabelled | None = None,
        scope: CheckpointScope | None = None,
        ledger: Ledger | None = None,
    ):
        self.session, self.label, self.method, self.seed, self.folder = session, label, method, seed, folder
        self.root = session.root
        self.budget = budget or session.recipe.budget
        self.training: Training = Training(**{**session.recipe.training.model_dump(), **(training or {})})
        self.batch = self.training.batch
        self.given, self.comparisons = rows, comparisons
        self.ledger = Ledger() if ledger is None else ledger
        self.ledger.emit = session.emit
        self.outer: list[Ledger] = []
        """The ledgers around that of an artefact in the making."""
        self.making: Path | None = None
        """The folder of that artefact."""
        self.curves = folder / layout.TRAINING_LOG
        self.scope = scope or CheckpointScope(folder / layout.CHECKPOINTS, session.task.what.get("key", ""))
        self.origins = RowOrigins(session.index)
        self.meter = CellMeter(self)
        self.tracking: Tracking | None = None
        self.adapted: list[ModelPolicy] = []
        self.logged = 0
        self.progress = 0.0
        self._start = start
        if rows is not None:
            self.origins.declare(rows)

    # --- what there is --------------------------------------------------------------------------------------

    @property
    def start(self) -> Policy:
        return self._opened

    @cached_property
    def _opened(self) -> Policy:
        if isinstance(self._start, (str, AdapterStart, ModelStart)):
            return self.session.start(self._start, self.seed)
        return self._start

    @property
    def left(self) -> float:
        return max(0.0, self.budget.amount - self.drawn(self.budget.unit))

    def drawn(self, unit: str) -> float:
        """Return what the cell has drawn so far in a unit of the budget."""
        return sum(getattr(one.account, unit) for one in (*self.outer, self.ledger))

    @property
    def record(self) -> Ledger:
        return self.ledger

    def rows(self, view: type[View], split: Split = "train", given: Many[Row] | None = None) -> Rows[View]:
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

    def declared(self, rows: Many[Row]) -> list[Row]:
        """Return rows that the method made, tokenised and dropped by length as the shared rows were."""
        from alignbench.data.tokens import ending, tokenise

        if not all(row.length for row in rows):
            tokenizer, longest = self.session.base.tokenizer, self.session.recipe.data.max_length
            found = tokenise(rows, tokenizer, ending(tokenizer))
            rows = [row for row in found if not isinstance(row, str) and row.length <= longest]
        self.origins.declare(rows)
        return list(rows)

    @property
    def size(self) -> int:
        """Training rows of an epoch."""
        return len(self.session.training_rows(Prompt) if self.given is None else self.given)

    def draw(self, rows: Rows[View], step: int, size: int) -> list[View]:
        from alignbench.training.batches import stream

        return next(stream(rows, size, self.number("order"), None, skip=step))

    def policy(self, label: str) -> Policy:
        return self.session.policy(label, self.seed)

    def adapt(
        self, start: Policy | None = None, *, name: str = "policy", dropout: bool = True
    ) -> TrainablePolicy:
        from alignbench.models import ModelPolicy

        start = self.start if start is None else start
        if not isinstance(start, ModelPolicy):
            raise PluginError(
                f"'{self.label}' cannot train from its start, which is a decoder and has no weights of its own",
                "let it start from the label below that decoder",
            )
        made = self.session.base.add_adapter(
            self.session.adapter_name(name), seed=self.number("init", name), like=start, dropout=dropout
        )
        self.adapted.append(made)
        return made

    def judge(self, named: NamedJudge) -> Judge:
        kind: type[Judge] = plugins.load("judges", named.name)
        if not kind.trains and named.name not in self.session.recipe.evaluation.allow:
            raise PluginError(
                f"the judge '{named.name}' is a yardstick and never enters training", "name another judge"
            )
        if not kind.trains:
            self.record.departure(f"trained on its yardstick, {named.name}")
        judge = kind(kind.Config(**named.config))
        judge.name = named.name
        judge.open(ModelAccess(self.session, lambda: self.start, self._own_reward_model))
        judge.meter = lambda **spent: self.ledger.cost.add(**spent)
        return judge

    def _own_reward_model(self, rows: Any, **how: Any) -> Any:
        from alignbench.rewards import reward_model

        if rows == "train":
            return reward_model(self, **how)
        return self.session.own_reward_model(rows, **how)

    # --- what can be done -----------------------------------------------------------------------------------

    def train(
        self,
        policy: Policy,
        batches: Rows[Any] | Callable[[int], list[Any]],
        sequences: Callable[[list[Any]], Mapping[str, Any]],
        loss: Callable[..., Any],
        *,
        learning_rate: float,
        modules: Mapping[str, Module] | None = None,
        learning_rates: Mapping[Any, float] | None = None,
        repeats: int = 1,
        select: Select | None = None,
        state: MutableMapping[str, Any] | None = None,
        proxy: Callable[[list[Sequence]], Tensor] | None = None,
        budget: Budget | None = None,
    ) -> None:
        trainings.train(
            self,
            policy,
            batches,
            sequences,
            loss,
            learning_rate=learning_rate,
            modules=modules,
            learning_rates=learning_rates,
            repeats=repeats,
            select=select,
            state=state,
            proxy=proxy,
            budget=budget,
        )

    def score(self, groups: Mapping[str, ScoringGroup]) -> Mapping[str, GroupScores]:
        from alignbench.models.forward import score

        return score(self.start, groups)  # pyright: ignore[reportArgumentType]

    def stage(
        self,
        method: str,
        *,
        rows: Many[Row] | None = None,
        start: Policy | None = None,
        budget: Budget | None = None,
        **config: Any,
    ) -> Policy:
        return stages.stage(self, method, rows=rows, start=start, budget=budget, config=config)

    def shared(self, make: Callable[[Path], None], **inputs: Any) -> Path:
        return shared.shared(self, make, inputs)

    def log(self, step: int, **numbers: float) -> None:
        add_point(self.curves, step, numbers)
        self.logged = max(self.logged, step)
        if self.tracking is not None:
            self.tracking.log(step, numbers)
        self.session.emit(Event("training", step, steps_expected(step, self.progress), numbers))

    def rng(self, stream: str) -> np.random.Generator:
        import numpy as np

        return np.random.Generator(np.random.Philox(self.number(stream)))

    def number(self, *stream: str) -> int:
        """A whole number that depends on seed and stream only, so that every method draws the same."""
        return store.stream_key(self.seed, *stream)

    def align(self, method: Method) -> Policy:
        """Run the method, its random state apart, and charge what is computed meanwhile to this run."""
        with isolated(self.number("global")), self.meter.charging():
            return method.align(self)


def steps_expected(step: int, progress: float) -> int | None:
    """Return the steps a training will take, if it goes on as it went so far; None before it has begun."""
    return max(step, round(step / progress)) if progress > 0 else None


def add_point(curves: Path, step: int, numbers: Mapping[str, float]) -> None:
    """Add a line to a file of curves."""
    line = json.dumps({"step": step, **{name: float(value) for name, value in numbers.items()}})
    with store.storage_errors(curves, needed=len(line) + 1), curves.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
