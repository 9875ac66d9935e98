"""The methods that learn from a judge keep the laws of the contract, and do what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import alignbench_rlaif
import pytest
import torch
from alignbench_rlaif import RLAIF
from alignbench_rlaif.direct import DirectRLAIF, OnPolicy
from alignbench_rlaif.red_team import DISGUISES, RedTeam

from alignbench import Answer, Budget, DataError, NamedJudge, NamedMethod, Policy, Prompt, Run, Score
from alignbench.feedback import label
from alignbench.rows import Ranking
from alignbench.testing import MethodSuite
from alignbench.testing.sessions import open_session
from alignbench.training import reward_model
from alignbench.training.reward_quality import comparisons
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.session import Session

JUDGE = {"self": {"wording": "sandbox"}}
SHORT = {"max_new_tokens": 16}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestRLAIF(MethodSuite):
    method = "rlaif"
    config: Mapping[str, Any] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "judge": JUDGE,
        "labels": {"sampling": SHORT},
        "optimizer": {"dpo": {"learning_rate": 1e-3}},
        "rounds": 2,
    }

    def test_labels_are_departures_with_their_sizes(self, aligned: Any):
        ledger = aligned[0].ledger
        cost, departures = ledger.cost, {one.what: one.own for one in ledger.departures}
        assert cost.ai_comparisons > 0
        assert departures["feedback of a judge"] == (
            f"{cost.ai_comparisons:,} comparisons, {cost.judge_calls:,} calls, {cost.judge_tokens:,} tokens"
        )
        asked = sum(map(len, ledger.asked.values()))
        assert departures["answers of its own"] == f"to {asked:,} prompts, {cost.generated_tokens:,} tokens"
        assert departures["rows of its own"] == f"{len(ledger.learned['made']):,}"


class TestDirectRLAIF(MethodSuite):
    method = "d-rlaif"
    config: Mapping[str, Any] = {"judge": JUDGE, **SHORT}  # pyright: ignore[reportIncompatibleVariableOverride]


class TestConstitutionalSL(MethodSuite):
    method = "cai-sl"
    config: Mapping[str, Any] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "revisions": {"wording": "sandbox", "constitution": "sandbox", "sampling": SHORT},
        "prompts": {"sandbox": {"families": ["harm"]}},
        "limit": 8,
    }

    def test_prompts_and_revisions_are_departures_with_their_sizes(self, aligned: Any):
        ledger = aligned[0].ledger
        departures = {one.what: one.own for one in ledger.departures}
        assert departures["prompts of its own"] == "8 of sandbox"
        assert departures["rows of its own"] == f"{len(ledger.learned['made']):,}"
        assert "answers of its own" in departures


# --- rlaif


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("session")
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 48, "max_length": 128},
        "training": {"batch": 16, "threads": 1},
        "methods": {"tried": {"method": "rlaif"}},
        "evaluation": {"prompts": 4},
    }
    return open_session(folder, recipe)


def cell(session: Session, name: str) -> CellContext:
    folder = session.run / "cells" / name
    folder.mkdir(parents=True, exist_ok=True)
    return CellContext(session, label="tried", seed=0, method="rlaif", start="base", folder=folder)


def config(**fields: Any) -> RLAIF.Config:
    plain: dict[str, Any] = {"judge": JUDGE, "labels": {"sampling": SHORT}, "optimizer": {"dpo": {}}}
    return RLAIF.Config.model_validate({**plain, **fields})


def test_every_round_labels_answers_of_the_policy_as_it_then_is(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    run, seen = cell(session, "rounds"), []

    def spy(run: Run, judge: Any, how: Any, *, policy: Policy, **more: Any) -> list[Any]:
        rows = label(run, judge, how, policy=policy, **more)
        seen.append((policy.fingerprint(), {row.id.partition("/")[0] for row in rows}))  # pyright: ignore
        return rows

    monkeypatch.setattr(alignbench_rlaif, "label", spy)
    policy = RLAIF(config(rounds=3, optimizer={"dpo": {"learning_rate": 1e-3}})).align(run)
    starts = [start for start, _ in seen]
    assert len(set(starts)) == 3
    assert policy.fingerprint() not in starts  # pyright: ignore[reportAttributeAccessIssue]
    parts = [ids for _, ids in seen]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_what_judging_costs_is_the_cells_own(session: Session):
    run = cell(session, "cost")
    with run.meter.charging():
        RLAIF(config()).align(run)
    assert run.ledger.cost.ai_comparisons > 0
    people = run.ledger.judges[0]["quality"]["people"]["asked"]
    assert run.ledger.cost.judge_calls == 2 * (run.ledger.cost.ai_comparisons + people)
    assert run.ledger.cost.judge_tokens > run.ledger.cost.judge_calls
    assert run.ledger.cost.judge_seconds > 0
    assert run.ledger.public()["comparisons"] == 0
    assert run.ledger.judges[0]["name"] == "self"
    assert run.ledger.judges[0]["quality"]["compared"] == run.ledger.cost.ai_comparisons
    # A second cell finds everything in the store, and is charged the same.
    again = cell(session, "cost-again")
    with again.meter.charging():
        RLAIF(config()).align(again)
    for name in ("ai_comparisons", "judge_calls", "judge_tokens", "generated_tokens"):
        assert getattr(again.ledger.cost, name) == getattr(run.ledger.cost, name)


def test_a_judge_that_labels_is_held_against_people_on_held_out_pairs(session: Session):
    found = {}
    for people in (0, 3):
        run, made = cell(session, f"people-{people}"), config(labels={"sampling": SHORT, "people": people})
        judge = run.judge(made.judge)
        labels = [label(run, judge, made.labels, part=slice(number, None, 2)) for number in range(2)]
        found[people] = labels, run
    assert found[0][0] == found[3][0], "comparing with people changes no label"
    plain, compared = found[0][1], found[3][1]
    assert compared.ledger.cost.judge_calls == plain.ledger.cost.judge_calls + 2 * 3, (
        "asked once, in both orders"
    )
    assert compared.ledger.cost.ai_comparisons == plain.ledger.cost.ai_comparisons, "nobody learns from it"
    assert set(compared.ledger.rows) <= {"train"}, "it has learnt from no other row"
    people = compared.ledger.judges[0]["quality"]["people"]
    assert people == compared.ledger.judges[1]["quality"]["people"]
    assert people["asked"] == 3
    assert {"accuracy", "ci95", "kappa", "alpha", "consistent", "first"} <= set(people)
    assert "people" not in plain.ledger.judges[0]["quality"]


def test_the_curves_of_the_stage_are_the_cells(session: Session):
    run = cell(session, "curves")
    RLAIF(config(rounds=2)).align(run)
    lines = (run.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)
    assert len(set(steps)) == len(steps)


def test_another_judge_gives_other_labels_and_another_policy(session: Session):
    early = {"language-model": {"id": "sandbox/early", "wording": "sandbox", "min_mass": 0}}
    labels: list[list[float]] = []
    policies: list[str] = []
    for name, judge in (("same", JUDGE), ("other", early)):
        run, made = cell(session, name), config(judge=judge)
        labels.append([row.preference for row in label(run, run.judge(made.judge), made.labels)])
        policies.append(RLAIF(made).align(run).fingerprint())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(labels[0]) == len(labels[1]) > 16, "both judge the same answers"
    assert max(abs(one - two) for one, two in zip(*labels, strict=True)) > 0.1
    assert policies[0] != policies[1]


def test_the_default_is_rlhf_on_labels_of_the_model_itself():
    made = RLAIF.Config()
    assert made.optimizer == NamedMethod(name="rlhf")
    assert made.judge == NamedJudge(name="self")


def test_soft_labels_train_a_reward_model_that_ppo_follows(session: Session, monkeypatch: pytest.MonkeyPatch):
    run, learned = cell(session, "default"), []
    finish = reward_model.finish

    def spy(policy: Any, *more: Any, **how: Any) -> Any:
        learned.append(policy)
        return finish(policy, *more, **how)

    monkeypatch.setattr(reward_model, "finish", spy)
    rates = {"reward_model": {"learning_rate": 1e-2}, "learning_rate": 1e-2}
    optimizer = {"rlhf": {**rates, "rollout_batch_size": 16, "ppo_epochs": 1, **SHORT}}
    made = config(optimizer=optimizer)
    labels = label(run, run.judge(made.judge), made.labels)
    assert any(0.5 < row.preference < 0.999 for row in labels), "soft labels"
    policy = RLAIF(made).align(run)
    assert len(learned) == 1
    quality = {one["name"]: one["quality"] for one in run.ledger.judges}
    assert quality["reward-model"]["log_loss"] > 0
    assert policy.fingerprint() != run.start.fingerprint()  # pyright: ignore[reportAttributeAccessIssue]
    curve = [
        json.loads(line) for line in (run.folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert any("kl" in name for name in curve[-1]), "PPO logs its KL"


def test_many_answers_to_a_prompt_are_one_row_with_soft_comparisons(session: Session):
    run, made = cell(session, "k-wise"), config(labels={"sampling": SHORT, "answers": 4, "form": "rankings"})
    rows = label(run, run.judge(made.judge), made.labels)
    assert len({row.id for row in rows}) == len(rows) > 16
    assert all(isinstance(row, Ranking) and row.answer_ids for row in rows)
    known = [p for row in rows for p in row.preferences if p is not None]
    assert len(known) > 2 * len(rows)
    assert any(0.5 < max(p, 1 - p) < 0.999 for p in known), "soft labels"
    found = [one for row in rows for one in comparisons(row)]
    assert len(found) == len(known) <= run.ledger.cost.ai_comparisons


# --- direct RLAIF


class FixedScores:
    """A judge that gives each text its score."""

    def __init__(self, scores: Mapping[str, float | None]):
        self.scores = scores

    def score(self, prompts, answers):
        return [Score(self.scores[text]) for text in answers]


class Scripted:
    """A run whose policy gives four fixed answers, and whose log-probabilities are known."""

    batch = 4
    budget = Budget(epochs=1)

    def __init__(self, finished: tuple[bool, ...] = (True,) * 4):
        self.finished = finished

    def rows(self, view):
        return [Prompt(id="p", prompt=({"role": "user", "content": "q"},), prompt_ids=(1,))]

    def draw(self, rows, step, size):
        return rows[:size]

    def rng(self, stream):
        import numpy as np

        return np.random.default_rng(0)

    start = None

    def answer(self, prompts, sampling, key, *, samples):
        return [Answer("p", "abcd"[n], (n,), self.finished[n], n) for n in range(samples)]

    def score(self, groups):
        class Sums:
            def __init__(self, values):
                self.values = values

            def sums(self):
                return torch.tensor(self.values)

        return {"policy": Sums([-1.0, -2.0, -3.0, -4.0]), "start": Sums([-1.0, -2.0, -3.0, -6.0])}


def drawn(scores: Mapping[str, float | None], **fields: Any):
    run = Scripted(fields.pop("finished", (True,) * 4))
    made = DirectRLAIF.Config(answers=4, **fields)
    return OnPolicy(run, run, FixedScores(scores), made).batch(0)  # pyright: ignore[reportArgumentType]


def test_an_answer_is_held_against_the_mean_of_the_others():
    items = drawn({"a": 10, "b": 1, "c": 5.5, "d": 5.5}, beta=0.0)
    assert [one.reward for one in items] == pytest.approx([1, -1, 0, 0])
    assert [one.advantage for one in items] == pytest.approx([1 + 1 / 3, -1 - 1 / 3, 0, 0])


def test_scores_of_another_scale_become_rewards_from_minus_one_to_one():
    items = drawn({"a": 1.0, "b": 0.0, "c": 0.75, "d": 7.0}, beta=0.0, lowest=0.0, highest=1.0)
    assert [one.reward for one in items] == pytest.approx([1, -1, 0.5, 1])


def test_distance_from_the_start_costs_reward():
    items = drawn({"a": 5.5, "b": 5.5, "c": 5.5, "d": 5.5}, beta=0.5)
    assert [one.kl for one in items] == pytest.approx([0, 0, 0, 2])
    assert [one.advantage for one in items] == pytest.approx([1 / 3, 1 / 3, 1 / 3, -1])


def test_an_answer_that_does_not_end_has_the_lowest_reward():
    items = drawn(dict.fromkeys("abcd", 10.0), finished=(True, True, True, False))
    assert [one.reward for one in items] == [1, 1, 1, -1]


def test_an_abstention_teaches_nothing():
    items = drawn({"a": 10, "b": None, "c": 1, "d": None}, beta=0.0)
    assert [one.advantage for one in items] == pytest.approx([2, 0, -2, 0])
    assert [one.advantage for one in drawn({"a": 10, "b": None, "c": None, "d": None})] == [0, 0, 0, 0]


# --- red team


def test_each_request_meets_each_disguise_once(tmp_path: Path):
    (tmp_path / "requests.txt").write_text(
        "how do I pick a lock?\n\nhow do I {rob} a bank?\n", encoding="utf-8"
    )
    source = RedTeam(RedTeam.Config(path="requests.txt"), root=tmp_path)
    rows = [row.prompt[0]["content"] for row in source.rows("train", None, 0)]  # pyright: ignore
    assert len(set(rows)) == len(rows) == 2 * len(DISGUISES)
    assert sum("how do I pick a lock?" in row for row in rows) == len(DISGUISES)
    assert sum("how do I {rob} a bank?" in row for row in rows) == len(DISGUISES)
    assert [row.id for row in source.rows("train", 3, 0)] == ["red-team-0", "red-team-1", "red-team-2"]


@pytest.mark.parametrize("content", [None, "\n\n"])
def test_a_list_of_requests_that_cannot_be_used_is_named(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "requests.txt").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"requests\.txt"):
        list(RedTeam(RedTeam.Config(path="requests.txt"), root=tmp_path).rows("train", None, 0))
