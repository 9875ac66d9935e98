"""The tokens of token trees, and the prefixes that several trees share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_NONE = np.zeros(0, np.int64)


class Node:
    """One token of a tree: the slot of its keys, values and hidden state, and what follows it."""

    __slots__ = ("depth", "has_state", "lineage", "parent", "slot", "token", "under")

    def __init__(self, parent: Node | None, token: int, slot: int):
        self.parent = parent
        self.token = token
        self.slot = slot
        self.under: dict[int, Node] = {}
        self.has_state: bool | None = None
        """Whether its hidden state is in the pool; None where it was never needed."""
        self.depth = 0
        """Tokens of the path."""
        self.lineage = _NONE
        """The slots of the path, its own last, without those of a long shared prefix."""
        if parent is not None:
            self.depth = parent.depth + 1
            above = parent.lineage
            self.lineage = np.empty(len(above) + 1, np.int64)
            self.lineage[:-1], self.lineage[-1] = above, slot


class SharedPrefix:
    """The tokens that several trees begin with: computed once."""

    def __init__(self, last: Node, whole_texts: bool = False):
        self.last = last
        self.whole_texts = whole_texts
        """Whether its keys and values are not kept."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, *stores: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of one layer, [1, tokens, heads, size], from the pool's [slots, heads, size]."""
        if index not in self._layers:
            slots = torch.from_numpy(self.last.lineage).to(stores[0].device)
            # Contiguous for each head, as attention kernels read them.
            keys, values = (one[slots].transpose(0, 1).contiguous() for one in stores)
            self._layers[index] = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
        return self._layers[index]
