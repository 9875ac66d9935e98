"""The arithmetic of PPO: by hand, by brute force, and on the three-action example where DPO goes astray."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from alignbench_rlhf import losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = torch.arange(7)[None] < torch.tensor([[7], [1], [4], [5]])


def brute_force(rewards, values, length: int, at: int, gamma: float, gae_lambda: float) -> float:
    """The definition: the sum of all later one-step errors, each discounted by (gamma gae_lambda)^distance."""
    total = 0.0
    for later in range(at, length):
        ahead = values[later + 1] if later + 1 < length else 0.0
        total += (gamma * gae_lambda) ** (later - at) * (rewards[later] + gamma * ahead - values[later])
    return float(total)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_advantages_equal_the_definition(gamma: float, gae_lambda: float):
    rewards, values = random(4, 7), random(4, 7, seed=1)
    found, returns = losses.advantages(rewards, values, MASK, gamma=gamma, gae_lambda=gae_lambda)
    for row, length in enumerate(MASK.sum(1).tolist()):
        wanted = [
            brute_force(rewards[row], values[row], length, at, gamma, gae_lambda) for at in range(length)
        ]
        assert found[row, :length].tolist() == pytest.approx(wanted)
        above = [advantage + float(values[row, at]) for at, advantage in enumerate(wanted)]
        assert returns[row, :length].tolist() == pytest.approx(above)
    assert not found[~MASK].any()
    assert not returns[~MASK].any()


def test_with_lambda_one_the_return_is_the_sum_of_what_was_got():
    rewards = random(4, 7)
    _, returns = losses.advantages(rewards, random(4, 7, seed=1), MASK, gamma=1.0, gae_lambda=1.0)
    later = (rewards * MASK).flip(1).cumsum(1).flip(1) * MASK
    assert torch.allclose(returns, later)


def test_what_lies_beyond_an_answer_does_not_matter():
    rewards, values = random(4, 7), random(4, 7, seed=1)
    noise = torch.where(MASK, 0.0, 1e6)
    clean = losses.advantages(rewards, values, MASK, gamma=1.0, gae_lambda=0.95)
    spoilt = losses.advantages(rewards + noise, values + noise, MASK, gamma=1.0, gae_lambda=0.95)
    assert all(torch.equal(one, other) for one, other in zip(clean, spoilt, strict=True))


def test_each_token_pays_for_its_kl_and_the_last_one_gets_the_score():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 7.0, 7.0]])
    reference = torch.tensor([[-1.5, -1.0, -3.0], [-4.0, 0.0, 0.0]])
    found = losses.token_rewards(torch.tensor([2.0, -1.0]), logps, reference, mask, beta=0.1)
    assert torch.allclose(found, torch.tensor([[-0.05, 0.1, 2.0], [-1.3, 0.0, 0.0]]))


def test_whitening_shifts_and_scales_over_all_tokens_and_leaves_the_rest_zero():
    found = losses.whiten(random(4, 7), MASK)
    assert found[MASK].mean().item() == pytest.approx(0, abs=1e-9)
    assert found[MASK].std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert not found[~MASK].any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "wanted"),
    [(1.0, 2.0, -2.0), (1.5, 1.0, -1.2), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8)],
)
def test_the_policy_loss_by_hand(ratio: float, advantage: float, wanted: float):
    logps = torch.tensor(-1.0 + math.log(ratio))
    found = losses.policy_loss(logps, torch.tensor(-1.0), torch.tensor(advantage), clip=0.2)
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_beyond_the_clip_there_is_no_gradient_in_the_good_direction_and_all_of_it_back():
    logps = torch.tensor([math.log(1.5), math.log(1.5)], requires_grad=True)
    losses.policy_loss(logps, torch.zeros(2), torch.tensor([1.0, -1.0]), clip=0.2).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([0.0, 1.5])


@pytest.mark.parametrize(
    ("value", "old", "target", "wanted"),
    [(1.0, 0.5, 0.0, 0.5), (0.2, 0.5, 0.0, 0.045), (0.5, 0.5, 1.0, 0.125)],
)
def test_the_value_loss_by_hand(value: float, old: float, target: float, wanted: float):
    found = losses.value_loss(torch.tensor(value), torch.tensor(old), torch.tensor(target), clip=0.2)
    assert found.item() == pytest.approx(wanted, abs=1e-6)


def test_the_kl_coefficient_moves_by_at_most_a_fifth_of_the_share_of_its_horizon():
    assert losses.adapted(0.1, 600, 6, 100, 10_000) == pytest.approx(0.1 * 1.002)
    assert losses.adapted(0.1, 0, 6, 100, 10_000) == pytest.approx(0.1 * 0.998)
    assert losses.adapted(0.1, 6.6, 6, 100, 10_000) == pytest.approx(0.1 * 1.001)
    assert losses.adapted(0.1, 6, 6, 100, 10_000) == 0.1


class TestThreeActions:
    """Xu et al. 2024 (arXiv:2404.10719), table 1: the data prefer action 0 to 1, and nobody ever tried 2."""

    start = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    beta = 0.1
    features = torch.tensor([1.0, -1.0, 3.0], dtype=torch.float64)
    """How the one weight of `near` moves each action: the untried one shares the good one's feature."""
    near = torch.log(torch.tensor([0.5, 0.5, 1e-12], dtype=torch.float64))
    """Start log-probabilities of a policy that, as any network, gives nothing exactly no mass."""

    def dpo_loss(self, policy: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """The loss that alignbench-dpo trains with, on the one pair of the data; log-probabilities [3]."""
        dpo = pytest.importorskip("alignbench_dpo.losses")
        one = torch.ones(1)
        pairs = dpo.Pairs(*(dpo.Answers(policy[n : n + 1], start[n : n + 1], one) for n in range(2)))
        return dpo.pair_loss(pairs, one, "sigmoid", SimpleNamespace(beta=self.beta, label_smoothing=0.0))[0]

    def shared(self, weight: torch.Tensor) -> torch.Tensor:
        """The policy's log-probabilities: one weight that all three actions share."""
        return torch.log_softmax(self.near + weight * self.features, 0)

    def test_dpo_is_as_content_with_nine_tenths_on_the_untried_action(self):
        # Only the ratio of the two tried actions enters: its infimum, 0, is reached whatever the third gets.
        start = torch.log(self.start)
        for tiny in (1e-3, 1e-30, 1e-300):
            astray = torch.log(torch.tensor([0.1, 0.1 * tiny, 0.9], dtype=torch.float64))
            sound = torch.log(torch.tensor([1.0, tiny, 0.0], dtype=torch.float64))
            found = self.dpo_loss(astray, start).item()
            assert found == pytest.approx(self.dpo_loss(sound, start).item(), rel=1e-12)
        assert found < 1e-29

    def test_gradient_steps_on_dpos_loss_lead_to_the_untried_action(self):
        weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
        masses, losses_ = [], []
        for _ in range(800):
            loss = self.dpo_loss(self.shared(weight), self.near)
            (found,) = torch.autograd.grad(loss, weight)
            weight = (weight - 50.0 * found).detach().requires_grad_()
            masses.append(self.shared(weight)[2].exp().item())
            losses_.append(loss.item())
        assert losses_ == sorted(losses_, reverse=True)
        assert losses_[0] == pytest.approx(math.log(2))
        assert losses_[-1] < 1e-3
        assert masses[-1] > 0.9

    @pytest.mark.parametrize("begin", [0.0, 15.0], ids=["from the start", "from where DPO went"])
    def test_ppo_of_the_same_weight_on_the_true_reward_drives_it_to_nothing(self, begin: float):
        reward = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
        weight = torch.tensor(begin, dtype=torch.float64, requires_grad=True)
        assert (self.shared(weight)[2].exp() > 0.9) == (begin > 0)
        for _ in range(500):
            logps = self.shared(weight)
            old = logps.detach()
            got = losses.token_rewards(
                reward, old[:, None], self.near[:, None], torch.ones(3, 1, dtype=torch.bool), self.beta
            )[:, 0]
            advantage = got - (old.exp() * got).sum()
            loss = (old.exp() * losses.policy_loss(logps, old, advantage, clip=0.2)).sum()
            (found,) = torch.autograd.grad(loss, weight)
            weight = (weight - 1.0 * found).detach().requires_grad_()
        policy = self.shared(weight).detach().exp()
        assert policy[0].item() > 0.99
        assert policy[2].item() < 1e-3

    def test_ppo_gives_it_exactly_nothing_even_where_the_reward_model_raves_about_it(self):
        reward = torch.tensor([1.0, -1.0, 100.0], dtype=torch.float64)
        logits = torch.log(self.start).requires_grad_()
        for _ in range(4000):
            logps = torch.log_softmax(logits, 0)
            old = logps.detach()
            drawn = old.exp() > 0  # what has no probability is never in a rollout
            got = losses.token_rewards(
                reward[drawn], old[drawn, None], torch.log(self.start)[drawn, None],
                drawn[drawn, None], self.beta,
            )[:, 0]  # fmt: skip
            advantage = got - (old.exp()[drawn] * got).sum()
            step = losses.policy_loss(logps[drawn], old[drawn], advantage, clip=0.2)
            (found,) = torch.autograd.grad((old.exp()[drawn] * step).sum(), logits)
            logits = (logits - 1.0 * found.where(drawn, 0.0)).detach().requires_grad_()
        policy = torch.softmax(logits.detach(), 0)
        best = self.start * torch.exp(reward.where(self.start > 0, 0.0) / self.beta)
        assert policy[2].item() == 0.0
        assert torch.allclose(policy, best / best.sum(), atol=1e-3)
