"""Texts with shared prefixes in one forward: the tree of their tokens is one row, without padding."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignbench.models.forward.last_layer import only
from alignbench.models.forward.varlen import Varlen, row_states
from alignbench.rows import Ids

if TYPE_CHECKING:
    from alignbench.models.forward.network import Network

COPY = {"cpu": 24, "cuda": 256}
"""What it costs to copy a token into a row of attention, in tokens that attend to it there."""

BLOCK = 32
"""Rows of attention are a multiple of this, as the kernels' blocks are."""


@dataclass(frozen=True)
class PrefixTree:
    """All tokens of some texts in one row, shared prefixes once, each token before those that follow it."""

    ids: NDArray[np.int64]
    """[F]: the tokens."""
    depths: NDArray[np.int64]
    """[F]: the position of each token in its texts."""
    ends: NDArray[np.int64]
    """[F]: the place behind the last token that follows each one in a text."""
    owners: NDArray[np.int64]
    """[F]: a text that contains each token."""
    paths: list[NDArray[np.int64]]
    """By text, in the order given: the places of its tokens in the row."""


def prefix_tree(texts: Many[Ids]) -> PrefixTree:
    """Return the prefix tree of `texts`."""
    ids: list[int] = []
    paths: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(texts)
    ends = np.zeros(sum(map(len, texts)), np.int64)
    depths, owners = np.zeros_like(ends), np.zeros_like(ends)
    last, path = (), paths[0]
    # In the order of tuples no earlier text shares a longer prefix with one than its predecessor.
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
    return PrefixTree(np.array(ids, np.int64), depths[:count], ends[:count], owners[:count], paths)


def tree_states(base: Network, tree: PrefixTree) -> Tensor:
    """Return the last hidden states [texts, hidden] of each text's last token.

    `varlen.supports` must be true for the longest text. A row of attention is a stretch of tokens behind all tokens
    that precede its first one in a text: every token of the stretch attends to tokens of its row only.
    """
    count, device = len(tree.ids), base.device
    step = BLOCK * max(1, round(math.sqrt(COPY[device.type] * tree.depths.max()) / BLOCK))
    starts = range(0, count, step)
    before = [tree.paths[tree.owners[start]][: tree.depths[start]] for start in starts]
    width = max(map(len, before)) + step
    keys = np.full((len(starts), width), count)
    for row, (start, path) in enumerate(zip(starts, before, strict=True)):
        keys[row, : len(path)] = path
        stretch = min(step, count - start)
        keys[row, len(path) : len(path) + stretch] = np.arange(start, start + stretch)
    # Behind the last token, queries repeat it: a softmax over nothing is not a number.
    repeated = np.minimum(np.arange(len(starts) * step), count - 1)

    def on_device(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device)

    queries, places, ends = on_device(repeated), on_device(keys), on_device(np.append(tree.ends, 0))
    query = queries.view(len(starts), step, 1)
    mask = (places[:, None] <= query) & (query < ends[places][:, None])
    last = on_device(np.array([path[-1] for path in tree.paths]))
    gather = places.clamp_max(count - 1).view(-1)
    varlen = Varlen(
        gather=gather,
        back=torch.arange(count, device=device),
        batch=len(starts),
        width=width,
        queries=queries,
        mask=mask[:, None],
        last=_of(last, gather, mask),
    )
    with only(base.model, last) as shortened:
        found = row_states(base.model, on_device(tree.ids), on_device(tree.depths), varlen)
    return found if shortened else found[last]


def _of(read: Tensor, gather: Tensor, mask: Tensor) -> Varlen:
    """Return the pattern of the tokens `read`, int64 [E], alone; `mask` [rows, step, width] is that of all tokens."""
    count, step, width = mask.shape
    tokens, back = torch.unique(read, return_inverse=True)
    rows, columns = tokens // step, tokens % step
    order = torch.arange(len(rows), device=read.device) - torch.searchsorted(rows, rows)
    queries = torch.zeros(count, int(order.max()) + 1, dtype=torch.int64, device=read.device)
    queries[rows, order] = columns  # padding of a row repeats its first token
    every = torch.arange(count, device=read.device)[:, None]
    return Varlen(
        gather=gather,
        back=(rows * queries.shape[1] + order)[back],
        batch=count,
        width=width,
        queries=(every * step + queries).view(-1),
        mask=mask[every, queries][:, None],
    )
