"""The odds-ratio loss against numbers worked by hand, fifty digits, and TRL's on the same tensors."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from types import SimpleNamespace

import pytest
import torch
from alignbench_orpo import ORPO, loss_of
from alignbench_orpo.losses import log1mexp, log_odds_ratio, odds_ratio_loss

from alignbench import Pair
from alignbench.testing.losses import group_scores, reduced

LIKELY = [-1e-6, -1e-4, -0.01, -0.3, -0.6931, -0.6932, -1.0, -5.0, -20.0, -80.0]


def exact(x: float) -> float:
    """log(1 - exp(x)) with fifty digits, of the number that float32 makes of x."""
    getcontext().prec = 50
    return float((1 - Decimal(torch.tensor(x).item()).exp()).ln())


@pytest.mark.parametrize("x", LIKELY)
def test_log1mexp_is_right_to_the_last_bits_of_float32(x):
    assert log1mexp(torch.tensor(x)).item() == pytest.approx(exact(x), rel=3e-7)


@pytest.mark.parametrize("x", LIKELY)
def test_the_gradient_of_log1mexp_is_right_at_both_ends(x):
    at = torch.tensor(x, requires_grad=True)
    log1mexp(at).backward()
    wanted = -1 / math.expm1(-at.item()) if x > -50 else -math.exp(x)
    assert at.grad.item() == pytest.approx(wanted, rel=1e-5)


def test_the_log_odds_ratio_of_plain_probabilities():
    chosen, rejected = torch.tensor([0.8, 0.5, 0.2]).log(), torch.tensor([0.2, 0.5, 0.6]).log()
    ratios = [math.log(4 / 0.25), 0.0, math.log(0.25 / 1.5)]
    assert log_odds_ratio(chosen, rejected).tolist() == pytest.approx(ratios, rel=1e-5, abs=1e-6)
    losses = odds_ratio_loss(chosen, rejected, torch.ones(3)).tolist()
    assert losses == pytest.approx([math.log(1 + math.exp(-ratio)) for ratio in ratios], rel=1e-5)


def test_equally_likely_answers_have_the_loss_of_a_coin():
    for mean in (-1e-5, -0.5, -10.0):
        at = torch.full((2,), mean)
        assert odds_ratio_loss(at, at, torch.tensor([1.0, 0.3])).tolist() == pytest.approx([math.log(2)] * 2)


def test_a_soft_label_takes_the_expectation():
    chosen, rejected = torch.tensor([-0.5]), torch.tensor([-2.0])
    right = odds_ratio_loss(chosen, rejected, torch.ones(1))
    wrong = odds_ratio_loss(rejected, chosen, torch.ones(1))
    soft = odds_ratio_loss(chosen, rejected, torch.tensor([0.7]))
    torch.testing.assert_close(soft, 0.7 * right + 0.3 * wrong)


def test_an_answer_of_probability_one_stays_finite():
    mean = torch.tensor([0.0, -1e-9, -200.0], requires_grad=True)
    loss = odds_ratio_loss(mean, mean.flip(0), torch.ones(3)).sum()
    loss.backward()
    assert loss.isfinite()
    assert mean.grad.isfinite().all()


def test_a_certain_rejected_answer_is_pushed_down_and_a_certain_chosen_one_is_not_pulled():
    chosen = torch.tensor([-1.0, 0.0], requires_grad=True)
    rejected = torch.tensor([0.0, -1.0], requires_grad=True)
    odds_ratio_loss(chosen, rejected, torch.ones(2)).sum().backward()
    assert rejected.grad[0].item() == pytest.approx(1e6, rel=1e-3)  # 1 / (1 - p) where p is e^-1e-6
    assert -1 < chosen.grad[1].item() < 0  # the loss is nearly 0 there


def test_the_log_odds_and_their_slope_have_no_step_where_the_line_begins():
    from alignbench_orpo.losses import CERTAIN

    means = torch.tensor([1.001 * CERTAIN, 0.999 * CERTAIN], requires_grad=True)
    odds = log_odds_ratio(means, torch.full((2,), -0.5))
    odds.sum().backward()
    assert (odds[1] - odds[0]).item() == pytest.approx(0.002, abs=5e-4)
    assert means.grad[1].item() == pytest.approx(means.grad[0].item(), rel=0.01)


def test_the_odds_ratio_loss_equals_trls_on_the_same_tensors():
    from trl.experimental.orpo import ORPOTrainer

    trl = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = -torch.rand(2, 100, generator=draw) * 6 - 1e-3
    losses, _, _, _, log_odds = ORPOTrainer.odds_ratio_loss(trl, chosen, rejected)
    mine = odds_ratio_loss(chosen, rejected, torch.ones(100))
    torch.testing.assert_close(0.3 * mine, -losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_odds_ratio(chosen, rejected).mean(), log_odds, rtol=1e-6, atol=1e-6)


def test_the_whole_loss_is_the_nll_of_all_chosen_tokens_and_the_weighted_odds_of_the_rows():
    chosen = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 0, 0]])
    rejected = torch.tensor([[-4.0, 0], [-0.5, -0.7]])
    rows = [Pair(id=str(n), prompt=(), chosen="", rejected="") for n in range(2)]
    nll = 6.5 / 4

    def odds(p):
        return math.exp(p) / (1 - math.exp(p))

    term = [math.log(1 + odds(r) / odds(c)) for c, r in ((-2.0, -4.0), (-0.5, -0.6))]
    scores = {
        name: group_scores(name, logps != 0, logps=logps)
        for name, logps in (("chosen", chosen), ("rejected", rejected))
    }
    for weight in (0.0, 0.1, 2.0):
        loss, numbers = reduced(loss_of(weight), scores, rows)
        assert loss.item() == pytest.approx(nll + weight * sum(term) / 2, rel=1e-6)
    assert numbers["nll_loss"] == pytest.approx(nll)
    assert numbers["rewards/accuracies"] == 1
    assert (numbers["logps/chosen"], numbers["logps/rejected"]) == pytest.approx((-3.25, -2.6))
    assert numbers["log_odds_ratio"] == pytest.approx(-sum(term) / 2)


def test_a_weight_of_zero_is_imitation():
    assert ORPO.Config(odds_weight=0).odds_weight == 0
    with pytest.raises(ValueError, match="odds_weight"):
        ORPO.Config(odds_weight=-0.1)
