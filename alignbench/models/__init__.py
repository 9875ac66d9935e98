"""Models: a 4-bit base with adapters on it, its answers and its log-probabilities. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Many
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from alignbench.api.config import API, Sampling
from alignbench.api.policy import Answer
from alignbench.rows import Prompt

if TYPE_CHECKING:
    from alignbench.models.base import Base, ModelPolicy
    from alignbench.models.decoding import DecodingBase
    from alignbench.models.loading import load_base, load_classifier
    from alignbench.models.queries import Query, Reply
    from alignbench.models.token_tree import TokenTree, TokenTrees

_HOMES = {
    "base": ("Base", "ModelPolicy"),
    "decoding": ("DecodingBase",),
    "loading": ("load_base", "load_classifier"),
    "queries": ("Query", "Reply"),
    "token_tree": ("TokenTree", "TokenTrees"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Base", "DecodingBase", "Generator", "ModelPolicy", "Query", "Reply", "TokenTree", "TokenTrees", "load_base",
    "load_classifier",
]  # fmt: skip


class Generator(ABC):
    """A way of drawing answers from a model; the plugins of the group `alignbench.generators`."""

    api: ClassVar[int] = API

    @abstractmethod
    def generate(
        self, policy: ModelPolicy, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer each prompt `samples` times: prompt by prompt, sample by sample.

        Every prompt has its token ids. Law: the noise is keyed by (key, prompt id, sample, position), so that
        in float32 an answer does not depend on the other prompts, their order or their number.
        """


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
