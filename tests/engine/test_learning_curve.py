"""A policy is followed while it trains: its answers are judged afterwards, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignbench import layout
from alignbench.api.config import Settings
from alignbench.errors import DataError
from alignbench.judges.gold import Gold
from alignbench.recipe.schema import Curve, Recipe
from alignbench.rows import Demonstration
from alignbench.rows import Sequence as Scorable
from alignbench.testing.sessions import open_session
from alignbench.worker.run import learning_curve
from alignbench.worker.run.context import CellContext

CURVE = {"evaluations": 2, "prompts": 4}


def make_run(folder: Path, curve: dict[str, int] | None, **changes: Any) -> CellContext:
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 64, "max_length": 128},
        "training": {"batch": 8, "threads": 1},
        "budget": {"steps": 4},
        "methods": {"tried": {"method": "frozen"}},
        "evaluation": {"judges": ["gold"], "sampling": {"max_new_tokens": 8}, "curve": curve},
        **changes,
    }
    session = open_session(folder, recipe, home=folder.parent / "home")
    return CellContext(session, label="tried", seed=0, method="frozen", start="base", folder=folder)


def likelihood(scored: Any, rows: Any) -> Any:
    return -scored["all"].logps, {}


def train(run: CellContext, loss: Any = likelihood, **how: Any) -> list[torch.Tensor]:
    """Fine-tune, and return the weights."""
    policy = run.adapt()
    run.train(
        policy,
        run.rows(Demonstration),
        lambda rows: {"all": [one for row in rows for one in row.sequences()]},
        loss,
        learning_rate=3e-3,
        **how,
    )
    return list(policy.parameters())  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[CellContext, list[torch.Tensor]]:
    folder = tmp_path_factory.mktemp("curve") / "followed"
    run = make_run(folder, CURVE)
    lengths = lambda items: torch.tensor([float(len(one.response)) for one in items])  # noqa: E731
    return run, train(run, proxy=lengths)


def test_a_followed_training_ends_with_the_weights_budget_and_cost_of_one_that_is_not(
    followed: tuple[CellContext, list[torch.Tensor]], tmp_path: Path
):
    run, weights = followed
    alone = make_run(tmp_path / "alone", None)
    assert all(torch.equal(one, other) for one, other in zip(weights, train(alone), strict=True))
    assert run.ledger.cost.train_tokens == alone.ledger.cost.train_tokens
    assert run.ledger.cost.generated_tokens == alone.ledger.cost.generated_tokens == 0
    assert run.curves.read_text().count("\n") == alone.curves.read_text().count("\n")
    assert not (alone.folder / layout.LEARNING_CURVE).exists()


def test_the_judge_scores_the_start_and_every_evaluation_afterwards(
    followed: tuple[CellContext, list[torch.Tensor]],
):
    run, _ = followed
    found = learning_curve.judged(run.session, run.folder, "gold", Gold(Settings()))
    assert [one["step"] for one in found["learning_curve"]] == [0, 2, 4]
    assert all(0 <= one["score"]["value"] <= 1 for one in found["learning_curve"])
    lines = learning_curve.read(run.folder)
    assert [line["proxy"] for line in lines if line["step"] == 4] == pytest.approx(
        [float(len(line["text"].split())) for line in lines if line["step"] == 4], abs=1
    )


def test_the_distance_from_base_is_that_of_the_answers_given_on_the_way(
    followed: tuple[CellContext, list[torch.Tensor]],
):
    run, _ = followed
    base, (policy,) = run.session.base, run.adapted
    asked = run.session.table.prompts("validation", CURVE["prompts"])
    answers = policy.answer(asked, run.session.recipe.evaluation.sampling.unscaled, run.seed)
    items = [Scorable(one.prompt_ids, found.ids) for one, found in zip(asked, answers, strict=True)]
    own, other = policy.logprobs(items), base.policy().logprobs(items)
    apart = [float((p.logps - q.logps).sum()) for p, q in zip(own, other, strict=True)]
    lines = learning_curve.read(run.folder)
    assert [line["kl"] for line in lines if line["step"] == 4] == pytest.approx(apart, abs=1e-4)
    assert [line["kl"] for line in lines if line["step"] == 0] == pytest.approx([0] * 4, abs=1e-4)
    curve = learning_curve.judged(run.session, run.folder, "gold", Gold(Settings()))["learning_curve"]
    assert curve[-1]["kl"]["value"] == pytest.approx(sum(apart) / 4, abs=1e-4)


def test_a_killed_training_goes_on_with_the_answers_it_has_given(
    followed: tuple[CellContext, list[torch.Tensor]], tmp_path: Path
):
    run = make_run(tmp_path / "killed", CURVE)
    run.session.task = replace(run.session.task, every=0.0)  # a checkpoint after each step
    steps = iter(range(10))

    def power_cut(scored, rows):
        if next(steps) == 3:
            raise KeyboardInterrupt
        return -scored["all"].logps, {}

    with pytest.raises(KeyboardInterrupt):
        train(run, loss=power_cut)
    assert not (run.folder / layout.LEARNING_CURVE).exists()
    again = CellContext(run.session, label="tried", seed=0, method="frozen", start="base", folder=run.folder)
    weights = train(again)
    whole, expected = followed
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    found, wanted = ([line["text"] for line in learning_curve.read(one.folder)] for one in (again, whole))
    assert found == wanted


def test_a_method_without_a_reward_of_its_own_has_a_curve_and_no_proxy(tmp_path: Path):
    run = make_run(tmp_path / "plain", CURVE)
    train(run)
    found = learning_curve.judged(run.session, run.folder, "gold", Gold(Settings()))
    assert [one["proxy"] for one in found["learning_curve"]] == [None] * 3
    assert found["warnings"] == []


def test_a_second_training_of_the_same_cell_goes_on_where_the_first_ended(tmp_path: Path):
    line = {"prompt_id": "a", "text": "yes", "proxy": None}
    learning_curve.add(tmp_path, [{"step": 0, **line}, {"step": 6, **line}])
    learning_curve.add(tmp_path, [{"step": 0, **line}, {"step": 4, **line}])
    assert [one["step"] for one in learning_curve.read(tmp_path)] == [0, 6, 6, 10]


def test_too_few_validation_prompts_are_refused_before_anything_is_trained(tmp_path: Path):
    rows = [{"prompt": f"sum {n} plus 1", "chosen": str(n + 1), "rejected": "no"} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"validation": 0.0, "test": 0.2}
    data = {"train": str(tmp_path / "rows.jsonl"), "max_length": 128, "split": split}
    with pytest.raises(DataError, match="0 are left for validation"):
        make_run(tmp_path / "none", CURVE, data=data)


def test_a_curve_without_a_judge_is_refused():
    with pytest.raises(ValueError, match=r"name one in evaluation\.judges"):
        Recipe.model_validate(
            {
                "model": {"id": "sandbox"},
                "data": {"train": "sandbox"},
                "methods": {"tried": {"method": "frozen"}},
                "evaluation": {"curve": CURVE},
            }
        )
    assert Curve().evaluations == 8


def worth(*means: float) -> np.ndarray:
    """Values [evaluations, 64 prompts] with these means and a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.2, (len(means), 64))
    return np.array(means)[:, None] + noise


