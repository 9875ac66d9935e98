"""Versions of the libraries that can change a number: part of every key and of the record."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distributions, version

LIBRARIES = ("alignbench", "torch", "transformers", "peft", "bitsandbytes", "trl", "numpy")


@cache
def versions() -> dict[str, str]:
    """Return the installed version of each library, from its metadata."""
    return {name: version(name) for name in LIBRARIES}


def installed() -> list[str]:
    """Return every installed distribution as `name==version`, sorted: what pip needs for the same environment."""
    found: dict[str, str] = {}
    for one in distributions():  # of two, the first on the path is the one that is imported
        found.setdefault(one.name, one.version)
    return [f"{name}=={found[name]}" for name in sorted(found, key=str.lower)]
