"""Whether a training diverged though all its numbers stayed finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from alignbench.api.method import Record

NORMS = 100
"""How many times as long as the first gradient, and as a clipped one, the last gradients are of what diverged.

In the shipped recipes they are at most 7 times as long.
"""


@dataclass
class Course:
    """The loss and the norm of the gradient, before clipping, of each step of a training."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def add(self, losses: Iterable[float], norms: Iterable[float]) -> None:
        """Add further steps."""
        self.losses += losses
        self.norms += norms

    def sign_of_divergence(self, max_grad_norm: float) -> str:
        """Return what shows that the training diverged; empty where nothing does.

        The last tenth of the steps shows it: their mean loss is more than 1 above that of the first step and more
        than its size above it, or their gradients are NORMS times as large as the first one and `max_grad_norm`.
        """
        if len(self.losses) < 2:
            return ""
        first, last = self.losses[0], _last_tenth(self.losses)
        if last - first > max(1.0, abs(first)):
            return f"its loss rose from {first:.3g} in the first step to {last:.3g} in the last tenth of the steps"
        first, last = self.norms[0], _last_tenth(self.norms)
        if last > NORMS * max(first, max_grad_norm):
            return (
                f"the norm of its gradient rose from {first:.3g} in the first step to {last:.3g} in the last tenth "
                "of the steps"
            )
        return ""


def warn(record: Record, step: int, sign: str, of: str = "") -> None:
    """Put a sign of divergence, where there is one, into the record of a cell; `of` says of which training it is."""
    if sign:
        record.warning(f"divergence{of}", step, f"the training{of} diverged: {sign}")


def _last_tenth(values: Sequence[float]) -> float:
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last)
