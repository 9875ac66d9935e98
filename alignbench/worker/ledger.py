"""What a cell has spent, in the units of the public record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Cost:
    """What a cell has spent, in the units of the public record."""

    train_seconds: float = 0.0
    train_tokens: int = 0
    generated_tokens: int = 0
    forward_passes: int = 0
    comparisons: int = 0
    ai_comparisons: int = 0
    judge_calls: int = 0
    judge_tokens: int = 0
    judge_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def since(self, before: Cost) -> dict[str, float]:
        """Return what was spent since `before`; of the memory, the peak."""
        spent = {name: value - getattr(before, name) for name, value in vars(self).items()}
        return {**spent, "peak_memory_bytes": self.peak_memory_bytes}

    def add(self, **spent: float) -> None:
        """Add what was spent; the peak of memory is a maximum."""
        for name, value in spent.items():
            old = getattr(self, name)
            setattr(self, name, max(old, value) if name == "peak_memory_bytes" else old + value)
