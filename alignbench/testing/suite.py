"""The laws every method keeps, each as one test on the embedded sandbox, in 4-bit, through the engine."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from alignbench import layout, plugins, store
from alignbench.api.config import API, TOTALS, Budget, Sampling
from alignbench.api.method import Method
from alignbench.api.policy import Answer, Policy, Setting
from alignbench.errors import PluginError
from alignbench.models import ModelPolicy, meter
from alignbench.models.meter import Work
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import AdapterStart
from alignbench.rows import Prompt, Row
from alignbench.testing.sessions import open_session
from alignbench.testing.writes import watching_writes
from alignbench.training.checkpoint import Checkpoints
from alignbench.training.step import GradientStep
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.ledger import Cost
from alignbench.worker.run.metering import CellMeter
from alignbench.worker.run.row_origins import MADE
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell as cells
from alignbench.worker.tasks.cell import OVER

STEPS, BATCH, ROWS, PROMPTS, SEED = 2, 8, 64, 6, 0
ROWS_DRAWN = 12
FLOPS_OF_A_TOKEN = 5e6
"""FLOPs of a position of the sandbox's model: 4e6 without its gradient, 8e6 with it."""
CALL = 0.02
"""Seconds that each call of a network takes by the clock of the laws, its FLOPs apart."""
TICK = 1e-4
"""Seconds by which that clock goes on whenever it is read: what is left is less a moment later."""
SPEED = 1e9
"""FLOPs that it computes in a second by that clock."""
A_STEP = 0.2
"""Share of that budget that a step costs at most, with the answers, scores and labels it needs."""
START = 0.02
"""Standard deviation of the weights of a start other than the base: what two steps move is little compared with it."""
ROUNDING = 0.01
"""How far the tokens that answers name may fall below what was counted."""
SHARED = 4
"""How many candidates of one answer a position may belong to, on average."""
FAIR = ("train", MADE)
"""Origins of the rows that a method may learn from."""


