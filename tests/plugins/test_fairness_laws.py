"""Methods that take more than the others, and what the engine and the suite of laws do about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench import Budget, PluginError, plugins
from alignbench.api.config import TOTALS
from alignbench.errors import RecipeError
from alignbench.models.forward.groups import read
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.testing import MethodSuite
from alignbench.testing.sessions import open_session
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell

METHODS = '''
"""Methods that train in ways the laws are about. Source: https://example.com"""

from dataclasses import replace

from alignbench import Budget, Demonstration, Method, Prompt, Sampling, ScoringGroup


def sequences(rows):
    return {"all": [one for row in rows for one in row.sequences()]}


def loss(scores, rows):
    return LOSS


def train(run, policy, rows, **how):
    run.train(policy, rows, sequences, loss, learning_rate=1e-3, **how)


class Twice(Method):
    api = 2
    consumes = (Demonstration,)

    def align(self, run):
        policy = run.adapt()
        for _ in range(2):
            train(run, policy, run.rows(Demonstration))
        return policy


class Parts(Twice):
    """Its first training ends by itself after one step; the second gets what is left."""

    api = 2

    def align(self, run):
        policy, rows = run.adapt(), run.rows(Demonstration)
        train(run, policy, lambda step: run.draw(rows, step, run.batch) if step < 1 else [])
        self.left = run.left
        train(run, policy, rows)
        return policy


class Draws(Twice):
    """Draws answers before its only step, which ends its first training."""

    api = 2

    def align(self, run):
        policy, rows = run.adapt(), run.rows(Demonstration)

        def batches(step):
            if step:
                return []
            policy.answer(list(run.rows(Prompt))[:4], Sampling(max_new_tokens=8), 0)
            return run.draw(rows, step, run.batch)

        train(run, policy, batches)
        self.left = run.left
        return policy


class Swaps(Twice):
    """Takes training rows, and scores validation rows."""

    api = 2

    def align(self, run):
        policy = run.adapt()
        others = list(run.rows(Demonstration, "validation"))

        def scored(rows):
            return sequences(others[: len(rows)])

        run.train(policy, run.rows(Demonstration), scored, loss, learning_rate=1e-3)
        return policy


class Outside(Twice):
    """Returns a policy that was trained outside the budget."""

    api = 2

    def align(self, run):
        policy = run.adapt()
        train(run, policy, run.rows(Demonstration), budget=run.budget)
        train(run, policy, run.rows(Demonstration), budget=run.budget)
        return policy


