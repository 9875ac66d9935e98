"""How much one forward may hold on each device, and how the C library keeps freed memory."""

from __future__ import annotations

import ctypes
import sys

POSITIONS = {"cpu": 16384, "cuda": 16384}
"""Token positions of one scoring forward, as if all its sequences were as long as the longest."""

TREE_POSITIONS = {"cpu": 4096, "cuda": 32768}
"""New positions of one forward over token trees."""

QUESTIONS = {"cpu": 4096, "cuda": 65536}
"""Tokens of the questions of one forward over their prefix tree, before shared prefixes are taken out."""

CACHED_QUESTIONS = {"cpu": 2048, "cuda": 65536}
"""The same of one forward with a cache and padding."""

LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Numbers of the largest tensor of logits, float32: positions x vocabulary."""

ANSWERS = {"cpu": 256, "cuda": 256}
"""Answers that are generated together at most."""

CACHE = {"cpu": 1 << 29, "cuda": 1 << 34}
"""Bytes of keys and values of one batch of answers at most."""

POOL_GROWTH = {"cpu": 2.0, "cuda": 1.5}
"""A full pool of keys and values grows by this factor; on a CPU, memory that is not written yet costs nothing."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""

KEPT = 1 << 28
"""Bytes of free memory that are not given back."""

LARGEST = 1 << 25
"""Bytes of the largest block that is kept; glibc allows no more."""


def keep_freed() -> bool:
    """Let this process keep the memory of freed tensors for the next ones; return whether the C library can.

    By default glibc returns some of it to the system after each layer, and the system clears and maps it again,
    page by page, for the next: a quarter of the time of a forward whose tensors are some megabytes large.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
