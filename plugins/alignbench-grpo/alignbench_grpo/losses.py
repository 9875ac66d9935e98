"""The losses of GRPO and RLOO on tensors [N, R]: N answers, R positions, `mask` True on the answer's tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """Return the estimate of each token's KL, r - log r - 1 with r = ref/pi (arXiv:2402.03300, eq. 4); [N, R]."""
    off = reference - logps
    return torch.exp(off) - off - 1


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Return -min(ratio A, clip(ratio, 1 - low, 1 + high) A), in the shape of `ratio` (arXiv:2503.14476, eq. 8)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def outside(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Return whether the clip takes effect, in the shape of `ratio`: outside the range on the side that A pushes to."""
    return (ratio < 1 - low) & (advantage < 0) | (ratio > 1 + high) & (advantage > 0)


def ratios(logps: Tensor, old: Tensor, mask: Tensor, level: str) -> Tensor:
    """Return pi/old of each token [N, R], or the answer's geometric mean of them [N, 1] (arXiv:2507.18071, eq. 7)."""
    off = (logps - old).masked_fill(~mask, 0.0)
    return torch.exp(off if level == "token" else off.sum(1, keepdim=True) / mask.sum(1, keepdim=True))


def of_answers(per_token: Tensor, mask: Tensor, normalise: str, longest: int) -> Tensor:
    """Return a value [N] for each answer: the mean of its tokens' (`sequence`), or their sum / `longest`."""
    total = (per_token * mask).sum(1)
    return total / (mask.sum(1) if normalise == "sequence" else longest)


def rloo(logps: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Return the loss [N] of whole answers, whose log-probabilities [N] are sums (arXiv:2402.14740)."""
    return clipped(torch.exp(logps - old), advantage, low, high)
