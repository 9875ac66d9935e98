"""What crosses the process border, as plain values: tasks to a child, events and the end from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignbench.errors import AlignbenchError

ALIVE = None
"""What a child says where it has nothing to say but that it goes on."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is asked to do. Everything crosses the process border as plain values."""

    kind: str
    """`prepare`, `cell` or `evaluate`: the module of this package whose `main(task, emit)` is called."""
    run: Path
    """The run's folder."""
    root: Path
    """The recipe's folder: relative paths start here."""
    recipe: str
    """The recipe in canonical JSON."""
    home: Path
    """Where the store lies: a fork server keeps the environment it was started with."""
    log: Path
    threads: int
    what: Mapping[str, Any] = field(default_factory=dict)
    every: float = 60.0
    """Seconds between two checkpoints of a training."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a child says while it works: which phase, how far, and numbers now."""

    phase: str
    done: int = 0
    total: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    clock: float = 0.0
    """When it was said, by the child's `busy_clock`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A child's last word. A child that dies has none."""

    status: str = "done"
    reason: str = ""
    error: AlignbenchError | None = None
    clock: float = 0.0
    """As in Event; 0 where the child died."""
