"""The last layer of a model, computed only for the tokens whose states are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignbench.models import counting
from alignbench.models.forward.attention import computes_same, decoder_of, installed, trial_tokens


@contextmanager
def only(model: PreTrainedModel, read: Tensor) -> Iterator[bool]:
    """Let forwards inside the block return the last hidden states of the tokens `read`, int64 [E], alone.

    The last layer computes keys and values of all tokens, since others attend to them; behind its attention each
    token is computed by itself. The attention pattern receives `read` and may leave out the other tokens. Yields
    whether it does so: a model whose last layer is built in another way returns all states.
    """
    if not supports(model):
        yield False
        return
    with _shortened(model, read):
        yield True


@contextmanager
def _shortened(model: PreTrainedModel, read: Tensor) -> Iterator[None]:
    layer: Any = decoder_of(model).layers[-1]  # pyright: ignore[reportIndexIssue]
    before = vars(layer).get("forward")
    layer.forward = _forward_of(layer, read)
    try:
        yield
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before


def _forward_of(layer: Any, read: Tensor) -> Callable[..., Tensor]:
    def forward(hidden_states: Tensor, **how: Any) -> Tensor:
        attended, *_ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), read=read, **how)
        counting.skipped(layer.mlp, hidden_states.shape[1] - len(read))
        states = hidden_states.index_select(1, read) + attended.index_select(1, read)
        return states + layer.mlp(layer.post_attention_layernorm(states))

    return forward


def supports(model: PreTrainedModel) -> bool:
    """Return whether the states of some tokens are the same when the last layer is computed for these alone."""

    def states() -> Tensor:
        return decoder_of(model)(input_ids=trial_tokens(model, 8)[None], use_cache=False).last_hidden_state

    def short() -> Tensor:
        with _shortened(model, read):
            return states()

    if not installed(model):
        return False
    read = torch.tensor([3, 7], device=model.device)
    return computes_same(model, "the last layer of some tokens", lambda: states()[:, read], short)
