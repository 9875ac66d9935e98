"""The losses of direct preference optimisation on tensors: each a function of one margin per pair."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Loss = Literal["sigmoid", "ipo", "hinge", "robust"]


def pair_loss(
    margin: Tensor, preference: Tensor, *, loss: Loss, beta: float, label_smoothing: float
) -> Tensor:
    """Return the loss of each pair, float32 [N].

    `margin` [N] is how much the policy has raised the chosen answer over the rejected one, both measured
    against the reference: log pi(c)/ref(c) - log pi(r)/ref(r); for `ipo` each log-ratio is divided by the
    answer's length. `preference` [N] is the probability that the chosen answer is the better one.

    Every loss is an expectation over which of the two is better, so a soft label mixes l(margin) and
    l(-margin), and smoothing the labels mixes them further: `sigmoid` as conservative DPO (Mitchell 2023),
    `robust` without bias where the share `label_smoothing` of the labels is flipped (arXiv:2403.00409).
    """
    if loss == "robust":
        weight = (preference - label_smoothing) / (1 - 2 * label_smoothing)
    else:
        weight = preference * (1 - label_smoothing) + (1 - preference) * label_smoothing
    return weight * _hard(margin, loss, beta) + (1 - weight) * _hard(-margin, loss, beta)


def unmoved(loss: Loss, beta: float) -> float:
    """Return the loss of any pair while the policy equals its reference."""
    return {"sigmoid": math.log(2), "robust": math.log(2), "hinge": 1.0, "ipo": 1 / (4 * beta**2)}[loss]


def _hard(margin: Tensor, loss: Loss, beta: float) -> Tensor:
    if loss == "hinge":
        return F.relu(1 - beta * margin)
    if loss == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    return -F.logsigmoid(beta * margin)
