"""Online DPO and rejection sampling: what is chosen, what is learnt, and the laws of the contract."""

from __future__ import annotations

from math import exp, log
from types import SimpleNamespace

import pytest
import torch
from alignbench_online import RAFT, OnlineDPO
from alignbench_online.training import BestTraining, Item, PairTraining, ended, extremes

from alignbench.testing import MethodSuite
from alignbench.testing.losses import group_scores, reduced

SMALL = {"max_new_tokens": 8}
NAN = float("nan")


class TestOnlineDPO(MethodSuite):
    method = "online-dpo"
    config = {**SMALL, "judge": {"self": {"wording": "sandbox"}}}

    def test_rounds_and_verdicts_are_departures_with_their_sizes(self, aligned):
        cost, found = aligned[0].ledger.cost, {one.what: one.own for one in aligned[0].ledger.departures}
        assert f"{cost.generated_tokens:,} tokens" in found["answers of its own"]
        assert found["feedback of a judge"] == f"{cost.judge_calls:,} calls, {cost.judge_tokens:,} tokens"


class TestOnlineIPOByAReward(MethodSuite):
    method = "online-dpo"
    config = {**SMALL, "answers": 3, "loss": "ipo", "rewards": ["length"], "rollout_batch_size": 16}


class TestRAFT(MethodSuite):
    method = "raft"
    config = SMALL
    variant = True
    """Rounds, judging and training are those of online DPO."""


class TestBestOfN(MethodSuite):
    method = "raft"
    config = {**SMALL, "source": "start", "rewards": [{"length": {"words": 3}}]}


def test_best_and_worst_leave_out_what_has_no_score():
    scores = torch.tensor([[1.0, 3.0, 2.0], [NAN, 1.0, 2.0], [5.0, 5.0, 5.0], [NAN, 1.0, NAN], [NAN] * 3])
    best, worst, decided = extremes(scores)
    assert best.tolist()[:2] == [1, 2]
    assert worst.tolist()[:2] == [0, 1]
    assert decided.tolist() == [True, True, False, False, False]


def test_an_answer_that_ends_wins_a_comparison_with_one_that_does_not():
    shares = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [NAN, NAN], [0.4, 0.6]])
    ends = torch.tensor([[True, True], [False, True], [True, False], [False, True], [False, False]])
    found = ended(shares, ends)
    assert torch.equal(found, torch.tensor([[0.9, 0.1], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.4, 0.6]]))
    assert extremes(found)[0].tolist() == [0, 1, 0, 1, 1]


def test_a_judge_that_scores_is_asked_for_scores_from_which_the_penalty_is_subtracted():
    answers = [SimpleNamespace(text=text, finished=ends) for text, ends in (("a", True), ("b", False)) * 2]
    drawn = SimpleNamespace(answers=answers, prompts=["p"] * 4)
    training = made(PairTraining, OnlineDPO.Config(missing_eos_penalty=0.5), {})
    training.judge, training.reward = None, lambda prompts, texts: [0.1, 0.7, None, 0.2]
    scores = training._scores(drawn)
    assert scores[0].tolist() == pytest.approx([0.1, 0.2])
    assert scores[1].isnan().tolist() == [True, False]
    assert extremes(scores)[2].tolist() == [True, False]


def made(kind, config, state):
    training = kind.__new__(kind)
    training.config, training.state = config, state
    return training


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_loss_of_a_pair_is_dpos_and_a_pair_without_a_preference_has_none(loss):
    mask = torch.tensor([[True, True], [True, False]])
    chosen = group_scores("chosen", mask, logps=torch.tensor([[-1.0, -2.0], [-1.0, 0.0]]))
    rejected = group_scores("rejected", mask, logps=torch.tensor([[-3.0, -1.0], [-2.0, 0.0]]))
    state = {
        "chosen_start": torch.tensor([-4.0, -1.0]),
        "rejected_start": torch.tensor([-3.0, -1.0]),
        "decided": torch.tensor([1.0, 0.0]),
    }
    training = made(PairTraining, OnlineDPO.Config(loss=loss, beta=0.5), state)
    found = training.loss({"chosen": chosen, "rejected": rejected}, [Item(0), Item(1)])[0]
    margin = (-3 + 4) - (-4 + 3)
    wanted = (margin / 2 - 1) ** 2 if loss == "ipo" else log(1 + exp(-0.5 * margin))
    assert found.tolist() == pytest.approx([wanted, 0.0])


def test_rejection_sampling_is_the_likelihood_of_the_best_answers():
    mask = torch.tensor([[True, True], [True, False]])
    best = group_scores("best", mask, logps=torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]))
    training = made(BestTraining, RAFT.Config(), {"decided": torch.tensor([1.0, 1.0])})
    assert reduced(training.loss, {"best": best}, [Item(0), Item(1)])[0].item() == pytest.approx(2.0)
