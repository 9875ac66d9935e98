"""A forward without padding: the tokens of all sequences are one row, and only attention separates sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Embedding
from torch.nn import functional as F
from transformers import PreTrainedModel

from alignbench.models import counting
from alignbench.models.forward import attention_products, last_layer
from alignbench.models.forward.attention import computes_same, decoder_of, installed, no_mask, trial_tokens


@dataclass(frozen=True)
class Varlen:
    """How F tokens in one row form sequences; a shared prompt is there once.

    A pattern of `alignbench.models.forward.attention`: attention is causal inside each sequence. Sequences of similar
    length are a block, which is as wide as its longest.
    """

    gather: Tensor
    """int64 [P]: the token at each place of the sequences, any token behind a sequence's end; block after block."""
    back: Tensor
    """int64 [F]: a place of each token."""
    blocks: tuple[tuple[int, int], ...]
    """How many sequences each block has, and how wide it is; P is the sum of the products."""

    @property
    def width(self) -> int:
        """Tokens of the longest sequence."""
        return max(width for _, width in self.blocks)

    def split(self, places: Tensor) -> Iterator[Tensor]:
        """Yield [sequences, width, ...] of each block, of [P, ...]."""
        parts = places.split([batch * width for batch, width in self.blocks])
        for part, (batch, width) in zip(parts, self.blocks, strict=True):
            yield part.view(batch, width, *part.shape[1:])

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
        heads = query.shape[1]
        gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
        found = []
        for queries, keys, values in zip(*map(self._padded, (query, key, value)), strict=True):
            counting.attended(
                len(queries), heads, queries.shape[2], keys.shape[2], queries.shape[3], gradient=gradient
            )
            out = _attend(queries, keys, values, scale, dropout)
            found.append(out.transpose(1, 2).reshape(-1, heads * out.shape[3]))
        rows = (found[0] if len(found) == 1 else torch.cat(found)).index_select(0, self.back)
        return rows.view(1, rows.shape[0], heads, -1)

    def _padded(self, states: Tensor) -> Iterator[Tensor]:
        """Yield [sequences, heads, width, size] of each block, of [1, heads, F, size]."""
        heads, size = states.shape[1], states.shape[3]
        rows = states[0].transpose(0, 1).reshape(-1, heads * size).index_select(0, self.gather)
        for block in self.split(rows):
            yield block.view(*block.shape[:2], heads, size).transpose(1, 2)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None, dropout: float) -> Tensor:
    """Return [B, heads, T, size], causal."""
    dtype = queries.dtype
    half_on_cpu = queries.device.type == "cpu" and dtype != torch.float32
    # With a gradient or without, so that a policy which equals its reference scores as the reference does.
    if half_on_cpu and not dropout and keys.shape[2] <= attention_products.LONGEST:
        return attention_products.attend(queries, keys, values, scale)
    if half_on_cpu:
        # The backward pass in half precision takes twice as long as in float32, the forward pass as long.
        queries, keys, values = queries.float(), keys.float(), values.float()
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        is_causal=True,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=keys.shape[1] != queries.shape[1],
    ).to(dtype)


def hidden_states(
    model: PreTrainedModel,
    ids: Tensor,
    positions: Tensor,
    varlen: Varlen,
    read: Tensor,
    *,
    short: bool = True,
) -> Tensor:
    """Return the last hidden states [E, hidden] of the tokens `read`, int64 [E], of tokens [F] at positions [F].

    In one row, padded, or one by one, as the model needs it. With `short` the last layer is computed for these
    tokens alone where it can be.
    """
    if not supports(model, varlen.width):
        return _padded_states(model, ids, varlen).index_select(0, read)
    if not short:
        return _row_states(model, ids, positions, varlen).index_select(0, read)
    with last_layer.only(model, read) as shortened:
        states = _row_states(model, ids, positions, varlen)
    return states if shortened else states.index_select(0, read)


