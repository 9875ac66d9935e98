"""What the C library does with the memory of tensors that are freed: keep it."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""

KEPT = 1 << 28
"""Bytes of free memory that are not given back."""

LARGEST = 1 << 25
"""Bytes of the largest block that is kept; glibc allows no more."""


def keep_freed() -> bool:
    """Let this process keep what tensors free, for the next ones; say whether the C library can do so.

    As it comes, glibc gives the system some of it back after each layer and has it cleared and mapped again,
    page by page, for the next: a quarter of the time of a forward whose tensors are some megabytes large.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
