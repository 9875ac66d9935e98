"""Heartbeats of a process at work, and requests that it stop.

Every forward of a network sends a heartbeat. A request to stop that comes during a training waits until the
step is done and kept on disk; anywhere else it is a KeyboardInterrupt at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL = 1.0
"""Least seconds between two heartbeats."""

_receiver: Callable[[], object] | None = None
_sent = 0.0
_trainings = 0
_requested = False


def connect(receiver: Callable[[], object]) -> None:
    """Call `receiver` for each heartbeat, at most once in `INTERVAL` seconds."""
    global _receiver
    _receiver = receiver


def send(*_: object) -> None:
    """Send a heartbeat: the process works."""
    global _sent
    if _receiver is not None and (now := time.monotonic()) - _sent >= INTERVAL:
        _sent = now
        _receiver()


def ask_to_stop(*_: object) -> None:
    """Stop after the running step, or at once where there is none, or at the second request. A signal handler."""
    global _requested
    if _requested or not _trainings:
        raise KeyboardInterrupt
    _requested = True


@contextmanager
def training() -> Iterator[None]:
    """Put off a request to stop, inside, until `stop_if_asked`."""
    global _trainings
    _trainings += 1
    try:
        yield
    finally:
        _trainings -= 1


def asked_to_stop() -> bool:
    """Return whether the process should stop as soon as its work is kept."""
    return _requested


def stop_if_asked() -> None:
    """Raise the KeyboardInterrupt that was put off. Called where all work is on disk."""
    global _requested
    if _requested:
        _requested = False
        raise KeyboardInterrupt
