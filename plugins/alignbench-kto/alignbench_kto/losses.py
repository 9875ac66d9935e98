"""The losses of unpaired preferences on tensors: N answers, `ratio` = log pi(y|x)/ref(y|x) of each as a whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def kto(ratio: Tensor, desirable: Tensor, beta: float, kl: Tensor | float) -> Tensor:
    """Return 1 - s(beta (ratio - kl)), for an undesirable answer 1 - s(beta (kl - ratio)); [N].

    `kl` is the reference point, in nats for an answer, at least 0 (arXiv:2402.01306, eq. 7).
    """
    return 1 - torch.sigmoid(_sign(desirable) * beta * (ratio - kl))


def bco(ratio: Tensor, desirable: Tensor, beta: float, shift: Tensor | float) -> Tensor:
    """Return -log s(beta ratio - shift), for an undesirable answer -log s(shift - beta ratio); [N].

    `shift` is half the sum of the mean rewards of the desirable and of the undesirable answers so far
    (arXiv:2404.04656).
    """
    return -logsigmoid(_sign(desirable) * (beta * ratio - shift))


def apo_zero(ratio: Tensor, desirable: Tensor, beta: float) -> Tensor:
    """Return 1 - s(beta ratio), for an undesirable answer s(beta ratio); [N] (arXiv:2408.06266, eq. 7)."""
    return 1 - torch.sigmoid(_sign(desirable) * beta * ratio)


def _sign(desirable: Tensor) -> Tensor:
    return torch.where(desirable, 1.0, -1.0)
