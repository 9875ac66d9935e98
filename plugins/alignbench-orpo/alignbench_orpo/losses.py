"""The odds-ratio loss on tensors, stable in float32 for answers of any likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CERTAIN = -1e-6
"""From this mean log-probability on, the log odds go on as a straight line, with the slope they have here:
the odds of a certain answer are infinite, and a rejected one must still be pushed down."""


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log(odds(chosen) / odds(rejected)), float32 [N], of mean log-probabilities per token [N]."""
    return _log_odds(chosen) - _log_odds(rejected)


def odds_ratio_loss(chosen: Tensor, rejected: Tensor, preference: Tensor) -> Tensor:
    """Return -log sigmoid(log odds ratio) of each pair, float32 [N]; a soft label takes its expectation."""
    ratio = log_odds_ratio(chosen, rejected)
    return -(preference * F.logsigmoid(ratio) + (1 - preference) * F.logsigmoid(-ratio))


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x < 0, without cancellation at either end, in value and gradient.

    Source: Maechler 2012, "Accurately computing log(1 - exp(-|a|))".
    """
    half = -math.log(2)
    # Each branch sees only arguments it is good for: the unused one would send NaN through the gradient.
    near, far = x.clamp(min=half), x.clamp(max=half)
    return torch.where(x > half, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


def _log_odds(mean: Tensor) -> Tensor:
    mean = mean.float()
    near = mean.clamp(max=CERTAIN)
    return near - log1mexp(near) - (mean - near) / math.expm1(CERTAIN)
