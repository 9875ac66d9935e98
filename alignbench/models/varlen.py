"""A forward without padding: tokens of all sequences stand in one row, and only attention sees sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, masking_utils

NAME = "alignbench_ragged"


@dataclass(frozen=True)
class Ragged:
    """How F tokens in one row make up B sequences of at most T tokens; a shared prompt stands there once."""

    gather: Tensor
    """int64 [B * T]: the token at each place, any token where the sequence has ended."""
    back: Tensor
    """int64 [F]: a place of each token."""
    batch: int
    width: int
    asked: Tensor | None = None
    """int64 [B * Q]: the tokens that ask, where not all of a sequence do; `back` then counts among these."""
    seen: Tensor | None = None
    """bool [B, 1, Q, T]: the places of its sequence that each of them looks at."""
    few: Ragged | None = None
    """How those attend that are read in the last layer, where it is computed for these alone."""


def attend(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Ragged,
    scaling: float | None = None,
    dropout: float = 0.0,
    read: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence, or as `seen` says: query [1, heads, F, width] to
    [1, F, heads, width].

    Padding exists here only, where it is cheap: to the right, where no token looks. Of the tokens outside `read`,
    int64 [E], nobody asks what they see.
    """
    count = query.shape[2]
    few = None if read is None else ragged.few
    if few is not None:
        ragged = few
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")

    def spread(states: Tensor, places: Tensor) -> Tensor:
        heads, width = states.shape[1], states.shape[3]
        rows = states[0].transpose(0, 1).reshape(-1, heads * width).index_select(0, places)
        return rows.view(ragged.batch, -1, heads, width).transpose(1, 2)

    heads = query.shape[1]
    out = F.scaled_dot_product_attention(
        spread(query, ragged.gather if ragged.asked is None else ragged.asked),
        spread(key, ragged.gather),
        spread(value, ragged.gather),
        attn_mask=ragged.seen,
        is_causal=ragged.seen is None,
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=key.shape[1] != heads,
    )
    rows = out.transpose(1, 2).reshape(-1, heads * out.shape[3]).index_select(0, ragged.back)
    if few is not None and read is not None:
        rows = rows.new_zeros(count, rows.shape[1]).index_copy_(0, read, rows)
    return rows.view(1, rows.shape[0], heads, -1), None


@contextmanager
def attention(model: PreTrainedModel, width: int) -> Iterator[bool]:
    """Let `model` read sequences of up to `width` tokens without padding inside the block; say if it can.

    Forwards and their backward passes both belong inside: recomputed layers attend again.
    """
    if not sees_all(model, width) or not _proven(model):
        yield False
        return
    with _switched(model):
        yield True


def hidden_states(model: PreTrainedModel, ids: Tensor, places: Tensor, ragged: Ragged) -> Tensor:
    """Return the last hidden states [F, hidden] of tokens [F] at positions [F].

    Inside `last_layer.only` and without padding, those of the tokens that are read.
    """
    if model.config._attn_implementation == NAME:
        found = model.base_model(
            input_ids=ids[None], position_ids=places[None], use_cache=False, ragged=ragged
        )
        return found.last_hidden_state[0]
    # Padded on the right: the mask a model makes by itself is then the right one.
    padded = ids.index_select(0, ragged.gather).view(ragged.batch, ragged.width)
    found = model.base_model(input_ids=padded, use_cache=False).last_hidden_state
    return found.flatten(0, 1).index_select(0, ragged.back)


def sees_all(model: PreTrainedModel, width: int) -> bool:
    """Whether every token may look at all earlier ones of a sequence of `width`."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return all(window is None or window >= width for window in windows)


def _proven(model: PreTrainedModel) -> bool:
    """Whether this model computes the same without padding: tried once, on two sequences with one prompt."""
    if model not in _TRIED:
        order = torch.tensor([0, 1, 2, 3, 4, 0, 1, 5, 0, 0], device=model.device)
        back = torch.tensor([0, 1, 2, 3, 4, 7], device=model.device)
        ids = torch.arange(1, 7, device=model.device) % model.config.get_text_config().vocab_size
        places = torch.tensor([0, 1, 2, 3, 4, 2], device=model.device)
        layout = Ragged(order, back, 2, 5)
        with torch.no_grad():
            wanted = hidden_states(model, ids, places, layout).float()
            try:
                with _switched(model):
                    found = hidden_states(model, ids, places, layout).float()
            except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError):
                found = torch.full_like(wanted, torch.nan)
        limit = 1e-4 if model.dtype == torch.float32 else 5e-2
        _TRIED[model] = bool((found - wanted).abs().max() <= limit * wanted.abs().max())
    return _TRIED[model]


@contextmanager
def _switched(model: PreTrainedModel) -> Iterator[None]:
    before, find = model.config._attn_implementation, masking_utils.find_packed_sequence_indices
    model.config._attn_implementation = NAME
    # transformers would look, and wait, whether positions restart in a row, to make a mask of its own.
    masking_utils.find_packed_sequence_indices = lambda position_ids: None  # type: ignore[assignment]
    try:
        yield
    finally:
        model.config._attn_implementation = before
        masking_utils.find_packed_sequence_indices = find


_TRIED: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
