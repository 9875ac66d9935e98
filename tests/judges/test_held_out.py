"""Rows held out for a judge, and stages kept apart: who sees which rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignbench import rewards
from alignbench.engine import keys, tuning
from alignbench.engine.cells import cells_of
from alignbench.errors import RecipeError
from alignbench.judges.reward_model import RewardModel
from alignbench.recipe.resolve import resolve
from alignbench.rows import Demonstration, Pair, Prompt, Ranking
from alignbench.testing.sessions import open_session
from alignbench.worker.run.context import CellContext, judge_reward_model
from alignbench.worker.run.model_access import ModelAccess
from alignbench.worker.run.session import Session

JUDGE = {"reward-model": {"train_on": "held-out", "share": 0.4, "learning_rate": 1e-3}}


def make_session(folder: Path, **changes: Any) -> Session:
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 96, "max_length": 128, **changes.pop("data", {})},
        "training": {"batch": 16, "threads": 1},
        "methods": {"tried": {"method": "frozen"}},
        **changes,
    }
    return open_session(folder, recipe)


def seen(session: Session, view: type[Any]) -> set[str]:
    run = CellContext(session, label="tried", seed=0, method="frozen", start="base", folder=session.run)
    return {row.id for row in run.rows(view)}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("held-out")
    return make_session(
        folder, evaluation={"prompts": 8, "judges": [JUDGE], "sampling": {"temperature": 1.0}}
    )


def test_methods_never_see_the_rows_that_a_judge_is_trained_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    original = rewards.reward_model

    def spy(run: CellContext, rows: Any = None, **how: Any) -> Any:
        read.extend(row.id for row in rows)
        return original(run, rows, **how)

    monkeypatch.setattr(rewards, "reward_model", spy)
    judge = RewardModel(RewardModel.Config(**JUDGE["reward-model"]))
    judge.open(ModelAccess(session, None, judge_reward_model(session)))
    kept = {row.id for row in session.table.kept("train")}
    for view in (Demonstration, Pair, Ranking, Prompt):
        assert not seen(session, view) & set(read)
    assert seen(session, Prompt) | set(read) == kept
    assert 0.2 < len(read) / len(kept) < 0.6
    assert judge.quality["comparisons"] > 0
    prompts = session.table.prompts("test", 4)
    spent: list[dict[str, float]] = []
    judge.record_cost = lambda **one: spent.append(one)
    scores = [score.value for score in judge.score(prompts * 2, ["i do not know ."] * 4 + ["no ."] * 4)]
    assert [one["judge_calls"] for one in spent] == [8]
    assert spent[0]["judge_tokens"] > 8
    assert all(isinstance(score, float) for score in scores)
    assert scores[:4] == [one.value for one in judge.score(prompts, ["i do not know ."] * 4)]


def test_a_reward_model_of_the_methods_own_rows_cannot_evaluate(session: Session):
    judge = RewardModel(RewardModel.Config(train_on="train"))
    with pytest.raises(RecipeError, match="cannot evaluate"):
        judge.open(ModelAccess(session, None, judge_reward_model(session)))


@pytest.mark.parametrize("config", [{}, {"id": "some/model", "train_on": "held-out"}])
def test_a_reward_model_is_named_or_trained_and_not_both(config: dict[str, str]):
    with pytest.raises(ValueError, match="set either `id` or `train_on`"):
        RewardModel.Config(**config)  # pyright: ignore[reportArgumentType]


def test_shared_stages_see_the_same_rows_and_disjoint_ones_share_none(tmp_path: Path):
    for name in ("shared", "disjoint"):
        (tmp_path / name).mkdir()
    shared = make_session(tmp_path / "shared")
    assert (
        seen(shared, Demonstration) == seen(shared, Prompt) == {row.id for row in shared.table.kept("train")}
    )
    disjoint = make_session(tmp_path / "disjoint", data={"stages": "disjoint", "split": {"by": "user"}})
    parts = [seen(disjoint, view) for view in (Demonstration, Ranking, Prompt)]
    assert set.union(*parts) == {row.id for row in disjoint.table.kept("train")}
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert seen(disjoint, Pair) == parts[1]
    by_user = [
        {row.extra["user"] for row in disjoint.table.kept("train") if row.id in part} for part in parts
    ]
    assert not by_user[0] & by_user[1]
    assert not by_user[1] & by_user[2]


def test_the_judge_that_chooses_shares_no_row_with_the_judge_that_reports_and_methods_see_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    swept = {
        "evaluation": {"prompts": 8, "judges": [{"reward-model": {"train_on": "held-out", "share": 0.3}}]},
        "methods": {"tried": {"method": "frozen"}},
        "sweep": {"trials": 2},
    }
    session = make_session(tmp_path, **swept)
    trials = tuning.expanded(session.recipe)
    assert resolve(trials).reserved == session.plan.reserved == 0.6
    read: list[set[str]] = []
    monkeypatch.setattr(
        rewards,
        "reward_model",
        lambda run, rows=None, **how: read.append({row.id for row in rows or ()}),
    )
    for recipe in (session.recipe, trials):
        (named,) = recipe.evaluation.judges
        part = RewardModel.Config(**named.config)
        judge_reward_model(session)((part.after, part.after + part.share))
    reports, chooses = read
    kept = {row.id for row in session.table.kept("train")}
    assert not reports & chooses
    assert min(len(reports), len(chooses)) > 0.15 * len(kept)
    assert kept - reports - chooses == seen(session, Prompt)


def test_a_cell_of_fewer_rows_is_another_cell(session: Session):
    given = session.recipe
    without = given.model_copy(update={"evaluation": given.evaluation.model_copy(update={"judges": []})})
    cell = cells_of(resolve(given))[-1]
    one, other = (
        keys.cell_key(resolve(one), cell, versions={}, data="", parents={}, files={})
        for one in (given, without)
    )
    assert one != other
