"""Texts that begin alike, read in one forward: each token stands there once, and none is padding."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignbench.models import Base
from alignbench.models.last_layer import only
from alignbench.models.varlen import Ragged, hidden_states
from alignbench.rows import Ids

COPY = {"cpu": 24, "cuda": 256}
"""What it costs a token to be copied into a row of attention, in tokens that look at it there."""

BLOCK = 32
"""Rows of attention are a multiple of this, as the kernels' blocks are."""


@dataclass(frozen=True)
class Packed:
    """Texts as the tree of their beginnings: all its tokens in one row, each before those that follow it."""

    ids: NDArray[np.int64]
    """[F]: the tokens."""
    depths: NDArray[np.int64]
    """[F]: how many tokens stand before each in its texts."""
    ends: NDArray[np.int64]
    """[F]: the place after the last token that has this one before it in a text."""
    owners: NDArray[np.int64]
    """[F]: a text that has this token."""
    paths: list[NDArray[np.int64]]
    """By text, as asked: where its tokens stand in the row."""


def pack(texts: Many[Ids]) -> Packed:
    """Lay out the texts so that what any of them begin with alike stands there once."""
    ids: list[int] = []
    paths: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(texts)
    ends = np.zeros(sum(map(len, texts)), np.int64)
    depths, owners = np.zeros_like(ends), np.zeros_like(ends)
    last, path = (), paths[0]
    # In their order as tuples no earlier text has more in common with one than the last.
    for place in sorted(range(len(texts)), key=lambda place: texts[place]):
        text = texts[place]
        most = min(len(last), len(text))
        shared = next((at for at in range(most) if last[at] != text[at]), most)
        ends[path[shared:]] = len(ids)
        new = slice(len(ids), len(ids) + len(text) - shared)
        depths[new], owners[new] = range(shared, len(text)), place
        paths[place] = path = np.concatenate([path[:shared], np.arange(new.start, new.stop)])
        ids.extend(text[shared:])
        last = text
    ends[path] = len(ids)
    count = len(ids)
    return Packed(np.array(ids, np.int64), depths[:count], ends[:count], owners[:count], paths)


def states(base: Base, packed: Packed) -> Tensor:
    """Return the last hidden states [texts, hidden] of each text's last token.

    Inside `ragged.attention` for the longest of the texts.

    A row of attention is a stretch of tokens, behind those that stand before its first one in a text: what
    any token of the stretch looks at is among them.
    """
    count, device = len(packed.ids), base.device
    step = BLOCK * max(1, round(math.sqrt(COPY[device.type] * packed.depths.max()) / BLOCK))
    starts = range(0, count, step)
    before = [packed.paths[packed.owners[start]][: packed.depths[start]] for start in starts]
    width = max(map(len, before)) + step
    keys = np.full((len(starts), width), count)
    for row, (start, path) in enumerate(zip(starts, before, strict=True)):
        keys[row, : len(path)] = path
        stretch = min(step, count - start)
        keys[row, len(path) : len(path) + stretch] = np.arange(start, start + stretch)
    # Beyond the last token the last one asks again: a softmax over nothing is no number.
    asked = np.minimum(np.arange(len(starts) * step), count - 1)

    def there(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device)

    asks, looked, ends = there(asked), there(keys), there(np.append(packed.ends, 0))
    asking = asks.view(len(starts), step, 1)
    seen = (looked[:, None] <= asking) & (asking < ends[looked][:, None])
    last = there(np.array([path[-1] for path in packed.paths]))
    gather = looked.clamp_max(count - 1).view(-1)
    layout = Ragged(
        gather=gather,
        back=torch.arange(count, device=device),
        batch=len(starts),
        width=width,
        asked=asks,
        seen=seen[:, None],
        few=_of(last, gather, seen),
    )
    with only(base.model, last) as cut:
        found = hidden_states(base.model, there(packed.ids), there(packed.depths), layout)
    return found if cut else found[last]


def _of(read: Tensor, gather: Tensor, seen: Tensor) -> Ragged:
    """Return how the tokens `read`, int64 [E], attend by themselves; `seen` [rows, step, width] is that of all."""
    count, step, width = seen.shape
    tokens, back = torch.unique(read, return_inverse=True)
    rows, columns = tokens // step, tokens % step
    order = torch.arange(len(rows), device=read.device) - torch.searchsorted(rows, rows)
    asks = torch.zeros(count, int(order.max()) + 1, dtype=torch.int64, device=read.device)
    asks[rows, order] = columns  # what pads a row asks what its first token asks
    every = torch.arange(count, device=read.device)[:, None]
    return Ragged(
        gather=gather,
        back=(rows * asks.shape[1] + order)[back],
        batch=count,
        width=width,
        asked=(every * step + asks).view(-1),
        seen=seen[every, asks][:, None],
    )
