"""Models: a 4-bit base with adapters on it, its answers and its log-probabilities. Imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignbench.models.base import Base
    from alignbench.models.forward.network import Network
    from alignbench.models.loading import load_base, load_classifier
    from alignbench.models.policy import ModelPolicy
    from alignbench.models.trees.decoding import DecodingBase
    from alignbench.models.trees.queries import Query, Reply
    from alignbench.models.trees.token_tree import TokenTree, TokenTrees

_HOMES = {
    "base": ("Base",),
    "trees.decoding": ("DecodingBase",),
    "loading": ("load_base", "load_classifier"),
    "forward.network": ("Network",),
    "policy": ("ModelPolicy",),
    "trees.queries": ("Query", "Reply"),
    "trees.token_tree": ("TokenTree", "TokenTrees"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Base", "DecodingBase", "ModelPolicy", "Network", "Query", "Reply", "TokenTree", "TokenTrees", "load_base",
    "load_classifier",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
