"""Whether a training blew up though all its numbers were finite: by the length of its gradient, and by its loss."""

from __future__ import annotations

from dataclasses import dataclass

LONGER = 1000.0
"""How many times its first length, or 1, a gradient is longer once the weights have blown up.

In 326 trainings of the sandbox, by every method and with every learning rate of its tuning, the gradient grew to 3.3
times that at most, and no loss rose by more than 0.24. A learning rate of 1 gives gradients of 1e9.
"""

HIGHER = 1.0
"""By how much more than its first value, or than this, a loss on given rows is higher."""

LEARNT = 1e-3
"""A loss at which a gradient of nothing says that there is nothing left to learn."""


@dataclass
class Trace:
    """What is kept of the numbers of a training to tell."""

    step: int = 0
    first_norm: float = 0.0
    """Of the first step whose gradient is not zero, as far as the logs say."""
    first_loss: float = 0.0
    longest: float = 0.0
    """The longest mean of a log."""
    norm: float = 0.0
    loss: float = 0.0
    """The means of the last log."""

    def add(self, step: int, first_norm: float, first_loss: float, norm: float, loss: float) -> None:
        """Note a log: its step, the numbers of its first step, and the means."""
        if not self.step:
            self.first_loss = first_loss
        self.first_norm = self.first_norm or first_norm
        self.step, self.norm, self.loss, self.longest = step, norm, loss, max(self.longest, norm)

    def blown_up(self, *, given_rows: bool) -> str:
        """Return the sign that the training blew up; empty where there is none.

        The loss is a sign only on `given_rows`: that of a method which draws its own has no scale.
        """
        if self.longest > LONGER * max(self.first_norm, 1.0):
            return f"the norm of the gradient rose from {self.first_norm:.3g} to {self.longest:.3g}"
        if given_rows and self.first_norm and not self.norm and self.loss > LEARNT:
            return (
                f"the gradient vanished at a loss of {self.loss:.3g}: no answer depends on the text any more"
            )
        if given_rows and self.loss - self.first_loss > max(abs(self.first_loss), HIGHER):
            return f"the loss rose from {self.first_loss:.3g} to {self.loss:.3g}"
        return ""
