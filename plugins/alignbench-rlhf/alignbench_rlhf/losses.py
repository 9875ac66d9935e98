"""The arithmetic of PPO on tensors [N, R]: N answers, R positions, `mask` True on the answer's tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(score: Tensor, logps: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return [N, R]: minus beta times the KL of each token, and on an answer's last token its score [N] too.

    The KL of a token is its plain log-ratio, k1: in expectation the gradient of the reward's own KL.
    """
    rewards = -beta * (logps - reference).masked_fill(~mask, 0.0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, score[:, None])


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, [N, R] each, by generalised advantage estimation (arXiv:1506.02438).

    delta_t = r_t + gamma V_(t+1) - V_t and A_t = delta_t + gamma gae_lambda A_(t+1); nothing follows the last token.
    """
    found = torch.zeros_like(rewards)
    ahead = torch.zeros_like(rewards[:, 0])
    value = torch.zeros_like(rewards[:, 0])
    for at in reversed(range(rewards.shape[1])):
        inside = mask[:, at]
        delta = rewards[:, at] + gamma * value - values[:, at]
        ahead = torch.where(inside, delta + gamma * gae_lambda * ahead, 0.0)
        value = torch.where(inside, values[:, at], 0.0)
        found[:, at] = ahead
    return found, (found + values).masked_fill(~mask, 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Return the values with mean 0 and standard deviation 1 over the mask, and 0 outside."""
    inside = values[mask]
    scaled = (values - inside.mean()) / (inside.std(correction=0) + 1e-8)
    return scaled.masked_fill(~mask, 0.0)


def policy_loss(logps: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return the clipped surrogate loss of each token (arXiv:1707.06347, eq. 7)."""
    ratio = torch.exp(logps - old)
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return half the squared error of each value, or of the value kept within `clip` of its old one: the
    larger."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def adapted(beta: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """Return the KL coefficient after `answers` answers of mean KL `kl` nats (arXiv:1909.08593, 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * answers / horizon)
