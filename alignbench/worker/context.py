"""`alignbench.api.method.Run` for one cell, or for one stage inside a cell."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, MutableMapping
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignbench import plugins, store
from alignbench.api.config import ALL, Budget, NamedJudge, NamedSource, Select, Split
from alignbench.api.method import Departure, GroupScores, Rows, ScoringGroup, Sequence
from alignbench.api.policy import Answer, Policy
from alignbench.data.table import TableRows
from alignbench.errors import PluginError, RecipeError
from alignbench.recipe.schema import BASE, COMPARISONS, AdapterStart, ModelStart, Relabelled, Start, Training
from alignbench.rows import Draw, Pair, Prompt, Ranking, Row, Text, View, derive
from alignbench.worker import feedback, learning_curve
from alignbench.worker.early_stopping import Selection
from alignbench.worker.isolation import isolated
from alignbench.worker.ledger import Cost
from alignbench.worker.messages import Event
from alignbench.worker.policy_io import load_method, save_policy
from alignbench.worker.resume import CHECKPOINTS, CheckpointScope, rows_digest
from alignbench.worker.trackers import Tracking

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Module
    from transformers import TrainerCallback

    from alignbench.api.config import Labelling, Revising
    from alignbench.api.judge import Judge
    from alignbench.models import Base, ModelPolicy
    from alignbench.training.reward_model import Batching, RewardModel
    from alignbench.training.trainer import Record
    from alignbench.worker.session import Session


COST = "cost.json"
"""What a shared artefact cost, beside it."""

TOLD = "told.json"
"""What a stage has to say beside its policy: judges, alarms, departures."""


@dataclass
class Alarm:
    """A sign of a sick training: where it was first seen, and how often."""

    step: int
    text: str
    count: int = 1

    def __str__(self) -> str:
        more = f" ({self.count} times)" if self.count > 1 else ""
        return f"step {self.step}: {self.text}{more}"


class CellContext:
    """`alignbench.api.method.Run` for one cell, or for one stage inside a cell."""

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
        making: CheckpointScope | None = None,
    ):
        self._session = session
        self._label = label
        self._method = method
        self._start = start
        self._rows = rows
        self._comparisons = comparisons
        self.curves = folder / "train.jsonl"
        self._checkpoint_scope = making or CheckpointScope(
            folder / CHECKPOINTS, session.task.what.get("key", "")
        )
        self._adapted: list[Any] = []
        self._logged = 0
        self._progress = 0.0
        self.tracking: Tracking | None = None
        self.every = session.task.every
        self.seed = seed
        self.folder = folder
        self.budget = budget or session.recipe.budget
        self.training: Training = Training(**{**session.recipe.training.model_dump(), **(training or {})})
        self.batch = self.training.batch
        self.cost = Cost()
        self.alarms: dict[str, Alarm] = {}
        self.judges: list[dict[str, Any]] = []
        """What is known of the judges that were trained on the way, each with its `name` and `quality`."""
        self.departures: list[Departure] = []
        self.seen: dict[str, set[str]] = {}
        """Row ids handed out, by split: the proof of what the method saw."""

    @property
    def start(self) -> Policy:
        return self._begin

    @cached_property
    def _begin(self) -> Policy:
        if isinstance(self._start, (str, AdapterStart, ModelStart)):
            return self._session.start(self._start, self.seed)
        return self._start

    def rows(self, view: type[View], split: Split = "train", *, draw: Draw = "one") -> Rows[View]:
        if draw != "one":
            self.depart("pairs drawn from a ranking", "one", draw)
        given, anew = self._rows, False
        if given is None and split == "train" and view is not Text:
            anew = self._comparisons is not None and view in COMPARISONS
            given = self._anew if anew else self._session.training_rows(view)
        rows = self._session.table.rows(view, split, seed=self.seed, draw=draw, given=given)
        if not anew:  # of those made anew, the prompts are what was seen of the table
            rows.on_read = self.seen.setdefault(split, set()).update
        return rows

    @cached_property
    def _anew(self) -> list[Row]:
        assert self._comparisons is not None
        return feedback.comparisons(self, self._comparisons)

    def draw(self, rows: Rows[View], step: int, size: int) -> list[View]:
        from alignbench.training.batches import stream

        return next(stream(rows, size, self._number("order"), None, skip=step))

    def adapt(self, start: Policy | None = None, *, name: str = "policy", dropout: bool = True) -> Policy:
        start = self.start if start is None else start
        if "adapter" not in start.can:
            raise PluginError(
                f"'{self._label}' cannot train from its start, which is a decoder and has no weights of its own",
                "let it start from the label below that decoder",
            )
        made = self._session.base.add_adapter(
            self._session._name(name), seed=self._number("init", name), like=_weights(start), dropout=dropout
        )
        self._adapted.append(made)
        return made

    def reference(self) -> Policy:
        return self.start

    def policy(self, label: str) -> Policy:
        return self._session.policy(label, self.seed)

    def model(self, id: str) -> Policy:
        self.depart("a second model", "", id)
        return self._session.model(id)

    @property
    def base(self) -> Base:
        """The shared base: with `start`, `root` and `store`, what a judge may read with."""
        return self._session.base

    @property
    def root(self) -> Path:
        return self._session.root

    @property
    def store(self) -> store.Store:
        return self._session.store

    def judge(self, named: NamedJudge) -> Judge:
        kind: type[Judge] = plugins.load("judges", named.name)
        if not kind.trains and named.name not in self._session.recipe.evaluation.allow:
            raise PluginError(
                f"the judge '{named.name}' is a yardstick and never enters training", "name another judge"
            )
        if not kind.trains:
            self.depart(f"trained on its yardstick, {named.name}")
        judge = kind(kind.Config(**named.config))
        judge.name = named.name
        judge.open(self)
        judge.record_cost = lambda **spent: self.cost.add(**spent)
        return judge

    def label(
        self, judge: Judge, how: Labelling, *, policy: Policy | None = None, part: slice = ALL
    ) -> list[Any]:
        return feedback.labels(self, judge, how, policy=policy, part=part)

    def revise(self, prompts: Many[Prompt], how: Revising) -> list[Any]:
        return feedback.revisions(self, prompts, how)

    def prompts(self, source: NamedSource, limit: int) -> list[Prompt]:
        from alignbench.recipe.named import open_source

        self.depart("prompts of its own", "", source.name)
        rows = open_source(source, self.root).rows("train", limit, self.seed)
        return [prompt for row in rows for prompt in derive(row, Prompt, seed=self.seed)]

    def stage(
        self,
        method: str,
        *,
        rows: Many[Row] | None = None,
        start: Policy | None = None,
        budget: Budget | None = None,
        **config: Any,
    ) -> Policy:
        made = load_method(method, config)
        said = made.config.model_dump(mode="json")
        found = plugins.find("methods", method)
        begin = self.start if start is None else start
        rows = None if rows is None else feedback.tokenised(self, rows)
        budget = self.budget if budget is None else budget
        curve = self._session.recipe.evaluation.curve
        anew = self._comparisons if rows is None else None

        def align(folder: Path) -> None:
            run = CellContext(
                self._session,
                label=f"{self._label}.{method}",
                seed=self.seed,
                method=method,
                start=begin,
                folder=folder,
                budget=budget,
                training=self.training.model_dump(),
                rows=rows,
                comparisons=self._comparisons,
                making=self._checkpoint_scope,
            )
            policy = made.align(run)
            save_policy(policy, folder / "policy", method=method, config=said, start=BASE)
            self.cost.add(**vars(run.cost))
            alarms = {name: vars(alarm) for name, alarm in run.alarms.items()}
            departures = [asdict(departure) for departure in run.departures]
            told = {"judges": run.judges, "alarms": alarms, "departures": departures}
            store.write_json(folder / TOLD, told)

        folder = self.shared(
            align,
            stage=method,
            config=said,
            plugin=[str(found), plugins.source_digest(found)],
            start=_content(begin),
            rows=None if rows is None else [_said(row) for row in rows],
            budget=budget.model_dump(),
            training=self.training.model_dump(),
            comparisons=anew and anew.model_dump(),
            **({"curve": curve.model_dump()} if curve is not None else {}),
        )
        self._hear(folder)
        return self._session.restore(folder / "policy", label=self._label, seed=self.seed)

    def _hear(self, folder: Path) -> None:
        """Make a stage's curves, alarms, departures and trained judges this cell's own."""
        told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        self.judges += told["judges"]
        self.alarms |= {name: Alarm(**alarm) for name, alarm in told["alarms"].items()}
        self.departures += [Departure(**one) for one in told["departures"]]
        learning_curve.add(self.folder, learning_curve.read(folder))
        curves = folder / "train.jsonl"
        before = self._logged
        for line in curves.read_text(encoding="utf-8").splitlines() if curves.exists() else ():
            said = json.loads(line)
            self.log(before + said.pop("step"), **said)

    def shared(self, make: Callable[[Path], None], **inputs: Any) -> Path:
        found = plugins.find("methods", self._method) if self._method else None
        key = store.digest(
            {
                **self._session.base_key(),
                "seed": self.seed,
                "source": plugins.source_digest(found) if found else "",
                "inputs": {name: _content(value) for name, value in inputs.items()},
            }
        )
        before = replace(self.cost)

        def counted(folder: Path) -> None:
            around, self._checkpoint_scope = (
                self._checkpoint_scope,
                CheckpointScope(self.store.root / CHECKPOINTS / key, key, self),
            )
            try:
                with isolated(int(key[:8], 16)):
                    make(folder)
            finally:
                self._checkpoint_scope = around
            store.write_json(folder / COST, self.cost.since(before))

        folder = self._session.store.make(key, counted, producer=self._method or "alignbench")
        shutil.rmtree(self.store.root / CHECKPOINTS / key, ignore_errors=True)
        # Charged in full to every cell that uses it, computed here or found in the store.
        self.cost = before
        self.cost.add(**json.loads((folder / COST).read_text(encoding="utf-8")))
        return folder

    def charge(self, answers: Many[Answer]) -> None:
        self.cost.add(
            train_seconds=sum(answer.seconds for answer in answers),
            generated_tokens=sum(answer.tokens for answer in answers),
            forward_passes=sum(answer.forwards for answer in answers),
        )

    def reference_logprobs(self, rows: Rows[Any]) -> Callable[[Many[Sequence]], Tensor]:
        from alignbench.training import reference

        epochs = self._epochs(len(rows))
        wanted = list(
            {seq: None for number in range(epochs) for row in rows.epoch(number) for seq in row.sequences()}
        )
        key = store.digest(
            {
                **self._session.base_key(),
                "start": _content(self.start),
                "sequences": hashlib.sha256(
                    repr([(s.prompt, s.response) for s in wanted]).encode()
                ).hexdigest(),
            }
        )
        self._session.emit(Event("scoring the reference"))
        folder = self._session.store.make(
            key, lambda folder: reference.compute(_weights(self.start), wanted, folder), producer="alignbench"
        )
        # Charged in full to every cell that uses it, found in the store or not.
        self.cost.add(forward_passes=len(wanted))
        return reference.lookup(folder, self._session.base.device)

    def train(
        self,
        policy: Policy,
        batches: Rows[Any] | Callable[[int], list[Any]],
        sequences: Callable[[list[Any]], Mapping[str, Any]],
        loss: Callable[..., Any],
        *,
        learning_rate: float,
        modules: Mapping[str, Module] | None = None,
        rates: Mapping[Any, float] | None = None,
        passes: int = 1,
        select: Select | None = None,
        state: MutableMapping[str, Any] | None = None,
        proxy: learning_curve.Proxy | None = None,
    ) -> None:
        budget = self.budget
        if callable(batches) and budget.epochs is not None:
            size = len(self._rows if self._rows is not None else self._session.training_rows(Prompt))
            budget = Budget(rows=max(1, round(budget.epochs * size)), scope=budget.scope)
        selection = None
        if select is not None:
            state = {} if state is None else state
            selection = Selection(self, policy, select, state)
        followed = None
        if (curve := self._session.recipe.evaluation.curve) is not None:
            state = {} if state is None else state
            followed = learning_curve.Looks(self, policy, curve, state, proxy)
            followed.look(0, 0.0)

        def look(step: int, progress: float) -> float:
            self._progress = progress
            if selection is not None:
                selection.look(step, progress)
            return 0.0 if followed is None else followed.look(step, progress)

        record = self._train(
            policy,
            batches,
            sequences,
            loss,
            learning_rate=learning_rate,
            budget=budget,
            folder=self.folder,
            curves=self.curves,
            moving=[policy for policy in self._adapted if policy.adapter is not None],
            modules=modules,
            rates=rates,
            passes=passes,
            state=state,
            log=lambda step, numbers: self.log(step, **numbers),
            look=look,
        )
        human = self._of_people and issubclass(self._session.table.view, (Pair, Ranking))
        if human and not callable(batches):
            self.cost.add(comparisons=record.rows)
        if selection is not None:
            selection.settle()
        if followed is not None:
            followed.settle()

    def _train(
        self,
        policy: Policy,
        batches: Any,
        *what: Any,
        curves: Path,
        **how: Any,
    ) -> Record:
        from alignbench.training.trainer import train

        said = {
            "rows": None if callable(batches) else rows_digest(batches),
            "budget": how["budget"].model_dump(),
            "training": self.training.model_dump(),
            "rates": [how["learning_rate"], *(how.get("rates") or {}).values()],
            "modules": sorted(how.get("modules") or {}),
        }
        record = train(
            policy,  # pyright: ignore[reportArgumentType]
            batches,  # pyright: ignore[reportArgumentType]
            *what,
            training=self.training,
            seed=self._number("order"),
            checkpoints=self._checkpoint_scope.checkpoints(self, curves, said),
            **how,
        )
        self.cost.add(
            train_seconds=record.seconds,
            train_tokens=record.tokens,
            generated_tokens=record.generated,
            forward_passes=record.forwards,
            peak_memory_bytes=record.peak_memory_bytes,
        )
        return record

    def score(self, groups: Mapping[str, ScoringGroup]) -> Mapping[str, GroupScores]:
        from alignbench.models.forward import score

        found = score(self.start, groups)  # pyright: ignore[reportArgumentType]
        self.cost.add(forward_passes=sum(len(group.items) for group in groups.values()))
        return found

    def reward_model(
        self,
        rows: Rows[Any] | None = None,
        *,
        learning_rate: float,
        head_rate: float | None = None,
        epochs: float = 1,
        batching: Batching = "per-prompt",
    ) -> RewardModel:
        from alignbench.training import reward_model as reward

        base, view = self._session.base, self.compared
        rows = self.rows(view) if rows is None else rows
        held_out = reward.usable(self._session.table.rows(view, "validation", seed=self.seed) or rows)
        start = self.start if "adapter" in self.start.can else base.policy()

        def make(folder: Path) -> None:
            kept = reward.usable(rows)
            if batching == "shuffled-pairs":
                kept = [pair for row in kept for pair in reward.split_pairs(row)]
            policy = self.adapt(start, name="reward", dropout=False)
            head = reward.new_head(base, self._number("init", "reward-head"))
            curves = folder / "train.jsonl"
            record = self._train(
                policy,
                TableRows(kept, type(kept[0]), seed=self.seed),
                reward.sequences_of(base, head),
                reward.ranking_loss,
                learning_rate=learning_rate,
                rates={head: 10 * learning_rate if head_rate is None else head_rate},
                modules={"head": head},
                budget=Budget(epochs=epochs),
                folder=folder,
                curves=curves,
                log=lambda step, said: _add_point(curves, step, said),
            )
            used = sum(len(reward.comparisons(row)) for row in kept) / len(kept)
            if self._of_people:
                self.cost.add(comparisons=round(used * record.rows))
            reward.finish(_weights(policy), head, held_out).save(folder)
            base.drop(policy)  # pyright: ignore[reportArgumentType]

        self._session.emit(Event("training the reward model"))
        folder = self.shared(
            make,
            what="reward-model",
            start=start,
            rows=store.digest([_said(row) for row in rows]),
            learning_rate=learning_rate,
            head_rate=head_rate,
            epochs=epochs,
            batching=batching,
            training=self.training.model_dump(),
        )
        made = reward.load(base, folder, self._session._name("reward"))
        self.judges.append({"name": "reward-model", "quality": dict(made.quality)})
        return made

    def own_reward_model(self, rows: Literal["train"] | tuple[float, float], **how: Any) -> RewardModel:
        return self.reward_model(**how) if rows == "train" else self._session.own_reward_model(rows, **how)

    @property
    def _of_people(self) -> bool:
        """Whether the comparisons are the file's, not ones that a judge made for this run."""
        return self._rows is None and self._comparisons is None

    @property
    def compared(self) -> type[Ranking | Pair]:
        """The richest view of the rows that says which of two answers is better."""
        rows = self._rows
        if rows is None:
            rows = self._session.table.kept("train") if self._comparisons is None else self._anew
        return Ranking if all(isinstance(row, Ranking) for row in rows) else Pair

    def observer(self) -> TrainerCallback:
        from alignbench.training.callback import observer

        return observer(self)

    def log(self, step: int, **numbers: float) -> None:
        _add_point(self.curves, step, numbers)
        self._logged = max(self._logged, step)
        if self.tracking is not None:
            self.tracking.log(step, numbers)
        self._session.emit(Event("training", step, _total(step, self._progress), numbers))

    def alarm(self, name: str, step: int, text: str) -> None:
        if name in self.alarms:
            self.alarms[name].count += 1
        else:
            self.alarms[name] = Alarm(step, text)
        self._session.emit(Event(f"alarm: {text}", step))

    def rng(self, stream: str) -> np.random.Generator:
        import numpy as np

        return np.random.Generator(np.random.Philox(self._number(stream)))

    def _epochs(self, rows: int) -> int:
        """Passes over `rows` rows that the budget can reach, where it says so."""
        budget = self.budget
        drawn = budget.rows or (budget.steps or 0) * self.training.batch or (budget.epochs or 0) * rows
        if not drawn:
            raise RecipeError(
                "a method that compares with its start needs a budget in epochs, rows or steps",
                "set budget.epochs, budget.rows or budget.steps",
            )
        return math.ceil(drawn / rows)

    def _number(self, *stream: str) -> int:
        """A whole number that depends on seed and stream only, so that every method draws the same."""
        return int(store.digest([self.seed, *stream])[:15], 16)

    def depart(self, what: str, shared: str = "", own: str = "") -> None:
        departure = Departure(what, shared, own)
        if departure not in self.departures:
            self.departures.append(departure)

    def vouch(self, judge: str, **quality: float) -> None:
        self.judges.append({"name": judge, "quality": quality})


def _total(step: int, progress: float) -> int | None:
    """Return the steps a training will take, if it goes on as it went so far; None before it has begun."""
    return max(step, round(step / progress)) if progress > 0 else None


def _add_point(curves: Path, step: int, numbers: Mapping[str, float]) -> None:
    line = json.dumps({"step": step, **{name: float(value) for name, value in numbers.items()}})
    with store.storage_errors(curves, needed=len(line) + 1), curves.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _content(value: Any) -> Any:
    """Return what a key says of a value: a policy is what its weights are."""
    from alignbench.api.judge import Judge
    from alignbench.models import ModelPolicy

    return value.fingerprint() if isinstance(value, ModelPolicy | Judge) else value


def _said(row: Row) -> Any:
    """All that a method can learn from a row: a relabelled row is another input."""
    return [getattr(row, one.name) for one in fields(row) if one.name != "extra"]


def _weights(policy: Policy) -> ModelPolicy:
    """The policy as what it is wherever it can train: weights on the shared base."""
    from alignbench.models import ModelPolicy

    assert isinstance(policy, ModelPolicy)
    return policy