class MethodSuite:
    """Subclass it, name the method, and pytest does the rest. The method must be installed."""

    method: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}
    """Fields to set; a method should keep the laws with none."""
    labels: ClassVar[Mapping[str, Any]] = {}
    """Labels that the fields name, each as in a recipe: they are made first."""
    tokens: ClassVar[int] = 10_000
    """A budget in tokens with room for what a method measures before it trains."""

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, tmp_path_factory: pytest.TempPathFactory) -> Session:
        """A real session: the sandbox in NF4, its rows prepared, an empty store of its own."""
        session = open_session(tmp_path_factory.mktemp(cls.method), cls.recipe())
        for label in cls.labels:
            folder = layout.cell_folder(session.run, label, SEED)
            folder.mkdir(parents=True)
            cells.align(session, label, SEED, folder)
        return session

    @classmethod
    def recipe(cls) -> dict[str, Any]:
        """What the method is run in."""
        return {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": ROWS, "max_length": 128},
            "training": {"batch": BATCH, "threads": 1},
            "budget": {"steps": STEPS},
            "methods": {**cls.labels, "tried": {"method": cls.method, **cls.config}},
            "evaluation": {"prompts": PROMPTS},
        }

    @pytest.fixture(scope="class")
    @classmethod
    def aligned(cls, session: Session) -> tuple[CellContext, Policy]:
        """The method's policy after two steps, and the run that made it."""
        return cls._align(session, "first")

    def aligned_as(
        self, session: Session, block: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> CellContext:
        """Return the run of a recipe's block `{method: ..., ...}` on the same rows: other fields, or another method."""
        recipe = type(session.recipe).model_validate(
            {**session.recipe.model_dump(exclude_unset=True), "methods": {"tried": dict(block)}}
        )
        with monkeypatch.context() as patched:
            patched.setattr(session, "plan", resolve(recipe))
            return self._align(session, f"as-{store.digest(dict(block))[:12]}")[0]

    def test_the_entry_point_resolves_and_the_api_fits(self):
        kind = plugins.load("methods", self.method)
        assert issubclass(kind, Method)
        assert kind.api == API

    def test_the_docstring_cites_its_source(self):
        docstring = plugins.load("methods", self.method).__doc__ or ""
        assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi|https?://|Source:", docstring), (
            f"no source in: {docstring!r}"
        )

    def test_every_field_has_a_default_and_a_description(self):
        for name, info in plugins.load("methods", self.method).Config.model_fields.items():
            assert not info.is_required(), f"{name} has no default"
            assert info.description, f"{name} has no description: write a docstring under the field"

    def test_a_short_run_answers_every_prompt(self, session: Session, aligned: tuple[CellContext, Policy]):
        answers = self._answers(session, aligned[1])
        assert [answer.prompt_id for answer in answers] == [
            p.id for p in session.table.prompts("test", PROMPTS)
        ]
        assert all(answer.ids for answer in answers)
        if plugins.load("methods", self.method).consumes and "adapter" in aligned[1].can:
            assert any(aligned[0].ledger.rows.values()), "it used no rows"

    def test_the_same_seed_gives_the_same_answers(
        self, session: Session, aligned: tuple[CellContext, Policy]
    ):
        again = self._align(session, "again")[1]
        assert self._texts(session, again) == self._texts(session, aligned[1]), (
            "the same seed gives other answers"
        )

    def test_a_hit_in_the_store_equals_a_miss(
        self,
        session: Session,
        aligned: tuple[CellContext, Policy],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.setattr(session, "store", store.Store(tmp_path / "empty"))
        computed = self._align(session, "computed")[1]
        found = self._align(session, "found")[1]
        texts = self._texts(session, computed)
        assert texts == self._texts(session, found) == self._texts(session, aligned[1]), (
            "its policy depends on whether what it shares was found in the store or computed"
        )

    def test_killed_after_any_checkpoint_and_called_again_it_ends_the_same(
        self,
        session: Session,
        aligned: tuple[CellContext, Policy],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """Each attempt dies after the first checkpoint it writes, and the next goes on from there."""
        monkeypatch.setattr(session, "store", store.Store(tmp_path))
        monkeypatch.setattr(session, "task", replace(session.task, every=0.0))
        monkeypatch.setattr("alignbench.training.checkpoint.SHARE", 0)
        save, deaths, folder = Checkpoints.save, 0, session.run / layout.CELLS / "killed"

        def die_after(self: Checkpoints, step: int, value: Any) -> None:
            save(self, step, value)
            raise _Killed

        monkeypatch.setattr(Checkpoints, "save", die_after)
        while True:
            cells.clear(folder)
            try:
                run, policy = cells.align(session, "tried", SEED, folder)
                break
            except _Killed:
                deaths += 1
                assert deaths < 200, "it starts over each time"
        if not deaths:
            pytest.skip(f"{self.method} trains nothing")
        assert self._texts(session, policy) == self._texts(session, aligned[1]), "killed, it ends otherwise"
        assert _numbers(run.folder) == _numbers(aligned[0].folder), "killed, it logs other numbers"
        assert run.ledger.rows == aligned[0].ledger.rows
        assert run.ledger.compared == aligned[0].ledger.compared
        assert run.ledger.departures == aligned[0].ledger.departures
        assert run.ledger.account == aligned[0].ledger.account, "a resumed training gets more budget, or less"
        ours, theirs = _counted(run.ledger.cost), _counted(aligned[0].ledger.cost)
        differ = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
        assert not differ, f"a resumed run has another ledger: {differ}"

    def test_a_saved_policy_equals_the_one_that_was_saved(
        self, session: Session, aligned: tuple[CellContext, Policy]
    ):
        run, policy = aligned
        reloaded = run.restored(run.folder / layout.POLICY, "tried")
        assert (reloaded.can, reloaded.follows) == (policy.can, policy.follows)
        assert self._texts(session, reloaded) == self._texts(session, policy), (
            "restored, it answers otherwise"
        )
        if "logprobs" in policy.can:
            ours, theirs = (self._logps(session, one) for one in (policy, reloaded))
            assert theirs == pytest.approx(ours, abs=1e-3), "restored, it has other weights"

    def test_its_answers_follow_the_settings_it_names_and_no_others(
        self, session: Session, aligned: tuple[CellContext, Policy]
    ):
        """A policy that follows the temperature is greedy at 0: all samples of a prompt are equal."""
        policy = aligned[1]
        plain = self._drawn(session, policy, Sampling(temperature=2.0, max_new_tokens=12))
        greedy: dict[Setting, Sampling] = {
            "temperature": Sampling(temperature=0.0, max_new_tokens=12),
            "top_k": Sampling(temperature=2.0, top_k=1, max_new_tokens=12),
            "top_p": Sampling(temperature=2.0, top_p=1e-6, max_new_tokens=12),
        }
        for setting, sampling in greedy.items():
            drawn = self._drawn(session, policy, sampling)
            if setting in policy.follows:
                assert drawn[::2] == drawn[1::2], f"{setting}: {sampling} does not make it greedy"
                assert drawn != plain, f"it does not follow {setting}"
            else:
                assert drawn == plain, f"it follows {setting} without saying so in `follows`"

    def test_an_answer_depends_on_its_prompt_and_the_key_alone(
        self, session: Session, aligned: tuple[CellContext, Policy]
    ):
        """Neither on its place nor on the other prompts; another key is other noise, and so is another sample."""
        policy, sampling = aligned[1], Sampling(temperature=1.0, max_new_tokens=12)
        prompts = session.table.prompts("test", PROMPTS)

        def drawn(asked: list[Prompt], key: int) -> dict[tuple[str, int], str]:
            answers = policy.answer(asked, sampling, key, samples=2)
            return {(answer.prompt_id, answer.sample): answer.text for answer in answers}

        found = drawn(prompts, SEED)
        assert len(found) == 2 * len(prompts), (
            "not every prompt has two answers, each with its sample's number"
        )
        assert drawn(prompts[::-1], SEED) == found, "an answer depends on its place among the prompts"
        assert drawn(prompts[:1], SEED).items() <= found.items(), "an answer depends on the other prompts"
        if "temperature" in policy.follows:
            assert drawn(prompts, SEED + 1) != found, "its noise does not depend on the key"
            assert any(found[prompt.id, 0] != found[prompt.id, 1] for prompt in prompts), (
                "all samples of a prompt are equal, at temperature 1"
            )

    def test_what_its_answers_cost_is_what_it_computed(
        self, session: Session, aligned: tuple[CellContext, Policy]
    ):
        """A position may belong to several answers, such as those to one prompt, and belongs to one at least."""
        with meter.metered(meter.Tally()) as counted:
            answers = self._answers(session, aligned[1])
        stated, computed = sum(answer.tokens for answer in answers), counted.work.positions
        assert stated >= (1 - ROUNDING) * computed, (
            f"its answers name {stated} tokens of {computed} that it computed"
        )
        assert sum(answer.forwards for answer in answers) >= counted.work.forwards, (
            "its answers name fewer model calls than it made"
        )
        # A prompt that it has not been asked before, alone: what it computes is for this one answer.
        prompts = session.table.prompts("validation", 1)
        with meter.metered(meter.Tally()) as counted:
            (alone,) = aligned[1].answer(prompts, Sampling(max_new_tokens=12), SEED)
        assert alone.tokens <= SHARED * counted.work.positions, (
            f"an answer names {alone.tokens} tokens, far more than the {counted.work.positions} that it computed"
        )

    def test_the_base_is_untouched(self, session: Session, aligned: tuple[CellContext, Policy]):
        untouched = Session(session.task)
        assert untouched.base.checksum() == session.base.checksum(), "it changed the weights of the base"
        patched = _patched(session.base.model) - _patched(untouched.base.model)
        assert not patched, f"it left modules of the base patched: {sorted(patched)}"
        assert self._texts(untouched, untouched.base.policy()) == self._texts(session, session.base.policy())

    @pytest.mark.parametrize(
        "budget", [{"steps": STEPS}, {"rows": ROWS_DRAWN}], ids=lambda one: next(iter(one))
    )
    def test_all_its_trainings_together_keep_the_budget(
        self, session: Session, budget: Mapping[str, int], monkeypatch: pytest.MonkeyPatch
    ):
        """Whatever it trains, in however many parts: what entered its policy's losses is counted as one sum.

        A budget in rows reaches into a second epoch, in which rankings are drawn as other pairs.
        """
        ((unit, amount),) = budget.items()
        if unit == "rows":
            rows = session.training_rows
            monkeypatch.setattr(session, "training_rows", lambda view: rows(view)[: ROWS_DRAWN - 2])
        recipe = session.recipe.model_copy(update={"budget": Budget.model_validate(budget)})
        monkeypatch.setattr(session, "plan", resolve(recipe))
        run = self._align(session, f"budget-{unit}")[0]
        step = BATCH if unit == "rows" else 1
        assert 0 <= run.drawn(unit) < amount + step, "more than its budget, by more than its last step"

    @pytest.mark.parametrize("unit", TOTALS)
    def test_all_that_it_computes_keeps_a_budget_that_counts_everything(
        self, session: Session, unit: str, monkeypatch: pytest.MonkeyPatch
    ):
        """Reward models, answers, labels, judges, references and searches, found in a store or not.

        Seconds are those of a clock that runs while a network is called, and a little between.
        """
        flops = self.tokens * FLOPS_OF_A_TOKEN
        amount = {"tokens": self.tokens, "flops": flops, "seconds": flops / SPEED}[unit]
        if unit in plugins.load("methods", self.method).uncounted:
            pytest.skip(f"{self.method} cannot count {unit}: alignbench check refuses it")
        if unit == "seconds":
            run_with_the_work(monkeypatch)
        recipe = session.recipe.model_copy(update={"budget": Budget.model_validate({unit: amount})})
        monkeypatch.setattr(session, "plan", resolve(recipe))
        computed = self._align(session, f"{unit}-computed")[0]
        assert computed.drawn(unit) <= OVER * amount, f"more than its budget: {computed.ledger.cost}"
        if computed.ledger.account.steps:
            assert computed.drawn(unit) >= (1 - A_STEP) * amount, "it leaves more than a step's cost"
        if unit == TOTALS[0] and session.store.entries():
            found = self._align(session, f"{unit}-found")[0]
            for each in TOTALS[:2]:
                assert computed.drawn(each) == found.drawn(each), "what the store has is charged in full"

    def test_everything_it_computes_is_counted_once(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """Against a count of its own at each call of a network."""
        monkeypatch.setattr(session, "store", store.Store(tmp_path / "counted"))
        seen, counted = Work(), CellMeter.computed

        def computed(self: CellMeter, work: Work) -> None:
            for name in ("forwards", "positions", "trained", "flops"):
                setattr(seen, name, getattr(seen, name) + getattr(work, name))
            counted(self, work)

        monkeypatch.setattr(CellMeter, "computed", computed)
        cost = self._align(session, "counted")[0].ledger.cost
        for what, charged, made in (
            ("model calls", cost.forward_passes, seen.forwards),
            ("FLOPs", cost.flops, seen.flops),
            ("trained tokens", cost.train_tokens, seen.trained),
        ):
            assert charged == pytest.approx(made), (
                f"it is charged with {charged:,.0f} {what} and made {made:,.0f}: what it asks a store for twice, "
                "such as labels of the same policy, is charged twice"
            )
        assert cost.tokens >= seen.positions + seen.trained, (
            "what it says of its cost is less than it computed"
        )

    def test_no_weight_changes_outside_of_a_training(self, aligned: tuple[CellContext, Policy]):
        ledger = aligned[0].ledger
        assert not ledger.outside, f"{ledger.outside} tokens with gradient outside of run.train"
        assert "changed weights without a training" not in map(str, ledger.departures), (
            "it changed weights without a training that is counted"
        )

    def test_it_learned_from_training_rows_and_rows_it_declared(
        self, session: Session, aligned: tuple[CellContext, Policy]
    ):
        ledger = aligned[0].ledger
        unfair = {origin: sorted(ids)[:3] for origin, ids in ledger.learned.items() if origin not in FAIR}
        assert not unfair, f"rows that entered its loss are not training rows: {unfair}"
        assert ledger.rows.get("train", set()) <= {row.id for row in session.table.kept("train")}
        assert "test" not in ledger.rows, "it asked for answers to test prompts"

    def test_its_first_step_is_the_same_whatever_the_micro_batch_is(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """The first step only: an optimiser like Adam makes rounding errors large from the second on."""
        monkeypatch.setattr("alignbench.training.trainer.LOG_STEPS", 1)
        whole = self._first_step(session, tmp_path, monkeypatch, micro_batch=BATCH)
        cut = self._first_step(session, tmp_path, monkeypatch, micro_batch=3)
        if not whole:
            pytest.skip(f"{self.method} trains nothing")
        assert cut == pytest.approx(whole, rel=1e-3, abs=1e-4), (
            "a step depends on its micro-batches: return a value for each row or each token, unreduced, "
            "and leave out places outside the mask"
        )

    def test_another_seed_trains_another_policy(self, session: Session, monkeypatch: pytest.MonkeyPatch):
        """Of other weights, by rows in another order: both are what the variance between seeds is of."""
        rows: list[list[Any]] = []
        monkeypatch.setattr(GradientStep, "run", _noting(GradientStep.run, rows))
        policies, orders = [], []
        for seed in (SEED, SEED + 1):
            rows.clear()
            run, policy = self._align(session, f"seed-{seed}", seed=seed)
            if not run.ledger.account.steps or not isinstance(policy, ModelPolicy):
                pytest.skip(f"{self.method} trains nothing")
            policies.append(policy.fingerprint())
            orders.append(list(rows))
        assert policies[0] != policies[1], "its training does not depend on the seed"
        # Another library's trainer has none of our steps.
        assert not orders[0] or orders[0] != orders[1], (
            "its rows come in the same order at every seed: take them from run.rows or run.draw"
        )

    def test_it_starts_from_its_start_and_leaves_that_alone(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """From an adapter, as a label that starts from another does."""
        start = session.base.add_adapter("start", seed=SEED)
        noise = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for weight in start.tensors().values():
                weight.add_(START * torch.randn(weight.shape, generator=noise).to(weight))
        start.save(tmp_path / "start")
        before = {name: weight.detach().clone() for name, weight in start.tensors().items()}
        session.base.drop(start)
        block = session.recipe.methods["tried"].model_copy(
            update={"start": AdapterStart(adapter=str(tmp_path / "start"))}
        )
        methods = {**session.recipe.methods, "tried": block}
        recipe = session.recipe.model_copy(update={"methods": methods})
        monkeypatch.setattr(session, "plan", resolve(recipe))
        run, policy = self._align(session, "started")
        assert isinstance(run.start, ModelPolicy)
        after = run.start.tensors()
        assert all(after[name].equal(weight) for name, weight in before.items()), (
            "it changed the weights of its start"
        )
        if run.ledger.account.steps and isinstance(policy, ModelPolicy):
            found = policy.tensors()
            moved = sum(
                float((found[name].detach() - weight).square().sum()) for name, weight in before.items()
            )
            whole = sum(float(weight.square().sum()) for weight in before.values())
            assert moved < whole / 4, "it did not start from its start"

    def test_it_writes_nothing_outside_its_folder(
        self, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        work, home = tmp_path / "work", tmp_path / "home"
        for folder in (work, home):
            folder.mkdir()
        monkeypatch.chdir(work)
        monkeypatch.setenv("HOME", str(home))
        before = _files(session.run)
        with watching_writes() as opened:
            run, policy = self._align(session, "contained")
            self._answers(session, policy)
        folder = run.folder
        assert not list(work.iterdir()), "it wrote to the working directory"
        assert not list(home.iterdir()), "it wrote to the home folder"
        written = {path for path in _files(session.run) - before if folder not in path.parents}
        written |= {path for path in opened if not _is_own(path, session.run, session.store.root)}
        assert not written, f"it wrote outside of its folder: {', '.join(map(str, sorted(written)))}"

    def test_it_needs_no_other_plugin(self, session: Session, monkeypatch: pytest.MonkeyPatch):
        """In addition to those that its config names by a field of type `NamedMethod`."""
        own = plugins.find("methods", self.method)
        named = [key.removeprefix("methods ") for key in session.plan.labels["tried"].builds_on]
        everything = plugins.installed

        def alone(group: Any) -> Mapping[str, plugins.Found]:
            found = everything(group)
            if group != "methods":
                return found
            return {
                name: one
                for name, one in found.items()
                if one.distribution == own.distribution or name in named
            }

        monkeypatch.setattr(plugins, "installed", alone)
        try:
            self._align(session, "alone")
        except PluginError as error:
            raise AssertionError(
                f"without the others it raises: {error}; name what it builds on in a field of type NamedMethod"
            ) from error

    @staticmethod
    def _align(session: Session, name: str, seed: int = SEED) -> tuple[CellContext, Policy]:
        folder = session.run / layout.CELLS / name
        folder.mkdir(parents=True)
        return cells.align(session, "tried", seed, folder)

    def _first_step(
        self, session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch, *, micro_batch: int
    ) -> dict[str, float]:
        """The numbers that the first step logs, nothing of it taken from a store."""
        name = f"micro-batch-{micro_batch}"
        training = session.recipe.training.model_copy(update={"micro_batch": micro_batch})
        recipe = session.recipe.model_copy(update={"training": training})
        with monkeypatch.context() as patched:
            patched.setattr(session, "plan", resolve(recipe))
            patched.setattr(session, "store", store.Store(folder / name))
            logged = _numbers(self._align(session, name)[0].folder)
        return logged[0] if logged else {}

    def _answers(self, session: Session, policy: Policy) -> list[Answer]:
        prompts = session.table.prompts("test", PROMPTS)
        return policy.answer(prompts, Sampling(max_new_tokens=12), SEED)

    def _drawn(self, session: Session, policy: Policy, sampling: Sampling) -> list[str]:
        prompts = session.table.prompts("test", PROMPTS)
        return [answer.text for answer in policy.answer(prompts, sampling, SEED, samples=2)]

    def _logps(self, session: Session, policy: Policy) -> list[float]:
        rows = session.table.kept("train")[:PROMPTS]
        sequences = [sequence for row in rows for sequence in row.sequences()]  # pyright: ignore[reportAttributeAccessIssue]
        return [float(one.logps.sum()) for one in policy.logprobs(sequences)]

    def _texts(self, session: Session, policy: Policy) -> list[str]:
        return [answer.text for answer in self._answers(session, policy)]


def _patched(model: nn.Module) -> set[str]:
    """The modules with a `forward` of their own, or with hooks; adapters are attached and left there."""
    return {
        name.replace(".base_layer", "")
        for name, module in model.named_modules()
        if not isinstance(module, LoraLayer) and ".lora_" not in name
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    }


def _curves(folder: Path) -> list[str]:
    path = folder / layout.TRAINING_LOG
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _numbers(folder: Path) -> list[dict[str, float]]:
    return [{**json.loads(line), "seconds": 0} for line in _curves(folder)]


def _counted(cost: Cost) -> dict[str, float]:
    return {name: value for name, value in vars(cost).items() if not name.endswith(("_seconds", "_bytes"))}


def run_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of a run go on by calls of a network, alike on every machine, and a little whenever it is read."""
    now, counted = [0.0], CellMeter.computed

    def computed(self: CellMeter, work: Work) -> None:
        now[0] += CALL * work.forwards + work.flops / SPEED
        counted(self, work)

    monkeypatch.setattr(CellMeter, "computed", computed)

    def read() -> float:
        now[0] += TICK
        return now[0]

    monkeypatch.setattr("alignbench.worker.run.metering.perf_counter", read)


class _Killed(BaseException):
    """What kill -9 is to a process, for a method inside one."""


def _noting(whole: Callable[..., Any], rows: list[list[Any]]) -> Callable[..., Any]:
    """Return a step's `run` that also notes which rows it has; of answers that a method drew, to which prompts."""

    def run(self: Any, given: list[Any], *args: Any, **how: Any) -> Any:
        if all(isinstance(row, Row) for row in given):
            rows.append([row.id for row in given])
        else:
            groups = self.sequences(given).values()
            rows.append([one.prompt for group in groups for one in getattr(group, "items", group)])
        return whole(self, given, *args, **how)

    return run


def _is_own(path: Path, *folders: Path) -> bool:
    """Whether a file lies in one of these folders, is a device, or a temporary file by its name."""
    temporary = Path(tempfile.gettempdir())
    if path.is_relative_to(temporary) and path.relative_to(temporary).parts[0].startswith(
        tempfile.gettempprefix()
    ):
        return True
    return any(path.is_relative_to(folder) for folder in (*folders, Path("/dev"), Path("/proc")))


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
