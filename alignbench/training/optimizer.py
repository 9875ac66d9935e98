"""The optimiser with a guard: a gradient that is not finite changes no weight, without a wait for the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer


def make(
    kind: Literal["adamw", "adamw-8bit"], groups: Iterable[dict[str, Any]], learning_rate: float
) -> Optimizer:
    """Return AdamW without weight decay over parameter groups; `guard` works on it."""
    if kind == "adamw":
        return AdamW(list(groups), lr=learning_rate, weight_decay=0.0, fused=True)
    from bitsandbytes.optim.adamw import AdamW8bit

    return _undoable(AdamW8bit)(list(groups), lr=learning_rate, weight_decay=0.0)


def guard(optimizer: Any, norm: Tensor, max_norm: float, stop: Tensor) -> None:
    """Clip the next step to `max_norm`, and make it a no-op where `stop` (bool, scalar) is true.

    Both stay on the device: torch's fused AdamW takes them as the two numbers of a gradient scaler. It divides
    each gradient by the first, and leaves weights, moments and step count unchanged where the second is set.
    """
    optimizer.grad_scale = (norm / max_norm).clamp(min=1.0)
    optimizer.found_inf = stop.to(norm.dtype)


def _undoable(kind: Any) -> Any:
    class Undoable(kind):
        """For an optimiser that takes neither number: it clips before the step, and restores the weights after it."""

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            weights = [one for group in self.param_groups for one in group["params"] if one.grad is not None]
            before = [weight.clone() for weight in weights]
            for weight in weights:
                weight.grad.div_(self.grad_scale)
            super().step(closure)
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(torch.where(self.found_inf.bool(), old, weight))

    return Undoable
