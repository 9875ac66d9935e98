"""Training: the one trainer that serves every gradient method. Imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from alignbench.training.budget import Spent

if TYPE_CHECKING:
    from alignbench.training import reference
    from alignbench.training.elsewhere import observer
    from alignbench.training.scores import score
    from alignbench.training.trainer import Record, train

__all__ = ["Record", "Spent", "observer", "reference", "score", "train"]

_HOMES = {"Record": "trainer", "observer": "elsewhere", "score": "scores", "train": "trainer"}


def __getattr__(name: str) -> object:
    if name == "reference":
        return import_module("alignbench.training.reference")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"alignbench.training.{_HOMES[name]}"), name)