def _row_states(model: PreTrainedModel, ids: Tensor, positions: Tensor, varlen: Varlen) -> Tensor:
    """Return the same of a model that `supports` it; inside `last_layer.only` those of the tokens that are read."""
    found = decoder_of(model)(
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=no_mask(model),
        use_cache=False,
        pattern=varlen,
    )
    return found.last_hidden_state[0]


def supports(model: PreTrainedModel, width: int) -> bool:
    """Return whether a model computes sequences of up to `width` tokens in one row as it does one by one."""
    if not installed(model) or not attends_to_all(model, width):
        return False
    return computes_same(
        model, "sequences in one row", lambda: _trial(model, _alone), lambda: _trial(model, _row)
    )


def pads(model: PreTrainedModel) -> bool:
    """Return whether a model computes rows with padding on the right as it does one by one."""
    return computes_same(
        model, "rows with padding", lambda: _trial(model, _alone), lambda: _trial(model, _padded)
    )


def attends_to_all(model: PreTrainedModel, width: int) -> bool:
    """Return whether every token attends to all earlier ones in a sequence of `width` tokens."""
    limit = window(model)
    return limit is None or limit >= width


def window(model: PreTrainedModel) -> int | None:
    """Return the fewest tokens that a layer attends to; None where every layer attends to all."""
    config = model.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size", "window_size")
    return min((size for name in names if isinstance(size := getattr(config, name, None), int)), default=None)


def context(model: PreTrainedModel) -> int | None:
    """Return the most tokens that a model can read; None where it computes positions, and so reads any number.

    Learned positions are an embedding of that size (OPT's has two rows more), and some masks a buffer.
    """
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", getattr(config, "n_positions", None))
    decoder, words = decoder_of(model), model.get_input_embeddings()
    learned = {
        one.num_embeddings for one in decoder.modules() if isinstance(one, Embedding) and one is not words
    }
    masks = {size for buffer in decoder.buffers() for size in buffer.shape}
    return length if isinstance(length, int) and {length, length + 2} & (learned | masks) else None


def _padded_states(model: PreTrainedModel, ids: Tensor, varlen: Varlen) -> Tensor:
    return (_padded if pads(model) else _alone)(model, ids, varlen)


def _padded(model: PreTrainedModel, ids: Tensor, varlen: Varlen) -> Tensor:
    # Padded on the right, where the mask that a model makes by itself is correct.
    found, expected = [], len(ids)
    for rows in varlen.split(ids.index_select(0, varlen.gather)):
        counting.expect(expected)
        expected = 0  # a prompt that sequences of several blocks share is counted once
        found.append(decoder_of(model)(input_ids=rows, use_cache=False).last_hidden_state.flatten(0, 1))
    return torch.cat(found).index_select(0, varlen.back)


def _alone(model: PreTrainedModel, ids: Tensor, varlen: Varlen) -> Tensor:
    # Whatever follows a sequence in its row, no token of the sequence attends to it.
    decoder = decoder_of(model)
    found = [
        decoder(
            input_ids=row[None], attention_mask=torch.ones_like(row[None]), use_cache=False
        ).last_hidden_state[0]
        for rows in varlen.split(ids.index_select(0, varlen.gather))
        for row in rows
    ]
    return torch.cat(found).index_select(0, varlen.back)


def _row(model: PreTrainedModel, ids: Tensor, varlen: Varlen) -> Tensor:
    positions = torch.tensor([0, 1, 2, 3, 4, 2], device=model.device)
    return _row_states(model, ids, positions, varlen)


def _trial(model: PreTrainedModel, forward: Callable[[PreTrainedModel, Tensor, Varlen], Tensor]) -> Tensor:
    """Return the states of two short sequences with one prompt."""
    ids = trial_tokens(model, 6)
    gather = torch.tensor([0, 1, 2, 3, 4, 0, 1, 5, 0, 0], device=model.device)
    back = torch.tensor([0, 1, 2, 3, 4, 7], device=model.device)
    return forward(model, ids, Varlen(gather, back, ((2, 5),)))