@pytest.mark.parametrize(
    ("gold", "proxy", "since"),
    [
        ((0.5, 0.8, 0.4), (0.0, 1.0, 2.0), 2),  # over-optimised after the middle evaluation
        ((0.9, 0.8, 0.4), (0.0, 1.0, 2.0), 0),  # from the first step on
        ((0.5, 0.7, 0.8), (0.0, 1.0, 2.0), None),  # both rise
        ((0.8, 0.6, 0.4), (2.0, 1.0, 0.0), None),  # both fall: worse, but not over-optimised
        ((0.5, 0.5, 0.48), (0.0, 1.0, 2.0), None),  # a fall that chance explains
    ],
)
def test_there_is_a_warning_where_the_proxy_rises_while_the_score_falls(
    gold: tuple[float, ...], proxy: tuple[float, ...], since: int | None
):
    each = [str(place) for place in range(64)]
    found = learning_curve._over_optimised("gold", [0, 2, 4], worth(*gold), worth(*proxy), each)
    assert (found is None) == (since is None)
    if found is not None:
        assert found.startswith(f"step 4: since step {since} the reward it learns from rose by")
        assert "evaluation judge gold fell by" in found


def test_prompts_of_one_conversation_count_as_one_in_the_curve_and_in_its_warning(
    followed: tuple[CellContext, list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch
):
    run, _ = followed
    table = run.session.table
    asked = table.prompts("validation", CURVE["prompts"])
    first = {"role": "user", "content": "Good morning."}
    shared = [replace(one, prompt=(first, *one.prompt)) for one in asked[:2]]
    monkeypatch.setattr(table, "prompts", lambda *_: [*shared, *asked[2:]])
    found = learning_curve.judged(run.session, run.folder, "gold", Gold(Settings()))
    assert {one["kl"]["n"] for one in found["learning_curve"]} == {3}

    gold, proxy = worth(0.4, 0.45, 0.4), worth(0.0, 1.0, 2.0)
    each, pairs = ([str(place // size) for place in range(64)] for size in (1, 2))
    gold[:, 1::2], proxy[:, 1::2] = gold[:, ::2], proxy[:, ::2]  # two prompts of a conversation say the same
    assert learning_curve._over_optimised("gold", [0, 2, 4], gold, proxy, each) is not None
    assert learning_curve._over_optimised("gold", [0, 2, 4], gold, proxy, pairs) is None
