"""The last layer of a model, computed only where somebody reads what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

_TRIED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@contextmanager
def only(model: PreTrainedModel, read: Tensor) -> Iterator[bool]:
    """Let forwards inside the block return the last hidden states at the places `read`, int64 [E], alone.

    The last layer's keys and values are those of all places, since others look at them; what stands behind its
    attention works on each place by itself. An attention function is told `read`, and what it returns for other
    places is nobody's. Says whether it does so: models whose last layer is built in another way return all states,
    as ever.
    """
    if not _proven(model):
        yield False
        return
    with _cut(model, read):
        yield True


@contextmanager
def _cut(model: PreTrainedModel, read: Tensor) -> Iterator[None]:
    layer: Any = model.base_model.layers[-1]  # pyright: ignore[reportIndexIssue,reportArgumentType]
    before = vars(layer).get("forward")
    layer.forward = _behind(layer, read)
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def _behind(layer: Any, read: Tensor) -> Callable[..., Tensor]:
    def forward(hidden_states: Tensor, **how: Any) -> Tensor:
        attended, *_ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), read=read, **how)
        states = hidden_states.index_select(1, read) + attended.index_select(1, read)
        return states + layer.mlp(layer.post_attention_layernorm(states))

    return forward


def _proven(model: PreTrainedModel) -> bool:
    """Whether this model computes the same so: tried once, on a few tokens, however it attends by now."""
    if model not in _TRIED:
        attends, model.config._attn_implementation = model.config._attn_implementation, "eager"
        try:
            _TRIED[model] = _tried(model)
        finally:
            model.config._attn_implementation = attends
    return _TRIED[model]


def _tried(model: PreTrainedModel) -> bool:
    ids = torch.arange(1, 9, device=model.device)[None] % model.config.get_text_config().vocab_size
    read = torch.tensor([3, 7], device=model.device)
    with torch.no_grad():
        whole = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, read].float()
        try:
            with _cut(model, read):
                found = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.float()
        except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError):
            return False
    limit = 1e-4 if model.dtype == torch.float32 else 5e-2
    return found.shape == whole.shape and bool((found - whole).abs().max() <= limit * whole.abs().max())
