"""The clock of a process that stands still while other programs have its core."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path


def busy_clock() -> float:
    """Return seconds that stand still while this process's main thread is ready and other programs have its core.

    Only differences mean something. Where the kernel does not count the waiting, it is the plain clock.
    """
    waited = 0
    with suppress(OSError, ValueError, IndexError):
        waited = int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1])
    return time.monotonic() - waited / 1e9
