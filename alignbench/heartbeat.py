"""Signs of life of a process at work, and the wish that it stop: between engine and lower floors.

Every forward of a network is a sign of life. A wish to stop that comes in the middle of a training is kept
until the step is done and kept on disk; anywhere else it is a KeyboardInterrupt at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PULSE = 1.0
"""Seconds between two signs of life that are worth telling."""

_tell: Callable[[], object] | None = None
_told = 0.0
_training = 0
_asked = False


def listen(tell: Callable[[], object]) -> None:
    """Call `tell` whenever there is a sign of life, once in `PULSE` seconds at most."""
    global _tell
    _tell = tell


def beat(*_: object) -> None:
    """Show that the work goes on."""
    global _told
    if _tell is not None and (now := time.monotonic()) - _told >= PULSE:
        _told = now
        _tell()


def ask_to_stop(*_: object) -> None:
    """Stop after the step that is running, or now where there is none; asked twice, now. A signal handler."""
    global _asked
    if _asked or not _training:
        raise KeyboardInterrupt
    _asked = True


@contextmanager
def training() -> Iterator[None]:
    """Keep a wish to stop, inside, until `stop_if_asked`."""
    global _training
    _training += 1
    try:
        yield
    finally:
        _training -= 1


def asked_to_stop() -> bool:
    """Return whether the process should stop as soon as its work is kept."""
    return _asked


def stop_if_asked() -> None:
    """Raise the KeyboardInterrupt that was put off. Called where all work is on disk."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt
