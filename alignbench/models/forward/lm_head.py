"""The language-model head on response states: log-probabilities, without the logits of all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignbench.models import counting
from alignbench.models.forward.memory import LOGITS
from alignbench.models.forward.network import Network


def log_probabilities(base: Network, states: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return float32 [M]: the log-probability of each target [M] after a state [M, hidden]."""
    if base.device.type == "cpu" and len(states) <= _rows(base):
        return _project(base, states, targets, temperature)[0]
    return _InPieces.apply(base, states, targets, temperature, None)[0]  # pyright: ignore[reportIndexIssue]


def log_probabilities_and_kl(
    base: Network, states: Tensor, others: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return two float32 [M]: log-probabilities, and KL(other || this) of the distributions after two states.

    `states` and `others` are [M, hidden]; `others` are those of the other policy and get no gradient.
    """
    return _InPieces.apply(base, states, targets, temperature, others)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def log_probabilities_and_entropies(base: Network, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return two float32 [M], without gradient: log-probabilities, and entropies in nats."""
    found = torch.empty(2, len(states), device=base.device)
    for piece in _pieces(base, states):
        # Normalised first: the entropy as a difference of two large numbers would lose a digit.
        logps = base.logits(states[piece]).log_softmax(-1)
        found[0, piece] = logps.gather(-1, targets[piece, None])[:, 0]
        found[1, piece] = -(logps.exp() * logps).sum(-1)
    return found[0], found[1]


class _InPieces(torch.autograd.Function):
    """Log-probabilities piece by piece, under a frozen head.

    A log-probability depends on its own state alone, so its slope can be computed while the piece's logits are at
    hand, whatever the loss will be. For the backward pass [M, hidden] is kept, and the head is applied twice, as
    with all logits in memory; recomputing the logits would apply it three times. With `others` the same holds of the
    KL, whose slope is kept beside.
    """

    @staticmethod
    def forward(
        ctx: Any, base: Network, states: Tensor, targets: Tensor, temperature: float, others: Tensor | None
    ) -> tuple[Tensor, ...]:
        kinds = 1 if others is None else 2
        found = [torch.empty(len(states), device=states.device) for _ in range(kinds)]
        slopes = states.new_empty(kinds, *states.shape) if ctx.needs_input_grad[1] else None
        for piece in _pieces(base, states):
            part, other = states[piece].detach(), None if others is None else others[piece]
            with torch.set_grad_enabled(slopes is not None):
                part.requires_grad_(slopes is not None)
                read = _project(base, part, targets[piece], temperature, other)
                for kind, values in enumerate(read):
                    if slopes is not None:
                        more = kind + 1 < kinds
                        slopes[kind, piece] = torch.autograd.grad(values.sum(), part, retain_graph=more)[0]
                        if more:
                            counting.backward_again(base.head, part)
                    found[kind][piece] = values.detach()
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return tuple(found)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[None, Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        total = sum(
            gradient[:, None].to(slopes.dtype) * slope
            for gradient, slope in zip(gradients, slopes, strict=True)
        )
        return None, total, None, None, None  # pyright: ignore[reportReturnType]


def _project(
    base: Network, states: Tensor, targets: Tensor, temperature: float, others: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return the log-probability of each target; with the states of another policy, the KL from it as well."""
    logits = _logits(base, states, temperature)
    if others is None:
        return (-F.cross_entropy(logits, targets, reduction="none"),)
    logps = logits.log_softmax(-1)
    with torch.no_grad():
        other = _logits(base, others, temperature).log_softmax(-1)
    kl = F.kl_div(logps, other, reduction="none", log_target=True).sum(-1)
    return logps.gather(-1, targets[:, None])[:, 0], kl


def _logits(base: Network, states: Tensor, temperature: float) -> Tensor:
    logits = base.logits(states)
    return logits if temperature == 1 else logits / temperature


def _pieces(base: Network, states: Tensor) -> Iterator[slice]:
    rows = _rows(base)
    return (slice(at, at + rows) for at in range(0, len(states), rows))


def _rows(base: Network) -> int:
    """States whose logits are computed at a time."""
    return max(1, LOGITS[base.device.type] // base.head.weight.shape[0])
