"""Who receives what networks compute, and of what kind the work is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from alignbench.rows import Prompt


@dataclass(slots=True)
class Work:
    """What networks computed."""

    forwards: int = 0
    """Calls of a network."""
    positions: int = 0
    """Positions without gradient, padding left out where the caller knows it."""
    trained: int = 0
    """Positions with gradient."""
    flops: float = 0.0
    """Of forward and backward passes."""


class Meter:
    """Receives what networks compute. This one records nothing."""

    def computed(self, work: Work) -> None:
        """A network was called."""

    def answered(self, prompts: Sequence[Prompt]) -> None:
        """`prompts` are being answered."""

    def begin(self, kind: str) -> None:
        """What follows, until the `end` of this `begin`, is work of a kind; see `doing`."""

    def end(self) -> None:
        """The kind of work that began last has ended."""

    def start(self) -> None:
        """Every call is counted by it from now on."""

    def stop(self) -> None:
        """Another meter counts the calls until `start`."""


class Tally(Meter):
    """Adds up what is computed, for whoever wants to know, and passes it on."""

    def __init__(self) -> None:
        self.work = Work()
        self.passed_on = _meters[-1]

    def computed(self, work: Work) -> None:
        for name in Work.__slots__:
            setattr(self.work, name, getattr(self.work, name) + getattr(work, name))
        self.passed_on.computed(work)

    def answered(self, prompts: Sequence[Prompt]) -> None:
        self.passed_on.answered(prompts)

    def begin(self, kind: str) -> None:
        self.passed_on.begin(kind)

    def end(self) -> None:
        self.passed_on.end()

    def start(self) -> None:
        self.passed_on.start()

    def stop(self) -> None:
        self.passed_on.stop()


_meters: list[Meter] = [Meter()]
Received = TypeVar("Received", bound=Meter)


@contextmanager
def metered(meter: Received) -> Iterator[Received]:
    """Let `meter` alone receive what is computed inside the block."""
    around = _meters[-1]
    around.stop()
    _meters.append(meter)
    meter.start()
    try:
        yield meter
    finally:
        meter.stop()
        _meters.pop()
        around.start()


def begin(kind: str) -> None:
    """Say of what kind the work is until `end`; `doing` is the same for a block."""
    _meters[-1].begin(kind)


def end() -> None:
    """The kind of work that began last has ended."""
    _meters[-1].end()


@contextmanager
def doing(kind: str) -> Iterator[None]:
    """Say of what kind the work inside the block is: `train`, `generate`, `score`, `search` or `judge`.

    What a judge generates or scores is the judge's.
    """
    meter = _meters[-1]
    meter.begin(kind)
    try:
        yield
    finally:
        meter.end()


def answered(prompts: Sequence[Prompt]) -> None:
    """Report that `prompts` are being answered."""
    _meters[-1].answered(prompts)


def computed(work: Work) -> None:
    """Report what a network computed."""
    _meters[-1].computed(work)
