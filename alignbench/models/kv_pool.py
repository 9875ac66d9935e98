"""The keys and values of a forest, a slot for each position, and how new positions attend to them."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.base import Base
    from alignbench.models.token_tree import Row, SharedPrefix


GROWTH = {"cpu": 2.0, "cuda": 1.5}
"""A full pool grows so many times; on the CPU what is not written yet costs nothing."""


class Pool:
    """Where the keys, values and last hidden states of all positions lie, a slot for each."""

    def __init__(self, base: Base):
        self._base = base
        self.dtype: torch.dtype = base.dtype
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.states = torch.zeros(0, base.head.in_features, dtype=base.dtype, device=base.device)
        self.column = np.zeros(0, np.int64)
        """For whoever wants to note a number for each slot."""
        self.per_position = self.states.shape[1] * self.dtype.itemsize
        """Bytes of a slot."""
        self._free: list[int] = []

    @property
    def used(self) -> int:
        """Slots that are taken."""
        return len(self.column) - len(self._free)

    def take(self) -> int:
        """Return a free slot."""
        if not self._free:
            have = len(self.column)
            want = max(1024, int(have * GROWTH[self.states.device.type]))
            states = _grown(self.states, want)
            keys, values = ([_grown(one, want) for one in stores] for stores in (self.keys, self.values))
            # Only now: what does not fit into memory leaves the pool as it was.
            self.states, self.keys, self.values = states, keys, values
            self.column = np.zeros(want, np.int64)
            self._free = list(range(want - 1, have - 1, -1))
        return self._free.pop()

    def give(self, slot: int) -> None:
        """Take a slot back."""
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
    grown = tensor.new_empty(want, *tensor.shape[1:])
    grown[: len(tensor)] = tensor
    return grown


def _numbered(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers from 0 on for each count, one after the other."""
    return np.arange(counts.sum(), dtype=np.int64) - np.repeat(
        np.cumsum(counts, dtype=np.int64) - counts, counts
    )


class Window:
    """What some trees look back on beside their trunks: a row for each, its new positions last."""

    def __init__(self, pool: Pool, rows: list[Row], start: int):
        nodes = [node for _, new in rows for node in new]
        widths = [len(new) for _, new in rows]
        count, width = len(rows), widths[0]
        row_of = np.repeat(np.arange(count), widths)
        own = np.array([node.slot for node in nodes])
        fresh = set(own.tolist())
        size = len(pool.column)
        above: list[NDArray[np.int64]] = []
        for row, (_, new) in enumerate(rows):
            # An offset for each row, so that one sort finds what each row sees.
            known = {node.parent for node in new if node.parent and node.parent.slot not in fresh}
            above += [parent.lineage + row * size for parent in known]
        both: NDArray[np.int64] = np.unique(np.concatenate([np.zeros(0, np.int64), *above]))
        rows_seen, seen = both // size, both % size
        counts = np.bincount(rows_seen, minlength=count)
        past = int(counts.max())
        order = _numbered(counts)
        column = _numbered(np.array(widths))
        slots = np.zeros((count, past + width), np.int64)
        slots[rows_seen, order] = seen
        slots[row_of, past + column] = own
        lines = [node.lineage for node in nodes]
        lengths = [len(line) for line in lines]
        looks: list[NDArray[np.int64]] = []
        known_to = new_to = 0
        for its_known, its_new in zip(counts.tolist(), widths, strict=True):
            # Row by row: a trunk that several rows see stands at another place in each.
            old, new = slice(known_to, known_to + its_known), slice(new_to, new_to + its_new)
            pool.column[seen[old]] = order[old]
            pool.column[own[new]] = past + column[new]
            looks.append(pool.column[np.concatenate(lines[new])])
            known_to, new_to = old.stop, new.stop
        blind = float(torch.finfo(pool.dtype).min)
        mask = np.full((count, 1, width, past + width), blind, np.float32)
        each = np.repeat(np.arange(len(nodes)), lengths)
        mask[row_of[each], 0, column[each], np.concatenate(looks)] = 0.0
        device = pool.states.device
        self.past = past
        self.slots = torch.from_numpy(slots.ravel()).to(device)
        """[rows x (past + width)]"""
        self.mask = torch.from_numpy(mask).to(device, pool.dtype)
        """[rows, 1, width, past + width], to be added."""
        self._lay_out(start, row_of, column)

    def _lay_out(self, start: int, row_of: NDArray[np.int64], column: NDArray[np.int64]) -> None:
        """Note where the positions that ask, from `start` on, stand in the rows."""
        self._row_of, self._column = row_of, column
        count, _, width, _ = self.mask.shape
        places = np.zeros((count, width), np.int64)
        places[row_of, column] = start + np.arange(len(row_of))
        self.start, self.stop = start, start + len(row_of)
        self.full = len(row_of) == count * width
        """Whether all rows are equally long."""
        self.places = torch.from_numpy(places).to(self.mask.device)
        """Where among all positions that ask each is, [rows, width]."""
        self.real = torch.from_numpy(row_of * width + column).to(self.mask.device)
        """Which of the flattened places are no padding."""

    def of(self, read: NDArray[np.int64], start: int) -> Window:
        """Return the window of some of its positions, which stand from `start` on among all that ask."""
        row_of, old = self._row_of[read - self.start], self._column[read - self.start]
        counts = np.bincount(row_of, minlength=len(self.mask))
        column = _numbered(counts)
        made = copy(self)
        made.mask = self.mask.new_zeros(len(counts), 1, int(counts.max()), self.mask.shape[3])
        made.mask[row_of, 0, column] = self.mask[row_of, 0, old]
        made._lay_out(start, row_of, column)
        return made

    def rows(self, packed: Tensor) -> Tensor:
        """Return what the row of all new positions [positions, ...] has for these: [rows, width, ...]."""
        if self.full:
            return packed[self.start : self.stop].view(*self.places.shape, *packed.shape[1:])
        return packed[self.places]

    def flat(self, rows: Tensor) -> Tensor:
        """Return the positions of [rows, width, ...] without padding."""
        rows = rows.flatten(0, 1)
        return rows if self.full else rows[self.real]

    def see(self, store: Tensor) -> Tensor:
        """Return what is seen of keys or values [slots, heads, size]: [rows, past + width, heads, size]."""
        return store.index_select(0, self.slots).view(len(self.mask), -1, *store.shape[1:])