class Half(Twice):
    """A stage on half of the rows costs half an epoch."""

    api = 2

    def align(self, run):
        rows = list(run.rows(Demonstration))
        return run.stage("sft", rows=rows[: len(rows) // 2], budget=run.budget)


class Additional(Twice):
    """An additional training has a budget of its own."""

    api = 2

    def align(self, run):
        other = run.adapt(name="other")
        train(run, other, run.rows(Demonstration), budget=Budget(steps=3))
        policy = run.adapt()
        train(run, policy, run.rows(Demonstration))
        return policy


class Beside(Twice):
    """Trains a second adapter with its policy, and a head, at learning rates of their own."""

    api = 2

    def align(self, run):
        import torch

        policy, other = run.adapt(), run.adapt(name="other")
        head = torch.nn.Linear(64, 1)

        def both(rows):
            items = [one for row in rows for one in row.sequences()]
            return {"all": items, "other": ScoringGroup(items[:1], other, term="other")}

        def summed(scores, rows):
            return {name: one.per_token(-one.logps) for name, one in scores.items()}, {}

        rates = {other: 2e-3, head: 5e-3}
        rows = run.rows(Demonstration)
        run.train(policy, rows, both, summed, learning_rate=1e-3, learning_rates=rates, modules={"head": head})
        return policy


class Alone(Twice):
    """Trains with an optimiser of its own."""

    api = 2

    def align(self, run):
        import torch

        policy, rows = run.adapt(), list(run.rows(Demonstration))
        optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)
        for row in rows[:3]:
            ids = torch.tensor([row.prompt_ids + row.response_ids])
            policy.hidden(ids).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return policy


class Perturbs(Twice):
    """Changes weights without any gradient."""

    api = 2

    def align(self, run):
        import torch

        policy = run.adapt()
        with torch.no_grad():
            for weight in policy.parameters():
                weight.add_(0.01)
        return policy


class Sneaks(Twice):
    """Computes in every way there is, without the run's own functions."""

    api = 2

    def align(self, run):
        import torch

        from alignbench import DecodingBase, Query

        start = run.start
        ids = torch.arange(5, 15)[None]
        start.base.model(input_ids=ids)
        start.base.hidden(ids)
        start.hidden(ids)
        decoding = DecodingBase(start)
        tree = decoding.new_tree()
        decoding.ask([(tree, [Query(tuple(range(5, 15)))])])
        decoding.alone(tuple(range(5, 15)))
        return start


class Denies(Twice):
    """Takes off what it computed."""

    api = 2

    def align(self, run):
        policy = run.start
        policy.answer(list(run.rows(Prompt))[:4], Sampling(max_new_tokens=8), 0)
        run.record.cost.add(generated_tokens=-run.record.cost.generated_tokens)
        return policy


class Charges(Twice):
    """Charges by hand what has been counted."""

    api = 2

    def align(self, run):
        policy = run.start
        policy.answer(list(run.rows(Prompt))[:4], Sampling(max_new_tokens=8), 0)
        run.record.cost.add(forward_passes=8, flops=run.record.cost.flops)
        return policy


class Spends(Twice):
    """Answers as it likes, whatever the budget, and then trains."""

    api = 2

    def align(self, run):
        policy = run.adapt()
        run.start.answer(list(run.rows(Prompt)), Sampling(max_new_tokens=40), 0, samples=64)
        return policy


SEEN = set()


class Hoards(Twice):
    """Between two trainings it answers, and keeps the answers where a resumed run finds them, at no cost."""

    api = 2

    def align(self, run):
        policy, rows = run.adapt(), run.rows(Demonstration)
        train(run, policy, lambda step: run.draw(rows, step, run.batch) if step < 1 else [])
        if run.root not in SEEN:
            SEEN.add(run.root)
            policy.answer(list(run.rows(Prompt))[:4], Sampling(max_new_tokens=8), 0)
        train(run, policy, rows)
        return policy


class Stages(Twice):
    api = 2

    def align(self, run):
        policy = run.stage("sft", budget=run.budget.part(0.5))
        return run.stage("sft", start=policy, budget=run.budget)


class Peeks(Twice):
    """Reads the training rows, and learns from validation rows."""

    api = 2

    def align(self, run):
        list(run.rows(Demonstration))
        policy = run.adapt()
        train(run, policy, run.rows(Demonstration, "validation"))
        return policy


class Invents(Twice):
    """Learns from answers that stand in no row, under the ids of rows."""

    api = 2
    declared = False

    def align(self, run):
        rows = [replace(row, response_ids=row.response_ids[::-1]) for row in run.rows(Demonstration)]
        policy = run.adapt()
        if self.declared:
            rows = list(run.rows(Demonstration, given=rows))
        train(run, policy, lambda step: rows[:4])
        return policy


class Declares(Invents):
    api = 2
    declared = True


class Rehearses(Twice):
    """Answers the prompts of another split, and learns its own answers to them."""

    api = 2
    split = "test"

    def align(self, run):
        policy, prompts = run.adapt(), list(run.rows(Prompt, self.split))[:8]
        answers = policy.answer(prompts, Sampling(max_new_tokens=8), 0)
        rows = [
            Demonstration(id=f"own/{at}", prompt=prompt.prompt, response=answer.text)
            for at, (prompt, answer) in enumerate(zip(prompts, answers))
        ]
        train(run, policy, run.rows(Demonstration, given=rows))
        return policy


class Copies(Twice):
    """Learns answers of its own to test prompts, which it asks nobody."""

    api = 2

    def align(self, run):
        rows = [
            Demonstration(id=f"own/{at}", prompt=prompt.prompt, response="yes")
            for at, prompt in enumerate(run.rows(Prompt, "test"))
        ]
        policy = run.adapt()
        train(run, policy, run.rows(Demonstration, given=rows))
        return policy
'''
NAMES = (
    "Twice",
    "Parts",
    "Draws",
    "Swaps",
    "Outside",
    "Half",
    "Additional",
    "Stages",
    "Peeks",
    "Invents",
    "Declares",
    "Rehearses",
    "Copies",
    "Alone",
    "Beside",
    "Perturbs",
    "Sneaks",
    "Denies",
    "Charges",
    "Spends",
    "Hoards",
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("laws")
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 64, "max_length": 128},
        "training": {"batch": 4, "threads": 1},
        "budget": {"steps": 4},
        "evaluation": {"prompts": 4},
        "methods": {"tried": {"method": "frozen"}},
    }
    return open_session(folder, recipe)


@pytest.fixture
def align(session: Session, install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Align by one of the methods above; return its run."""
    value = '-scores["all"].logps, {}'
    install(
        "unfair",
        modules={"unfair_methods": METHODS.replace("LOSS", value)},
        methods={name.lower(): f"unfair_methods:{name}" for name in NAMES},
    )

    def align(name: str, **budget: float) -> CellContext:
        blocks = {"tried": session.recipe.methods["tried"].model_copy(update={"method": name})}
        changes: dict[str, Any] = {"methods": blocks}
        if budget:
            changes["budget"] = session.recipe.budget.model_validate(budget)
        monkeypatch.setattr(session, "plan", resolve(session.recipe.model_copy(update=changes)))
        folder = tmp_path / name
        folder.mkdir()
        return cell.align(session, "tried", 0, folder)[0]

    return align


@pytest.mark.parametrize("budget", [{"steps": 4}, {"rows": 16}, {"epochs": 0.25}, {"tokens": 900}])
def test_a_second_training_does_not_get_the_budget_again(align: Any, budget: dict[str, float]):
    with pytest.raises(PluginError, match="has spent its budget"):
        align("twice", **budget)


@pytest.mark.parametrize("budget", [{"steps": 4}, {"rows": 16}, {"epochs": 0.25}, {"tokens": 900}])
def test_a_second_training_gets_what_the_first_has_left(align: Any, budget: dict[str, float]):
    run = align("parts", **budget)
    ((unit, amount),) = budget.items()
    a_row = run.drawn("tokens") / run.drawn("rows") if unit == "tokens" else 0
    assert run.drawn(unit) == pytest.approx(amount, abs=max(1e-9, 1.5 * a_row))
    assert run.left == pytest.approx(amount - run.drawn(unit), abs=1e-9)


def test_a_policy_that_was_trained_outside_the_budget_is_no_result(align: Any):
    with pytest.raises(PluginError, match="was trained outside the budget"):
        align("outside")


def test_a_stage_on_half_of_the_rows_costs_half_an_epoch(align: Any):
    run = align("half", epochs=1)
    assert run.ledger.account.epochs == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("budget", "share", "part"),
    [
        ({"steps": 10}, 1 / 3, 3),
        ({"rows": 1}, 0.5, 1),
        ({"tokens": 9}, 2 / 3, 6),
        ({"epochs": 1}, 0.25, 0.25),
    ],
)
def test_a_part_of_a_budget_is_rounded_down_and_never_nothing(budget: Any, share: float, part: float):
    assert Budget(**budget).part(share).amount == part


def test_answers_drawn_between_steps_are_taken_off_a_budget_in_tokens(align: Any):
    run = align("draws", tokens=900)
    cost = run.ledger.cost
    assert cost.generated_tokens > 0
    assert run.left == 900 - cost.tokens == 900 - cost.train_tokens - cost.generated_tokens


def test_a_training_beside_the_policys_is_off_the_account_and_on_the_record(align: Any):
    run = align("additional")
    assert run.ledger.account.steps == 4
    (departure,) = run.ledger.departures
    assert str(departure).startswith("an additional training: 3 steps, ")
    assert run.curves.read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.parametrize("budget", [{"steps": 4}, {"tokens": 900}])
def test_what_is_trained_beside_the_policy_is_a_departure_with_its_size(
    align: Any, budget: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    counted: list[int] = []
    monkeypatch.setattr(
        "alignbench.training.step.read", lambda policy, *given: _noting(policy, given, counted)
    )
    run = align("beside", **budget)
    (found,) = run.ledger.departures
    of_other = sum(counted)
    assert 0 < of_other < run.ledger.cost.train_tokens / 2
    assert str(found) == (
        f"trained beside the policy: other, {of_other:,} tokens at a learning rate of 0.002; head at 0.005"
    )


def _noting(policy: Any, given: Any, counted: list[int]) -> Any:
    """Score, and note the tokens of the second adapter: those that predict its answer, and what stands before."""
    if policy.name.startswith("other"):
        (group,) = given[0].values()
        counted.append(sum(len(one) - 1 for one in group.items))
    return read(policy, *given)


@pytest.mark.parametrize("budget", [{"steps": 4}, {"rows": 16}, {"tokens": 3000}])
def test_what_a_budget_of_the_policys_training_does_not_count_is_a_departure_with_its_size(
    align: Any, budget: dict[str, float]
):
    run = align("draws", **budget)
    size = f"to 4 prompts, {run.ledger.cost.generated_tokens:,} tokens"
    expected = [] if "tokens" in budget else [f"answers of its own: {size}"]
    assert [str(one) for one in run.ledger.departures] == expected


def test_rows_of_its_own_are_a_departure_with_their_number(align: Any):
    run = align("declares")
    assert [str(one) for one in run.ledger.departures] == [
        f"rows of its own: {len(run.ledger.learned['made'])}"
    ]


def test_a_stage_that_asks_for_more_than_is_left_is_refused(align: Any):
    with pytest.raises(PluginError, match=r"asks for 4 steps, and 2 of 4 steps are left"):
        align("stages")


def law(session: Session, run: CellContext) -> None:
    MethodSuite().test_it_learned_from_training_rows_and_rows_it_declared(session, (run, run.start))


def test_rows_count_as_used_when_they_enter_a_loss_and_not_when_they_are_read(session: Session, align: Any):
    run = align("peeks")
    assert set(run.ledger.rows) == {"validation"}
    assert "trained on validation rows" in map(str, run.ledger.departures)
    with pytest.raises(AssertionError, match=r"are not training rows: \{'validation'"):
        law(session, run)


def test_rows_that_are_scored_in_place_of_those_taken_are_found_out(session: Session, align: Any):
    run = align("swaps")
    with pytest.raises(AssertionError, match=r"are not training rows: \{'undeclared'"):
        law(session, run)


def test_rows_of_a_methods_own_making_are_declared_or_found_out(session: Session, align: Any):
    run = align("invents")
    assert "trained on rows that it did not declare" in map(str, run.ledger.departures)
    with pytest.raises(AssertionError, match=r"are not training rows: \{'undeclared'"):
        law(session, run)
    honest = align("declares")
    assert set(honest.ledger.learned) == {"made"}
    law(session, honest)


@pytest.mark.parametrize(
    ("name", "asked"), [("rehearses", ["answered test prompts while it aligned: 8"]), ("copies", [])]
)
def test_answers_of_its_own_to_test_prompts_are_no_fair_rows(
    session: Session, align: Any, name: str, asked: list[str]
):
    run = align(name)
    found = [str(one) for one in run.ledger.departures]
    assert "trained on test rows" in found
    assert [one for one in found if one.startswith("answered test prompts")] == asked
    with pytest.raises(AssertionError, match=r"are not training rows: \{'test'"):
        law(session, run)


def test_a_trainer_of_another_library_that_names_no_rows_departs(session: Session, tmp_path: Path):
    where: dict[str, Any] = {
        "label": "tried",
        "seed": 0,
        "method": "sft",
        "start": "base",
        "folder": tmp_path,
    }
    silent, named = CellContext(session, **where), CellContext(session, **where)
    silent.trained(epochs=0.1, rows=8, steps=2)
    named.trained(epochs=0.1, rows=8, steps=2, learned=session.table.kept("train")[:8])
    found = [[str(one) for one in run.ledger.departures] for run in (silent, named)]
    assert found == [["trained on rows that its trainer does not name"], []]


# --- the ledger under attack -------------------------------------------------------------------------------


@pytest.fixture
def suite(session: Session, align: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The suite of laws for one of the methods above."""

    def suite(name: str) -> MethodSuite:
        blocks = {"tried": session.recipe.methods["tried"].model_copy(update={"method": name})}
        recipe = session.recipe.model_copy(update={"methods": blocks})
        monkeypatch.setattr(session, "plan", resolve(recipe))
        made = MethodSuite()
        made.method = name  # pyright: ignore[reportAttributeAccessIssue]
        return made

    return suite


def test_every_way_to_call_a_model_is_counted(align: Any):
    cost = align("sneaks").ledger.cost
    assert cost.scored_tokens == 3 * 10
    assert cost.searched_tokens == 2 * 10
    assert cost.forward_passes == 5
    assert cost.flops > 0


def test_an_optimiser_of_its_own_is_a_departure_and_breaks_a_law(align: Any, suite: Any):
    run = align("alone", epochs=1)
    assert any(
        str(one).startswith("trained by itself, outside of its budget") for one in run.ledger.departures
    )
    assert run.ledger.cost.train_tokens == run.ledger.outside > 0
    with pytest.raises(AssertionError, match="tokens with gradient outside"):
        suite("alone").test_no_weight_changes_outside_of_a_training((run, run.start))


def test_weights_that_change_without_a_gradient_are_a_departure_and_break_a_law(align: Any, suite: Any):
    run = align("perturbs")
    with pytest.raises(AssertionError, match="it changed weights without a training that is counted"):
        suite("perturbs").test_no_weight_changes_outside_of_a_training((run, run.start))


@pytest.mark.parametrize("name", ["denies", "charges"])
def test_a_ledger_that_a_method_writes_to_breaks_a_law(
    session: Session, suite: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MethodSuite, "_align", staticmethod(_into(tmp_path)))
    words = "is charged with|less than it computed"
    with pytest.raises(AssertionError, match=words):
        suite(name).test_everything_it_computes_is_counted_once(session, tmp_path, monkeypatch)


def test_a_method_that_ignores_a_budget_of_everything_breaks_a_law(
    session: Session, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(MethodSuite, "_align", staticmethod(_into(tmp_path)))
    with pytest.raises(AssertionError, match="more than its budget"):
        suite("spends").test_all_that_it_computes_keeps_a_budget_that_counts_everything(
            session, "tokens", monkeypatch
        )


def test_work_that_a_resumed_run_does_not_pay_for_again_breaks_a_law(
    session: Session, suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = suite("hoards")
    monkeypatch.setattr(MethodSuite, "_align", staticmethod(_into(tmp_path)))
    monkeypatch.setattr(session, "run", tmp_path / "run")
    whole = made._align(session, "whole")
    with pytest.raises(AssertionError):
        made.test_killed_after_any_checkpoint_and_called_again_it_ends_the_same(
            session, whole, tmp_path / "store", monkeypatch
        )


def _into(folder: Path) -> Any:
    def align(session: Session, name: str) -> Any:
        place = folder / name
        place.mkdir()
        return cell.align(session, "tried", 0, place)

    return align


@pytest.mark.parametrize("unit", ["tokens", "flops", "seconds"])
def test_a_unit_that_a_method_cannot_measure_is_refused_by_check(install: Any, tmp_path: Path, unit: str):
    install(
        "blind",
        modules={"blind_methods": METHODS.replace("LOSS", "0, {}") + BLIND},
        methods={"blind": "blind_methods:Blind"},
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"model: {{id: sandbox}}\ndata: {{train: sandbox}}\nbudget: {{{unit}: 100}}\nmethods: {{blind: {{}}}}\n"
    )
    if unit == "seconds":
        load(file)
        return
    with pytest.raises(RecipeError, match=f"the method 'blind' cannot count {unit}"):
        load(file)


@pytest.mark.parametrize("unit", TOTALS)
def test_the_methods_that_ship_measure_every_unit_and_a_server_no_flops(tmp_path: Path, unit: str):
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox"},
        "budget": {unit: 10**6},
        "methods": {
            name: {}
            for name, found in plugins.installed("methods").items()
            if found.distribution.startswith("alignbench-")
        },
    }
    recipe["methods"]["by-length"] = {"method": "grpo", "rewards": ["length"]}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    load(file)
    server = {"http": {"url": "http://localhost:8000/v1", "model": "any"}}
    asked = {
        "rlaif": {"judge": server},
        "d-rlaif": {"judge": server},
        "online-dpo": {"judge": server},
        "raft": {"judge": server},
        "grpo": {"judge": server},
        "trl-rloo": {"judge": server},
    }
    file.write_text(json.dumps(recipe | {"methods": asked}))
    if unit != "flops":
        load(file)
        return
    with pytest.raises(RecipeError) as refused:
        load(file)
    assert len(refused.value.problems) == len(asked)
    assert all(
        "the judge 'http' cannot count flops" in problem.what and "seconds" in problem.fix
        for problem in refused.value.problems
    )


BLIND = """
class Blind(Twice):
    api = 2
    uncounted = ("tokens", "flops")
"""
