"""The keys and values of token trees, a slot for each position, and how new positions attend to them."""

from __future__ import annotations

from collections.abc import Sequence as Many
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from alignbench.models import counting
from alignbench.models.forward.memory import POOL_GROWTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.forward.network import Network
    from alignbench.models.trees.nodes import Node, SharedPrefix


SCORES = 1 << 26
"""Attention scores, float32, that are in memory at a time where no kernel returns the denominators too."""


class Pool:
    """Keys, values and last hidden states of all positions, a slot for each."""

    def __init__(self, base: Network):
        self.dtype: torch.dtype = base.dtype
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.states = torch.zeros(0, base.head.in_features, dtype=base.dtype, device=base.device)
        self.column = np.zeros(0, np.int64)
        """A number for each slot, for temporary use."""
        self.per_position = self.states.shape[1] * self.dtype.itemsize
        """Bytes of a slot."""
        self._free: list[int] = []

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self.column) - len(self._free)

    def take(self) -> int:
        """Return a free slot."""
        if not self._free:
            self._grow(max(1024, int(len(self.column) * POOL_GROWTH[self.states.device.type])))
        return self._free.pop()

    def reserve(self, slots: int) -> None:
        """Make room for so many slots in all."""
        if slots > len(self.column):
            self._grow(slots)

    def _grow(self, want: int) -> None:
        have = len(self.column)
        # One store after the other, so that one alone is there twice. What has grown before a failed allocation
        # is longer than it has to be, and waits for the next try.
        self.states = _grown(self.states, want)
        for stores in (self.keys, self.values):
            for place, one in enumerate(stores):
                stores[place] = _grown(one, want)
        self.column = np.zeros(want, np.int64)
        self._free = [*range(want - 1, have - 1, -1), *self._free]

    def give(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def layer(self, index: int, *like: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of one layer, [slots, heads, size]; `like` are some [1, heads, 1, size]."""
        while len(self.keys) <= index:
            keys, values = (one.new_zeros(len(self.column), one.shape[1], one.shape[3]) for one in like)
            self.keys.append(keys)
            self.values.append(values)
            self.per_position += (keys[0].numel() + values[0].numel()) * self.dtype.itemsize
        return self.keys[index], self.values[index]


def _grown(tensor: Tensor, want: int) -> Tensor:
    if len(tensor) >= want:
        return tensor
    grown = tensor.new_empty(want, *tensor.shape[1:])
    grown[: len(tensor)] = tensor
    return grown


def _numbered(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, ... for each count, one after the other."""
    return np.arange(counts.sum(), dtype=np.int64) - np.repeat(
        np.cumsum(counts, dtype=np.int64) - counts, counts
    )


class Rows:
    """What some trees attend to in addition to their shared prefixes: a row for each tree, its new positions last."""

    def __init__(self, pool: Pool, rows: Many[tuple[object, list[Node]]], start: int):
        nodes = [node for _, new in rows for node in new]
        widths = [len(new) for _, new in rows]
        count, width = len(rows), widths[0]
        row_of = np.repeat(np.arange(count), widths)
        own = np.array([node.slot for node in nodes])
        fresh = set(own.tolist())
        size = len(pool.column)
        above: list[NDArray[np.int64]] = []
        for row, (_, new) in enumerate(rows):
            # With an offset for each row, one sort finds the past positions of every row.
            known = {node.parent for node in new if node.parent and node.parent.slot not in fresh}
            above += [parent.lineage + row * size for parent in known]
        both: NDArray[np.int64] = np.unique(np.concatenate([np.zeros(0, np.int64), *above]))
        past_row, past_slot = both // size, both % size
        counts = np.bincount(past_row, minlength=count)
        past = int(counts.max())
        order = _numbered(counts)
        column = _numbered(np.array(widths))
        slots = np.zeros((count, past + width), np.int64)
        slots[past_row, order] = past_slot
        slots[row_of, past + column] = own
        lines = [node.lineage for node in nodes]
        lengths = [len(line) for line in lines]
        visible: list[NDArray[np.int64]] = []
        known_to = new_to = 0
        for its_known, its_new in zip(counts.tolist(), widths, strict=True):
            # Row by row: a prefix in several rows has another column in each.
            old, new = slice(known_to, known_to + its_known), slice(new_to, new_to + its_new)
            pool.column[past_slot[old]] = order[old]
            pool.column[own[new]] = past + column[new]
            visible.append(pool.column[np.concatenate(lines[new])])
            known_to, new_to = old.stop, new.stop
        hidden = float(torch.finfo(pool.dtype).min)
        mask = np.full((count, 1, width, past + width), hidden, np.float32)
        each = np.repeat(np.arange(len(nodes)), lengths)
        mask[row_of[each], 0, column[each], np.concatenate(visible)] = 0.0
        device = pool.states.device
        self.past = past
        self.slots = torch.from_numpy(slots.ravel()).to(device)
        """[rows x (past + width)]"""
        self.mask = torch.from_numpy(mask).to(device, pool.dtype)
        """[rows, 1, width, past + width], to be added."""
        self._lay_out(start, row_of, column)

    def _lay_out(self, start: int, row_of: NDArray[np.int64], column: NDArray[np.int64]) -> None:
        """Note the places of the queries, from `start` on, in the rows."""
        self._row_of, self._column = row_of, column
        count, _, width, _ = self.mask.shape
        places = np.zeros((count, width), np.int64)
        places[row_of, column] = start + np.arange(len(row_of))
        self.start, self.stop = start, start + len(row_of)
        self.full = len(row_of) == count * width
        """Whether all rows are equally long."""
        self.places = torch.from_numpy(places).to(self.mask.device)
        """[rows, width]: the number of each query among all queries."""
        self.real = torch.from_numpy(row_of * width + column).to(self.mask.device)
        """The flattened places that are not padding."""

    def only(self, read: NDArray[np.int64], start: int) -> Rows:
        """Return the rows with the queries `read` alone, which are numbered from `start` on."""
        row_of, old = self._row_of[read - self.start], self._column[read - self.start]
        counts = np.bincount(row_of, minlength=len(self.mask))
        column = _numbered(counts)
        rows = copy(self)
        rows.mask = self.mask.new_zeros(len(counts), 1, int(counts.max()), self.mask.shape[3])
        rows.mask[row_of, 0, column] = self.mask[row_of, 0, old]
        rows._lay_out(start, row_of, column)
        return rows

    def padded(self, queries: Tensor) -> Tensor:
        """Return these rows of all queries [positions, ...], padded: [rows, width, ...]."""
        if self.full:
            return queries[self.start : self.stop].view(*self.places.shape, *queries.shape[1:])
        return queries[self.places]

    def flat(self, rows: Tensor) -> Tensor:
        """Return the positions of [rows, width, ...] without padding."""
        rows = rows.flatten(0, 1)
        return rows if self.full else rows[self.real]

    def visible(self, store: Tensor) -> Tensor:
        """Return the rows' keys or values of a store [slots, heads, size]: [rows, past + width, heads, size]."""
        return store.index_select(0, self.slots).view(len(self.mask), -1, *store.shape[1:])


class OneRow(DynamicCache):
    """The new positions of all trees as one row: the cache they are written to, and the pattern by which they attend.

    Each attends to its own path, in the rows of its tree and in its shared prefix; the two parts are then combined.
    """

    def __init__(
        self,
        pool: Pool,
        where: Tensor,
        rows: list[Rows],
        prefixes: list[tuple[SharedPrefix, slice]],
        read: NDArray[np.int64],
    ):
        super().__init__()
        self.pool, self.where, self.rows, self.prefixes = pool, where, rows, prefixes
        self.at = -1
        self._read = read

    def _of_read(self) -> tuple[list[Rows], list[tuple[SharedPrefix, slice]]]:
        """Return the rows and prefixes of the positions that are read."""
        read = self._read
        edges = [0, *np.searchsorted(read, [one.stop for one in self.rows]).tolist()]
        rows = [
            one.only(read[at:end], at)
            for one, at, end in zip(self.rows, edges, edges[1:], strict=False)
            if end > at
        ]
        spans = [np.searchsorted(read, (span.start, span.stop)).tolist() for _, span in self.prefixes]
        return rows, [(prefix, slice(*span)) for (prefix, _), span in zip(self.prefixes, spans, strict=True)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the new keys and values [1, heads, positions, size] into the pool."""
        keys, values = self.pool.layer(layer_idx, key_states, value_states)
        keys.index_copy_(0, self.where, key_states[0].transpose(0, 1))
        values.index_copy_(0, self.where, value_states[0].transpose(0, 1))
        self.at = layer_idx
        return key_states, value_states

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
        """Attend to keys and values in the pool; with `read` the output of all other positions is zero."""
        queries = query[0].transpose(0, 1)
        rows, prefixes = self.rows, self.prefixes
        if read is not None:
            queries = queries[read]
            rows, prefixes = self._of_read()
        keys, values = self.pool.layer(self.at)
        parts, weights = [], []
        for one in rows:
            found, weight = attended(
                one.padded(queries), one.visible(keys), one.visible(values), one.mask, scale
            )
            parts.append(one.flat(found))
            weights.append(one.flat(weight))
        found, weight = (parts[0], weights[0]) if len(parts) == 1 else (torch.cat(parts), torch.cat(weights))
        for prefix, span in prefixes:
            common, its = attended(queries[None, span], *prefix.layer(self.at, keys, values), None, scale)
            share = torch.sigmoid(its[0] - weight[span])[..., None].to(found.dtype)
            found[span].lerp_(common[0], share)
        if read is not None:
            found = found.new_zeros(query.shape[2], *found.shape[1:]).index_copy_(0, read, found)
        return found[None]


class RowPerTree(DynamicCache):
    """A row for each tree and a mask, for models that do not support one row: the pool as an ordinary cache."""

    def __init__(self, pool: Pool, where: Tensor, rows: Rows):
        super().__init__()
        self.pool, self.where, self.rows = pool, where, rows

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.rows.past

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values [rows, heads, width, size] into the pool; return all that the rows attend to."""
        found = []
        stores = self.pool.layer(layer_idx, key_states, value_states)
        for store, new in zip(stores, (key_states, value_states), strict=True):
            store[self.where] = self.rows.flat(new.transpose(1, 2))
            found.append(self.rows.visible(store).transpose(1, 2))
        return found[0], found[1]


def attended(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attend with queries [B, T, heads, size] to keys [B, S, kv heads, size]; return outputs and log-denominators.

    The logarithm of the softmax's denominator, float32 [B, T, heads], is the weight by which the outputs over two
    parts of a past are combined. `mask` [B, 1, T, S] is added.
    """
    rows, width, heads, size = query.shape
    groups = heads // keys.shape[2]
    counting.attended(rows, heads, width, keys.shape[1], size, gradient=False)
    queries, keys, values = query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    if groups > 1:  # heads that share keys are queries side by side
        queries = queries.reshape(rows, -1, groups * width, size)
        mask = mask if mask is None else mask.repeat(1, 1, groups, 1)
    factor: float = size**-0.5 if scale is None else scale
    if query.device.type == "cpu" and size == values.shape[-1]:
        found, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            queries, keys, values, 0.0, False, attn_mask=mask, scale=factor
        )
    else:
        found, weight = _by_products(queries, keys, values, mask, factor)
    if groups > 1:
        found, weight = found.reshape(rows, heads, width, -1), weight.reshape(rows, heads, width)
    return found.transpose(1, 2), weight.transpose(1, 2)


def _by_products(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    """Return the same of [B, heads, T, size] by plain products, of so many queries at a time that scores fit."""
    step = max(1, SCORES // (queries.shape[0] * queries.shape[1] * keys.shape[2]))
    found, weights = [], []
    for at in range(0, queries.shape[2], step):
        some = slice(at, at + step)
        scores = (queries[:, :, some] @ keys.transpose(-1, -2)).float() * factor
        scores = scores if mask is None else scores + mask[:, :, some]
        weights.append(scores.logsumexp(-1))
        found.append((scores - weights[-1][..., None]).exp().to(values.dtype) @ values)
    return torch.cat(found, dim=2), torch.cat(weights, dim=2)
