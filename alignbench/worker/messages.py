"""What crosses the process border, as plain values: tasks to a child, events and the end from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError

HEARTBEAT = None
"""What a child sends where it has nothing to report but that it works."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is asked to do. Everything crosses the process border as plain values."""

    kind: str
    """`prepare`, `cell`, `evaluate` or `calibrate`: the module of this package whose `main(task, emit)` is called."""
    run: Path
    """The run's folder."""
    root: Path
    """The recipe's folder: relative paths start here."""
    plan: str
    """The resolved recipe, `alignbench.recipe.plan.Plan`, in JSON."""
    home: Path
    """Where the store lies: a fork server keeps the environment it was started with."""
    log: Path
    threads: int
    what: Mapping[str, Any] = field(default_factory=dict)
    every: float = 60.0
    """Seconds between two checkpoints of a training."""
    device: str | None = None
    """The one CUDA device that the child sees, as CUDA_VISIBLE_DEVICES names it; None: whatever there is."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a child reports while it works: its phase, its progress, and logged numbers."""

    phase: str
    done: int = 0
    total: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    clock: float = 0.0
    """When it was sent, by the child's `busy_clock`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a task ended: the last message of its child. A child that dies sends none."""

    status: str = "done"
    reason: str = ""
    error: AlignbenchError | None = None
    clock: float = 0.0
    """As in Event; 0 where the child died."""
