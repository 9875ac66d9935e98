"""What a run is made of: the cell it belongs to, its start, its rows, its ledger, and where it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Many
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignbench import layout, plugins, store
from alignbench.api.config import Budget, NamedJudge, Sampling, Training
from alignbench.api.launcher import Event
from alignbench.api.method import Rows, Run
from alignbench.api.policy import Policy, TrainablePolicy
from alignbench.errors import PluginError, RecipeError
from alignbench.recipe.configs import make
from alignbench.recipe.schema import BASE, AdapterStart, ModelStart, Relabelled, Start, texts
from alignbench.rows import Prompt, Row, View
from alignbench.worker.run import arguments
from alignbench.worker.run.ledger import Ledger
from alignbench.worker.run.metering import CellMeter, metered_judge, naming_answers, naming_prompts
from alignbench.worker.run.model_access import ModelAccess
from alignbench.worker.run.policy_io import load_method, read_policy
from alignbench.worker.run.resume import CheckpointScope
from alignbench.worker.run.row_origins import RowOrigins
from alignbench.worker.run.session import Session
from alignbench.worker.run.trackers import Tracking
from alignbench.worker.run.weights import Weights

if TYPE_CHECKING:
    import numpy as np

    from alignbench.api.judge import Judge
    from alignbench.api.reward import RewardModel
    from alignbench.models import ModelPolicy


class CellState:
    """The part of a run that trains and shares nothing; `alignbench.worker.run.context.CellContext` is the whole."""

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
        training: Training | None = None,
        rows: Many[Row] | None = None,
        comparisons: Relabelled | None = None,
        scope: CheckpointScope | None = None,
        ledger: Ledger | None = None,
    ):
        self.session, self.label, self.method, self.seed, self.folder = session, label, method, seed, folder
        self.root = session.root
        self.budget = budget or session.plan.budget
        self.training = session.plan.training if training is None else training
        self.batch = self.training.batch
        self.given, self.comparisons = rows, comparisons
        self.ledger = Ledger() if ledger is None else ledger
        self.ledger.emit = session.emit
        self.outer: list[Ledger] = []
        """The ledgers around that of an artefact that is being built."""
        self.building: Path | None = None
        """The folder of that artefact."""
        self.curves = folder / layout.TRAINING_LOG
        self.scope = scope or CheckpointScope(folder / layout.CHECKPOINTS, session.task.what.get("key", ""))
        self.origins = RowOrigins(session.index)
        self.meter = CellMeter(self.origins, lambda: self.ledger)
        self.tracking: Tracking | None = None
        self.adapted: list[ModelPolicy] = []
        self.weights = Weights()
        self.additional: list[Policy] = []
        """Policies that were trained outside the budget: none of them is the result."""
        self.logged = 0
        self.progress = 0.0
        self._start = start
        if rows is not None:
            self.origins.declare(rows)

    @property
    def left(self) -> float:
        return max(0.0, self.budget.amount - self.drawn(self.budget.unit))

    def drawn(self, unit: str) -> float:
        """Return what the cell has drawn so far in a unit of the budget."""
        if unit == "seconds":
            self.meter.read()
        return sum(one.spent(unit) for one in (*self.outer, self.ledger))

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        grid = self.session.recipe.evaluation.sampling
        return tuple(grid.at(temperature) for temperature in grid.temperature)

    @property
    def record(self) -> Ledger:
        return self.ledger

    # --- policies -------------------------------------------------------------------------------------------

    @property
    def start(self) -> Policy:
        return self._opened

    @cached_property
    def _opened(self) -> Policy:
        start = self._find_start()
        self.weights.give(start, "its start")
        return start

    def _find_start(self) -> Policy:
        start, session = self._start, self.session
        if isinstance(start, AdapterStart):
            local = session.root / start.adapter
            source = local if local.exists() else start.adapter
            return session.base.load_adapter(source, session.adapter_name("start"))
        if isinstance(start, ModelStart):
            return session.model(start.model)
        return self._finished(start) if isinstance(start, str) else start

    def policy(self, label: str) -> Policy:
        # Of the base only where a field names it: most who ask for it want to compare, and make nothing of it.
        own = self.session.plan.labels.get(self.label)
        if label != BASE or (own is not None and BASE in texts(own.config)):
            self.weights.sources[label] = None
        return self._finished(label)

    def _finished(self, label: str) -> Policy:
        if label == BASE:
            return self.session.base.policy()
        return self.restored(layout.cell_folder(self.session.run, label, self.seed) / layout.POLICY, label)

    def restored(self, folder: Path, label: str) -> Policy:
        """Rebuild the policy that `save_policy` wrote, in this or in another process."""
        kept = read_policy(folder)
        if kept.kind == "base":
            return self.session.base.policy()
        if kept.kind == "adapter":
            loaded = self.session.base.load_adapter(folder, self.session.adapter_name(label))
            self.weights.give(loaded, f"'{label}'")
            return loaded
        method = load_method(kept.method, kept.config)
        run = type(self)(
            self.session, label=label, seed=self.seed, method=kept.method, start=kept.start, folder=folder
        )
        policy = method.restore(folder, cast(Run, run))
        naming_answers(policy)
        self.weights.give_parts(run.weights, f"'{label}'")
        return policy

    def adapt(
        self, start: Policy | None = None, *, name: str = "policy", dropout: bool = True
    ) -> TrainablePolicy:
        from alignbench.models import ModelPolicy

        start = self.start if start is None else start
        if not isinstance(start, ModelPolicy):
            raise PluginError(
                f"'{self.label}' cannot train from its start, which is a decoder and has no weights of its own",
                "let it start from the label that the decoder starts from",
            )
        made = self.session.base.add_adapter(
            self.session.adapter_name(name), seed=self.number("init", name), like=start, dropout=dropout
        )
        self.adapted.append(made)
        self.weights.add(made)
        return made

    def judge(self, named: NamedJudge) -> Judge:
        arguments.judge(named)
        kind: type[Judge] = plugins.load("judges", named.name)
        if not kind.trains and named.name not in self.session.recipe.evaluation.allow:
            raise PluginError(
                f"the judge '{named.name}' is an evaluation judge and never enters training",
                "name another judge",
            )
        if not kind.trains:
            self.record.departure(f"trained on its evaluation judge, {named.name}")
        judge: Judge = make("judges", named.name, named.config)
        judge.name = named.name
        judge.open(ModelAccess(self.session, lambda: self.start, self._own_reward_model))
        naming_prompts(judge)
        metered_judge(judge, lambda: self.ledger)
        return judge

    def _own_reward_model(self, rows: Any, **how: Any) -> RewardModel:
        from alignbench.rewards import reward_model

        if rows == "train":
            return reward_model(cast(Run, self), **how)
        return self.held_out_reward_model(rows, **how)

    def held_out_reward_model(self, rows: Any, **how: Any) -> RewardModel:
        """Return the reward model that judges: trained, from the base, on the part of the rows that no method sees."""
        from alignbench.rewards import reward_model

        if rows == "train":
            raise RecipeError(
                "a reward model of the methods' own rows cannot evaluate", "set train_on: held-out for it"
            )
        session = self.session
        run = type(self)(session, label=BASE, seed=0, method="", start=BASE, folder=session.run)
        return reward_model(cast(Run, run), session.held_out_rows(rows), **how)

    # --- rows -----------------------------------------------------------------------------------------------

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

    # --- curves and random numbers --------------------------------------------------------------------------

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


def steps_expected(step: int, progress: float) -> int | None:
    """Return the steps a training will take, if it goes on as it went so far; None before it has begun."""
    return max(step, round(step / progress)) if progress > 0 else None


def add_point(curves: Path, step: int, numbers: Mapping[str, float]) -> None:
    """Add a line to a file of curves."""
    line = json.dumps({"step": step, **{name: float(value) for name, value in numbers.items()}})
    with store.storage_errors(curves, needed=len(line) + 1), curves.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
