"""The language-model head on response states: log-probabilities, not the logits of all of them at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alignbench.models import Base

TILE = 1 << 25
"""Logits held at a time (128 MiB in float32); more of them are projected piece by piece, twice."""


def log_probabilities(base: Base, states: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return float32 [M]: the log-probability of each target [M] after a state [M, hidden]."""
    if base.device.type == "cuda" and temperature == 1:
        return fused(base, states, targets)

    def project(states: Tensor, targets: Tensor) -> Tensor:
        logits = base.logits(states)
        return -F.cross_entropy(
            logits if temperature == 1 else logits / temperature, targets, reduction="none"
        )

    rows = max(1, TILE // base.head.weight.shape[0])
    if len(states) <= rows:
        return project(states, targets)
    # The backward pass projects each piece again.
    pieces = zip(states.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(project, *piece, use_reentrant=False) for piece in pieces])


def fused(base: Base, states: Tensor, targets: Tensor) -> Tensor:
    """Return the same by TRL's fused head, whose kernels never write a logit to memory.

    On a CPU it has no kernels and is slower than the plain way.
    """
    if base not in _HEADS:
        from trl.trainer.utils import add_fused_lm_head

        _HEADS[base] = _Head(base.model.config, base.head)
        add_fused_lm_head(_HEADS[base])  # pyright: ignore[reportArgumentType]
    return _HEADS[base](states[None], fused_lm_head=True, shift_labels=targets[None]).log_probs[0].float()


class _Head(nn.Module):
    """What TRL's head needs of a model, where the states are there already."""

    def __init__(self, config: Any, head: nn.Linear):
        super().__init__()
        self.config = config
        self.head = head
        self.dtype = head.weight.dtype

    def base_model(self, states: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=states.to(self.dtype))

    def get_output_embeddings(self) -> nn.Module:
        return self.head


_HEADS: WeakKeyDictionary[Base, _Head] = WeakKeyDictionary()
