"""A forward without padding: the tokens of all sequences are one row, and only attention separates sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from alignbench.models.attention import computes_same, installed, no_mask


@dataclass(frozen=True)
class Varlen:
    """How F tokens in one row form B sequences of at most T tokens; a shared prompt is there once.

    A pattern of `alignbench.models.attention`. By default attention is causal inside each sequence.
    """

    gather: Tensor
    """int64 [B * T]: the token at each place of the sequences, any token behind a sequence's end."""
    back: Tensor
    """int64 [F]: a place of each token."""
    batch: int
    width: int
    queries: Tensor | None = None
    """int64 [B * Q]: the tokens that attend, where these are not all tokens; `back` then counts among these."""
    mask: Tensor | None = None
    """bool [B, 1, Q, T]: the places that each of them attends to."""
    last: Varlen | None = None
    """The pattern of the tokens that are read, for a last layer that is computed for these alone."""

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
        """Attend with padding, which exists only here, on the right, where no token attends to it."""
        if read is not None and self.last is not None:
            rows = self.last.attend(query, key, value, scale=scale, dropout=dropout, read=None)
            return rows.new_zeros(1, query.shape[2], *rows.shape[2:]).index_copy_(1, read, rows)
        heads = query.shape[1]
        out = F.scaled_dot_product_attention(
            self._padded(query, self.gather if self.queries is None else self.queries),
            self._padded(key, self.gather),
            self._padded(value, self.gather),
            attn_mask=self.mask,
            is_causal=self.mask is None,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=key.shape[1] != heads,
        )
        rows = out.transpose(1, 2).reshape(-1, heads * out.shape[3]).index_select(0, self.back)
        return rows.view(1, rows.shape[0], heads, -1)

    def _padded(self, states: Tensor, places: Tensor) -> Tensor:
        """Return [1, heads, F, size] as [B, heads, places of a sequence, size]."""
        heads, size = states.shape[1], states.shape[3]
        rows = states[0].transpose(0, 1).reshape(-1, heads * size).index_select(0, places)
        return rows.view(self.batch, -1, heads, size).transpose(1, 2)


def hidden_states(model: PreTrainedModel, ids: Tensor, positions: Tensor, varlen: Varlen) -> Tensor:
    """Return the last hidden states [F, hidden] of tokens [F] at positions [F], padded where a model needs it."""
    if supports(model, varlen.width):
        return row_states(model, ids, positions, varlen)
    return _padded_states(model, ids, varlen)


def row_states(model: PreTrainedModel, ids: Tensor, positions: Tensor, varlen: Varlen) -> Tensor:
    """Return the same of a model that `supports` it; inside `last_layer.only` those of the tokens that are read."""
    found = model.base_model(
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=no_mask(model),
        use_cache=False,
        pattern=varlen,
    )
    return found.last_hidden_state[0]


def supports(model: PreTrainedModel, width: int) -> bool:
    """Return whether a model computes sequences of up to `width` tokens in one row as it does with padding."""
    if not installed(model) or not attends_to_all(model, width):
        return False
    return computes_same(
        model, "sequences in one row", lambda: _trial(model, False), lambda: _trial(model, True)
    )


def attends_to_all(model: PreTrainedModel, width: int) -> bool:
    """Return whether every token attends to all earlier ones in a sequence of `width` tokens."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return all(window is None or window >= width for window in windows)


def _padded_states(model: PreTrainedModel, ids: Tensor, varlen: Varlen) -> Tensor:
    # Padded on the right, where the mask that a model makes by itself is correct.
    padded = ids.index_select(0, varlen.gather).view(varlen.batch, varlen.width)
    found = model.base_model(input_ids=padded, use_cache=False).last_hidden_state
    return found.flatten(0, 1).index_select(0, varlen.back)


def _trial(model: PreTrainedModel, in_one_row: bool) -> Tensor:
    """Return the states of two short sequences with one prompt."""
    ids = torch.arange(1, 7, device=model.device) % model.config.get_text_config().vocab_size
    positions = torch.tensor([0, 1, 2, 3, 4, 2], device=model.device)
    gather = torch.tensor([0, 1, 2, 3, 4, 0, 1, 5, 0, 0], device=model.device)
    back = torch.tensor([0, 1, 2, 3, 4, 7], device=model.device)
    varlen = Varlen(gather, back, 2, 5)
    return row_states(model, ids, positions, varlen) if in_one_row else _padded_states(model, ids, varlen)
