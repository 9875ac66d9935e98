"""Weights chosen by what a judge says of their answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from alignbench.api.config import NamedJudge, Sampling, Select
from alignbench.api.judge import Judge, Score
from alignbench.rows import Demonstration, Prompt
from alignbench.testing.sessions import open_session
from alignbench.worker.run.context import CellContext

EVALUATIONS = 4


class ScriptedJudge(Judge):
    """Gives the answers of each evaluation the next of its scores."""

    trains = True
    scores = (0.1, 0.7, 0.3, 0.2)

    def __init__(self):
        super().__init__()
        self.asked: list[list[str]] = []

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        self.asked.append(list(answers))
        return [Score(self.scores[len(self.asked) - 1])] * len(answers)


def test_the_weights_of_the_best_evaluation_are_kept_and_both_curves_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 64, "max_length": 128},
        "training": {"batch": 8, "threads": 1},
        "budget": {"steps": 8},
        "methods": {"tried": {"method": "frozen"}},
    }
    run = CellContext(
        open_session(tmp_path, recipe), label="tried", seed=0, method="frozen", start="base", folder=tmp_path
    )
    judge = ScriptedJudge()
    monkeypatch.setattr(run, "judge", lambda named: judge)
    policy = run.adapt()
    weights = list(policy.parameters())  # pyright: ignore[reportAttributeAccessIssue]
    weights_then: list[list[torch.Tensor]] = []
    score = judge.score

    def watched(prompts, answers):
        weights_then.append([weight.detach().clone() for weight in weights])
        return score(prompts, answers)

    judge.score = watched
    run.train(
        policy,
        run.rows(Demonstration),
        lambda rows: {"all": [one for row in rows for one in row.sequences()]},
        lambda scored, rows: (-scored["all"].logps, {}),
        learning_rate=3e-3,
        select=Select(
            by=NamedJudge(name="scripted"),
            evaluations=EVALUATIONS,
            prompts=4,
            sampling=Sampling(max_new_tokens=8),
        ),
    )
    assert len(weights_then) == EVALUATIONS
    assert all(torch.equal(now, best) for now, best in zip(weights, weights_then[1], strict=True))
    assert not all(torch.equal(now, last) for now, last in zip(weights, weights_then[-1], strict=True))
    lines = [json.loads(line) for line in run.curves.read_text(encoding="utf-8").splitlines()]
    evaluations = [line for line in lines if "validation_score" in line]
    assert [line["step"] for line in evaluations] == [2, 4, 6, 8]
    assert [line["validation_score"] for line in evaluations] == pytest.approx(list(ScriptedJudge.scores))
    assert all(line["validation_nll"] > 0 for line in evaluations)
