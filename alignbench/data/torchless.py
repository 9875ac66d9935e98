"""transformers without torch: a command that only reads a tokenizer starts in a third of the time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


@contextmanager
def without_torch() -> Iterator[None]:
    """Let transformers find no torch, which it needs for models only, and be forgotten at the end.

    Whoever imports it afterwards gets it whole. Does nothing in a process that has imported one of the two.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"  # it would say that torch is missing
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  (what Python takes for: not installed)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]:
            del sys.modules[name]
        os.environ.pop(QUIET)
        if before is not None:
            os.environ[QUIET] = before
