"""Versions of the libraries that can change a number: part of every key and of the record."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

LIBRARIES = ("alignbench", "torch", "transformers", "peft", "bitsandbytes", "trl", "numpy")


@cache
def versions() -> dict[str, str]:
    """Return the installed version of each library, from its metadata."""
    return {name: version(name) for name in LIBRARIES}
