"""The language-model head on response states: log-probabilities, without the logits of all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignbench.models.forward.memory import LOGITS
from alignbench.models.forward.network import Network


def log_probabilities(base: Network, states: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return float32 [M]: the log-probability of each target [M] after a state [M, hidden]."""
    if base.device.type == "cpu" and len(states) <= _rows(base):
        return _project(base, states, targets, temperature)
    return _InPieces.apply(base, states, targets, temperature)  # pyright: ignore[reportReturnType]


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
    with all logits in memory; recomputing the logits would apply it three times.
    """

    @staticmethod
    def forward(ctx: Any, base: Network, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
        logps = torch.empty(len(states), device=states.device)
        slopes = torch.empty_like(states) if ctx.needs_input_grad[1] else None
        for piece in _pieces(base, states):
            part = states[piece].detach()
            with torch.set_grad_enabled(slopes is not None):
                found = _project(base, part.requires_grad_(slopes is not None), targets[piece], temperature)
                if slopes is not None:
                    slopes[piece] = torch.autograd.grad(found.sum(), part)[0]
            logps[piece] = found.detach()
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return logps

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[None, Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return None, gradient[:, None].to(slopes.dtype) * slopes, None, None


def _project(base: Network, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = base.logits(states)
    return -F.cross_entropy(logits if temperature == 1 else logits / temperature, targets, reduction="none")


def _pieces(base: Network, states: Tensor) -> Iterator[slice]:
    rows = _rows(base)
    return (slice(at, at + rows) for at in range(0, len(states), rows))


def _rows(base: Network) -> int:
    """States whose logits are computed at a time."""
    return max(1, LOGITS[base.device.type] // base.head.weight.shape[0])
