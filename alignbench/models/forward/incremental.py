"""Texts that grow by a token at a time, and the hidden state after each: what decoding computes."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from alignbench.models import counting
from alignbench.models.forward.groups import batches

if TYPE_CHECKING:
    from alignbench.models.forward.network import Network
    from alignbench.models.paths import Batch, Paths

WASTE, PART = 2048, 256
"""Positions of padding from which texts are read in parts, and tokens of a part at least."""


class GrowingTexts:
    """A batch of texts under the active adapter. `states` computes what was added since it was last called.

    With `paths.cache` the model's own cache goes from call to call; without it whole texts are computed again. Texts
    of unequal length need `paths.batch` to be "padded". Texts that begin as the same are computed once until a token
    is added, where the rows of a cache can be selected.
    """

    def __init__(self, base: Network, texts: Many[Many[int]], paths: Paths | None = None):
        self.base = base
        self.paths: Paths = base.paths if paths is None else paths
        self._texts = [list(text) for text in texts]
        self._rows = list(range(len(texts)))
        """The row of each text in the cache: rows of removed texts stay where it cannot be cut, and equal texts share
        one until their first token."""
        if self.paths.cache and self.paths.cut:
            first: dict[tuple[int, ...], int] = {}
            self._rows = [first.setdefault(tuple(text), len(first)) for text in texts]
            texts = list(first)
        self._ids, self._mask = base.pad(texts, "left")
        self._cache: dict[str, Any] = {}
        """What the model hands on, by the name under which its forward takes it."""
        self.computed: list[int] = []
        """Positions that the last call computed, by text; those that texts share belong to each."""

    def states(self, wanted: Many[bool] | None = None) -> Tensor:
        """Return [texts, hidden]: the last hidden state after each text; those that are not `wanted` are padding."""
        if not self.paths.cache:
            self.computed = [len(text) for text in self._texts]
            self._expect(wanted)
            return self.base.hidden(*self.base.pad(self._texts, "left"))[:, -1]
        new = self._mask.sum(1).tolist() if not self._cache else [1] * len(self._mask)
        self.computed = [new[row] for row in self._rows]
        self._expect(wanted)
        hidden = self._read_in_parts() if not self._cache else None
        if hidden is None:
            mask = self._mask if self.paths.mask or not self._cache else None
            output = self.base.forward(self._ids, mask, use_cache=True, **self._cache)
            self._cache = _handed_on(self.base, output)
            hidden = output.last_hidden_state[:, -1]
        if self._rows == list(range(len(hidden))):
            return hidden
        hidden = hidden[self._rows]
        if len(set(self._rows)) < len(self._rows):
            self._take(self._rows)
        return hidden

    def _read_in_parts(self) -> Tensor | None:
        """Read texts of like length together and put their caches below each other: less padding is computed.

        None where that saves little, or where a cache is more than keys and values of all positions.
        """
        lengths = self._mask.sum(1).tolist()
        parts = parts_of(lengths) if self.paths.batch == "padded" else []
        if len(parts) < 2:
            return None
        width, hidden = self._mask.shape[1], []
        caches: list[Any] = []
        for part in parts:
            begin = width - max(lengths[part])
            counting.expect(sum(lengths[part]))
            ids, mask = self._ids[part, begin:], self._mask[part, begin:]
            output = self.base.forward(ids, mask, use_cache=True)
            cache = _handed_on(self.base, output)
            known = cache.get("past_key_values")
            if len(cache) != 1 or type(known) is not DynamicCache:
                return None
            if any(type(layer) is not DynamicLayer for layer in known.layers):
                return None
            hidden.append(output.last_hidden_state[:, -1])
            caches.append(known)
        whole = caches[0]
        for place, layer in enumerate(whole.layers):
            for name in ("keys", "values"):
                stores = [getattr(one.layers[place], name) for one in caches]
                padded = [nn.functional.pad(one, (0, 0, width - one.shape[2], 0)) for one in stores]
                setattr(layer, name, torch.cat(padded))
        self._cache = {"past_key_values": whole}
        return torch.cat(hidden)

    def _expect(self, wanted: Many[bool] | None) -> None:
        chosen = [True] * len(self.computed) if wanted is None else wanted
        counting.expect(
            sum(
                {
                    row: count
                    for row, count, one in zip(self._rows, self.computed, chosen, strict=True)
                    if one
                }.values()
            )
        )

    def _take(self, rows: Many[int]) -> None:
        """Give each text the row `rows` names, and a row of its own."""
        index = torch.tensor(rows, dtype=torch.long, device=self.base.device)
        self._cache = {name: _select(cache, index) for name, cache in self._cache.items()}
        self._ids, self._mask = self._ids[index], self._mask[index]
        self._rows = list(range(len(rows)))

    def add(self, tokens: Many[int]) -> None:
        """Append a token to each text."""
        for text, token in zip(self._texts, tokens, strict=True):
            text.append(token)
        if self.paths.cache:
            new = torch.zeros(len(self._mask), dtype=torch.long)
            new[self._rows] = torch.tensor(tokens, dtype=torch.long)
            self._ids = new[:, None].to(self.base.device)
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)

    def keep(self, places: Many[int]) -> None:
        """Go on with the texts at these places alone."""
        self._texts = [self._texts[place] for place in places]
        self._rows = [self._rows[place] for place in places]
        if self.paths.cache and self.paths.cut and self._cache:
            self._take(self._rows)


def parts_of(lengths: Many[int]) -> list[slice]:
    """Return which texts, the longest first, are read together: parts of similar length, where that saves much.

    Each part but the last has at least `PART` tokens: the fewer rows a product has, the slower is each.
    """
    if list(lengths) != sorted(lengths, reverse=True):
        return []
    if lengths[0] * len(lengths) - sum(lengths) < WASTE:
        return []
    parts, begin, held = [], 0, 0
    for place, length in enumerate(lengths):
        if held >= PART and lengths[begin] * (place - begin) > 1.05 * held:
            parts.append(slice(begin, place))
            begin, held = place, 0
        held += length
    return [*parts, slice(begin, len(lengths))]


def _handed_on(base: Network, output: Any) -> dict[str, Any]:
    """Return the cache in a forward's output, by the name under which the next forward takes it.

    Attention layers call it `past_key_values`, state-space models `cache_params`, RWKV `state`.
    """
    taken = signature(type(base.decoder).forward).parameters
    return {name: cache for name, cache in output.items() if name in taken and cache is not None}


def _select(cache: Any, index: Tensor) -> Any:
    """Return a cache with the rows `index`, int64 [rows], each any number of times.

    transformers 5.23 selects the rows of keys and values with `batch_select_indices`, which recurrent layers lack and
    layers of both kinds inherit for their keys alone; `reorder_cache` knows every layer of a plain cache.
    """
    if isinstance(cache, Cache):
        if type(cache).batch_select_indices is Cache.batch_select_indices:
            cache.reorder_cache(index)  # pyright: ignore[reportArgumentType]
        else:
            cache.batch_select_indices(index)
        return cache
    return [state.index_select(0, index) for state in cache]


def together(batch: Batch, texts: Many[Many[int]], positions: int) -> Iterator[list[int]]:
    """Yield places of texts that share a forward of at most `positions`, padding counted."""
    alike: dict[int, list[int]] = {}
    for place, text in enumerate(texts):
        key = {"padded": 0, "equal lengths": len(text), "one by one": place}[batch]
        alike.setdefault(key, []).append(place)
    for places in alike.values():
        for part in batches([texts[place] for place in places], positions):
            yield [places[number] for number in part]
