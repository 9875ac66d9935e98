"""The attention function of every base: transformers' own, or that of a pattern that comes with the tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from alignbench.models import counting
from alignbench.models.stack import attention_name

NAME = "alignbench"

UNKNOWN = ("softcap", "s_aux", "position_bias")
"""Arguments of attention functions that a pattern does not implement."""

NOT_SUPPORTED = (
    AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError,
)  # fmt: skip
"""What a forward raises on a model that is built in another way than the forward expects."""


class Pattern(Protocol):
    """Which keys each query of a forward attends to, and where these keys are."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float | None,
        dropout: float,
        read: Tensor | None,
    ) -> Tensor:
        """Attend with queries [1, heads, F, size] of F tokens in one row; return [1, F, heads, size].

        With `read`, int64 [E], only the outputs of these tokens are used.
        """
        ...


def attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    pattern: Pattern | None = None,
    read: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend as `pattern` says; without one as PyTorch's scaled dot product attention does."""
    if pattern is None:
        batch, heads, queries, size = query.shape
        gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
        counting.attended(batch, heads, queries, key.shape[2], size, gradient=gradient)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    if unknown := [name for name in UNKNOWN if more.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    return pattern.attend(query, key, value, scale=scaling, dropout=dropout, read=read), None


def install(model: PreTrainedModel) -> None:
    """Let a model that uses PyTorch's scaled dot product attention take patterns; other models stay as they are."""
    if attention_name(model) == "sdpa":
        model.set_attn_implementation(NAME)


def installed(model: PreTrainedModel) -> bool:
    """Return whether a model may take patterns."""
    return attention_name(model) == NAME


def decoder_of(model: PreTrainedModel) -> Module:
    """Return the module that turns token ids into the last hidden states: of a multimodal model, its text part."""
    return model.get_decoder()


def no_mask(model: PreTrainedModel) -> Tensor:
    """Return a mask for forwards with a pattern: given one of four dimensions, transformers makes no other."""
    return torch.zeros(1, 1, 1, 1, dtype=model.dtype, device=model.device)


def trial_tokens(model: PreTrainedModel, count: int) -> Tensor:
    """Return int64 [count]: tokens to try forwards on, spread over the vocabulary.

    Its first ones are special in many models: their states move five times as far by rounding (SmolLM2 in bfloat16).
    """
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(1, count + 1, device=model.device) * max(1, vocabulary // (count + 1)) % vocabulary


def computes_same(
    model: PreTrainedModel, what: str, wanted: Callable[[], Tensor], found: Callable[[], Tensor]
) -> bool:
    """Return whether a fast forward gives a model's own hidden states: tried once for each model and `what`.

    A fast forward may raise, or give other numbers, where a model is built in a way that it does not expect.
    """
    known = _KNOWN.setdefault(model, {})
    if what not in known:
        known[what] = False  # also while it is tried
        with torch.no_grad(), counting.trying():
            right = wanted()
            try:
                known[what] = agrees(found(), right, rounded=rounds_activations(model))
            except NOT_SUPPORTED:
                return False
    return known[what]


def rounds_activations(model: PreTrainedModel) -> bool:
    """Return whether layers round what they are given to eight bits, as LLM.int8 does (arXiv:2208.07339)."""
    return bool(getattr(model, "is_loaded_in_8bit", False))


def agrees(found: Tensor, right: Tensor, *, rounded: bool = False) -> bool:
    """Return whether two computations of hidden states [N, hidden] are equal but for rounding.

    The distance of each state is measured in the spread of all states around their mean: a few dimensions that are
    large and nearly constant, as language models have them, would hide any other difference. `rounded`: the model
    rounds its activations, by scales that depend on what is computed together.
    """
    if found.shape != right.shape:
        return False
    limit = TOLERANCE[right.dtype == torch.float32 and not rounded]
    right, found = right.float().flatten(0, -2), found.float().flatten(0, -2)
    spread = (right - right.mean(0)).norm(dim=-1).square().mean().sqrt()
    return bool((found - right).norm(dim=-1).max() <= limit * spread)


TOLERANCE = {True: 1e-3, False: 0.15}
"""Largest distance of a state, in the spread of all states: in float32, and in half precision."""

_KNOWN: WeakKeyDictionary[PreTrainedModel, dict[str, bool]] = WeakKeyDictionary()
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