class Packed(DynamicCache):
    """One row of all new positions, and how they attend: to what their tree sees, and to its trunk."""

    def __init__(
        self,
        pool: Pool,
        where: Tensor,
        windows: list[Window],
        trunks: list[tuple[SharedPrefix, slice]],
        read: NDArray[np.int64],
    ):
        super().__init__()
        self.pool, self.where, self.windows, self.trunks = pool, where, windows, trunks
        self.at = -1
        self._read = read

    def _of_read(self) -> tuple[list[Window], list[tuple[SharedPrefix, slice]]]:
        """Return the windows and trunks of the positions that are read."""
        read = self._read
        edges = [0, *np.searchsorted(read, [window.stop for window in self.windows]).tolist()]
        windows = [
            window.of(read[at:end], at)
            for window, at, end in zip(self.windows, edges, edges[1:], strict=False)
            if end > at
        ]
        spans = [np.searchsorted(read, (span.start, span.stop)).tolist() for _, span in self.trunks]
        return windows, [(trunk, slice(*span)) for (trunk, _), span in zip(self.trunks, spans, strict=True)]

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

    def attend(self, query: Tensor, scale: float | None, read: Tensor | None = None) -> Tensor:
        """Return what each position [1, heads, positions, size] sees, [1, positions, heads, size].

        With `read` what is returned for all others is zero.
        """
        asked = query[0].transpose(0, 1)
        windows, trunks = self.windows, self.trunks
        if read is not None:
            asked = asked[read]
            windows, trunks = self._of_read()
        keys, values = self.pool.layer(self.at)
        parts, weights = [], []
        for window in windows:
            found, weight = attended(
                window.rows(asked), window.see(keys), window.see(values), window.mask, scale
            )
            parts.append(window.flat(found))
            weights.append(window.flat(weight))
        found, weight = (parts[0], weights[0]) if len(parts) == 1 else (torch.cat(parts), torch.cat(weights))
        for trunk, span in trunks:
            common, its = attended(asked[None, span], *trunk.layer(self.pool, self.at), None, scale)
            share = torch.sigmoid(its[0] - weight[span])[..., None].to(found.dtype)
            found[span].lerp_(common[0], share)
        if read is not None:
            found = found.new_zeros(query.shape[2], *found.shape[1:]).index_copy_(0, read, found)
        return found[None]


class Masked(DynamicCache):
    """What a forward sees of the pool, a row for each tree, as the cache that attention layers know."""

    def __init__(self, pool: Pool, where: Tensor, window: Window):
        super().__init__()
        self.pool, self.where, self.window = pool, where, window

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.window.past

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the new keys and values [rows, heads, width, size] into the pool; return those to be seen."""
        found = []
        stores = self.pool.layer(layer_idx, key_states, value_states)
        for store, new in zip(stores, (key_states, value_states), strict=True):
            store[self.where] = self.window.flat(new.transpose(1, 2))
            found.append(self.window.see(store).transpose(1, 2))
        return found[0], found[1]


def attended(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Return what queries [B, T, heads, size] see of keys [B, S, kv heads, size], and how much of it there is.

    The second is the logarithm of the softmax's denominator, float32 [B, T, heads]: it is what makes of two
    parts of a past the whole. `mask` [B, 1, T, S] is added.
    """
    rows, width, heads, size = query.shape
    groups = heads // keys.shape[2]
    asked, keys, values = query.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
    if groups > 1:  # heads that share keys are queries side by side
        asked = asked.reshape(rows, -1, groups * width, size)
        mask = mask if mask is None else mask.repeat(1, 1, groups, 1)
    factor: float = size**-0.5 if scale is None else scale
    if query.device.type == "cpu" and size == values.shape[-1]:
        found, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default(
            asked, keys, values, 0.0, False, attn_mask=mask, scale=factor
        )
    else:
        scores = (asked @ keys.transpose(-1, -2)).float() * factor
        scores = scores if mask is None else scores + mask
        weight = scores.logsumexp(-1)
        found = (scores - weight[..., None]).exp().to(values.dtype) @ values
    if groups > 1:
        found, weight = found.reshape(rows, heads, width, -1), weight.reshape(rows, heads, width)
    return found.transpose(1, 2), weight.transpose(1, 2)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    read: Tensor | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do, in one row of many trees."""
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    return packed.attend(query, scaling, read), None


NAME = "alignbench_forest"
AttentionInterface.register(NAME, attention)
