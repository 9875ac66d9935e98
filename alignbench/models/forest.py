"""Trees of tokens: what follows any path, every position computed once, many paths in one forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from alignbench.errors import ModelError
from alignbench.models.generation import gumbel_of, stop_ids
from alignbench.rows import Ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.base import Base, ModelPolicy

POSITIONS = {"cpu": 4096, "cuda": 32768}
"""Positions of one forward, padding included."""

LOGITS = {"cpu": 2**22, "cuda": 2**27}
"""Numbers of the largest logits tensor: paths x vocabulary."""

CLOSE = 1e-4
"""Two choices closer than this are a tie, which rounding may have decided: it is some 1e-5 in float32."""

FULL = 3 / 4
"""A row whose positions fill less than this share of the longest row beside it waits for another forward."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question about what follows `path`: by default one token, drawn with `noise` or the likeliest."""

    path: Ids
    noise: int | None = None
    """The key of the draw's noise, see `noise_key`; None takes the likeliest token."""
    temperature: float = 1.0
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 for all."""
    likeliest: int = 0
    """Ask for so many tokens, the likeliest first, instead."""
    options: Ids = ()
    """Ask for the probabilities of these tokens among themselves instead."""
    since: tuple[int, ...] = ()
    """Ask for the mean hidden state of `path[start:]` for each of these starts instead."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What follows a path."""

    tokens: Ids = ()
    probabilities: tuple[float, ...] = ()
    """One for each token, among those that could have been drawn; among each other for several tokens."""
    states: NDArray[np.float32] | None = None
    """float32 [starts, hidden], where the query asked for states."""


class _Node:
    """One token of a tree: where its keys, values and hidden state lie, and what follows it."""

    __slots__ = ("lineage", "parent", "slot", "token", "under")

    def __init__(self, parent: _Node | None, token: int, slot: int):
        self.parent = parent
        self.token = token
        self.slot = slot
        self.under: dict[int, _Node] = {}
        before = parent.lineage if parent is not None else np.zeros(0, np.int64)
        self.lineage: NDArray[np.int64] = np.append(before, slot) if slot >= 0 else before
        """The slots of the path, its own last."""


class Tree:
    """The paths of one prompt, behind a trunk that other trees may share."""

    def __init__(self, forest: Forest, root: _Node, trunk: Ids):
        self._forest, self._root, self._trunk = forest, root, trunk
        self._root = _Node(root.parent, root.token, root.slot)
        self._root.lineage = root.lineage
        self.forwards = 0
        """Model calls that this tree took part in."""
        self.tokens = 0
        """Positions computed for this tree, those of the trunk not counted."""

    def keep(self, path: Ids) -> None:
        """Free what does not lie on `path` or under it."""
        node = self._root
        for token in path[len(self._trunk) :]:
            for other in [other for other in node.under if other != token]:
                self._forest._free(node.under.pop(other))
            if token not in node.under:
                return
            node = node.under[token]

    def cut(self, path: Ids) -> None:
        """Free what lies under `path`."""
        node = self._root
        for token in path[len(self._trunk) :]:
            if token not in node.under:
                return
            node = node.under[token]
        for under in node.under.values():
            self._forest._free(under)
        node.under = {}


class Forest:
    """Trees of token paths under one frozen policy.

    Keys and values of every position are kept, and a row of a forward is one tree: its new positions see
    their own path through a mask, however many branches it has. In float32 a choice that rounding could
    decide is made by the path alone, so that replies do not depend on what was asked with it. It reads models
    whose layers all attend to the whole past, or to a window that no path outgrows.
    """

    def __init__(self, policy: ModelPolicy):
        self.policy = policy
        self.base: Base = policy.base
        self.stops: frozenset[int] = stop_ids(self.base)
        """Every token that ends an answer."""
        self.peak_bytes = 0
        """The most bytes that trees have held."""
        self._pool = _Pool(self.base)
        self._trunks: dict[Ids, _Node] = {(): _Node(None, -1, -1)}

    @property
    def bytes(self) -> int:
        """Bytes of the keys, values and states that trees hold now."""
        return self._pool.used * self._pool.per_position

    def plant(self, trunk: Ids = ()) -> Tree:
        """Return a new tree whose paths all begin with `trunk`, which is computed once for all of them."""
        if trunk not in self._trunks:
            first = Tree(self, self._trunks[()], ())
            self._compute([(first, self._grow(first, [trunk]))])
            node = first._root
            for token in trunk:
                node = node.under[token]
            self._trunks[trunk] = node
        return Tree(self, self._trunks[trunk], trunk)

    def ask(self, asked: Many[tuple[Tree, Many[Query]]]) -> list[list[Reply]]:
        """Answer the queries of each tree, no tree twice; positions that are not known yet are computed."""
        work = [(tree, self._grow(tree, [query.path for query in queries])) for tree, queries in asked]
        base = self.base
        with torch.no_grad(), base.using(self.policy), base.arithmetic():
            self._compute([(tree, new) for tree, new in work if new])
            flat = [(tree, query) for tree, queries in asked for query in queries]
            replies = self._reply([(self._find(tree, query.path), tree, query) for tree, query in flat])
        done = iter(replies)
        return [[next(done) for _ in queries] for _, queries in asked]

    def alone(self, path: Ids) -> Tensor:
        """Return the float32 logits [1, vocabulary] after `path`, computed by itself and from nothing."""
        base = self.base
        with torch.no_grad(), base.using(self.policy), base.arithmetic():
            ids, mask = base.pad([path], "left")
            return base.logits(base.hidden(ids, mask)[:, -1])[:, : base.vocabulary]

    # --- trees ----------------------------------------------------------------------------------------------

    def _grow(self, tree: Tree, paths: Iterable[Ids]) -> list[_Node]:
        """Add the nodes that the paths lack, parents first, and return them."""
        new: list[_Node] = []
        for path in paths:
            node = tree._root
            for token in path[len(tree._trunk) :]:
                below = node.under.get(token)
                if below is None:
                    below = node.under[token] = _Node(node, token, self._pool.take())
                    new.append(below)
                node = below
        return new

    def _find(self, tree: Tree, path: Ids) -> _Node:
        node = tree._root
        for token in path[len(tree._trunk) :]:
            node = node.under[token]
        if node.slot < 0:
            raise ModelError("a path without tokens has nothing that could follow it")
        return node

    def _free(self, node: _Node) -> None:
        waiting = [node]
        while waiting:
            one = waiting.pop()
            self._pool.give(one.slot)
            waiting.extend(one.under.values())

    # --- the network ----------------------------------------------------------------------------------------

    def _compute(self, work: list[tuple[Tree, list[_Node]]]) -> None:
        for tree, new in work:
            tree.forwards += 1
            tree.tokens += len(new)
        with torch.no_grad(), self.base.using(self.policy), self.base.arithmetic():
            for rows in _batches([new for _, new in work], POSITIONS[self.base.device.type]):
                self._forward(rows)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _forward(self, rows: list[list[_Node]]) -> None:
        """Compute new positions, those of one tree in each row, and put them into the pool."""
        base, pool = self.base, self._pool
        width = max(map(len, rows))
        fresh = [{node.slot for node in row} for row in rows]
        seen = [_lineages(row, own) for row, own in zip(rows, fresh, strict=True)]
        past = max(map(len, seen))
        ids = np.zeros((len(rows), width), np.int64)
        positions = np.zeros((len(rows), width), np.int64)
        slots = np.zeros((len(rows), past), np.int64)
        mask = np.zeros((len(rows), width, past + width), bool)
        # A position of padding sees itself alone: a softmax over nothing is no number.
        mask[:, np.arange(width), past + np.arange(width)] = True
        column = pool.scratch
        for r, (row, before) in enumerate(zip(rows, seen, strict=True)):
            slots[r, : len(before)] = before
            column[before] = np.arange(len(before))
            column[[node.slot for node in row]] = past + np.arange(len(row))
            for c, node in enumerate(row):
                ids[r, c] = node.token
                positions[r, c] = len(node.lineage) - 1
                mask[r, c, column[node.lineage]] = True
        real = torch.from_numpy(np.array([(r, c) for r, row in enumerate(rows) for c in range(len(row))])).T
        where = torch.tensor([node.slot for row in rows for node in row], device=base.device)
        seeing = torch.zeros(mask.shape, dtype=pool.dtype).masked_fill_(
            torch.from_numpy(~mask), torch.finfo(pool.dtype).min
        )
        cache = _Window(pool, torch.from_numpy(slots).to(base.device), real.to(base.device), where)
        more = {"position_ids": torch.from_numpy(positions).to(base.device)} if base._positions else {}
        hidden = base.model.base_model(
            input_ids=torch.from_numpy(ids).to(base.device),
            attention_mask=seeing[:, None].to(base.device),
            past_key_values=cache,
            use_cache=True,
            **more,
        ).last_hidden_state
        pool.states[where] = hidden[cache.real[0], cache.real[1]].to(pool.states.dtype)

    # --- replies --------------------------------------------------------------------------------------------

    def _reply(self, asked: list[tuple[_Node, Tree, Query]]) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(asked)
        of_kind: dict[Any, list[int]] = {}
        for place, (node, _, query) in enumerate(asked):
            if query.since:
                replies[place] = Reply(states=self._means(node, query.since))
            else:
                kind = (query.temperature, query.top_k, query.likeliest, len(query.options))
                of_kind.setdefault((*kind, query.noise is None), []).append(place)
        exact = self.base.dtype == torch.float32
        rows = max(1, LOGITS[self.base.device.type] // self.base.vocabulary)
        for places in of_kind.values():
            for part in (places[at : at + rows] for at in range(0, len(places), rows)):
                slots, inverse = np.unique([asked[place][0].slot for place in part], return_inverse=True)
                states = self._pool.states[torch.from_numpy(slots).to(self.base.device)]
                logits = self.base.logits(states)[:, : self.base.vocabulary]
                queries = [asked[place][2] for place in part]
                found, sure = replies_of(logits, torch.from_numpy(inverse), queries)
                for place, reply, certain in zip(part, found, sure, strict=True):
                    if exact and not certain:
                        _, tree, query = asked[place]
                        tree.forwards += 1
                        tree.tokens += len(query.path)
                        reply = replies_of(self.alone(query.path), torch.zeros(1, dtype=torch.long), [query])[
                            0
                        ][0]
                    replies[place] = reply
        return [reply for reply in replies if reply is not None]

    def _means(self, node: _Node, starts: Many[int]) -> NDArray[np.float32]:
        states = self._pool.states[torch.from_numpy(node.lineage).to(self.base.device)]
        return torch.stack([states[start:].float().mean(0) for start in starts]).cpu().numpy()


def replies_of(logits: Tensor, rows: Tensor, queries: Many[Query]) -> tuple[list[Reply], list[bool]]:
    """Answer queries of one kind from float32 logits [paths, vocabulary]; query i reads row `rows[i]`.

    Beside each reply: whether its choice is wider than what rounding may have decided.
    """
    one = queries[0]
    rows = rows.to(logits.device)
    if one.options:
        picked = logits[rows].gather(
            1, torch.tensor([query.options for query in queries], device=logits.device)
        )
        best = picked.topk(min(2, picked.shape[1]), dim=-1).values
        sure = (best[:, 0] - best[:, -1] > CLOSE).tolist()
        shares = picked.softmax(-1).tolist()
        return [Reply(q.options, tuple(share)) for q, share in zip(queries, shares, strict=True)], sure
    vocabulary = logits.shape[1]
    kept = min(one.likeliest or one.top_k or vocabulary, vocabulary)
    if one.noise is None or kept < vocabulary:
        # Two beyond the border: what stands just outside it may belong inside.
        top = (logits / one.temperature).topk(min(max(kept, 2) + 2, vocabulary), dim=-1)
        values, tokens = top.values[rows], top.indices[rows]
    else:
        values = (logits / one.temperature)[rows]
        tokens = torch.arange(vocabulary, device=logits.device).expand_as(values)
    if one.likeliest:
        sure = torch.ones(len(values), dtype=torch.bool)
        if values.shape[1] > kept:
            sure = values[:, kept - 1] - values[:, kept] > CLOSE
        shares = values[:, :kept].softmax(-1).tolist()
        named = tokens[:, :kept].tolist()
        replies = [Reply(tuple(ids), tuple(share)) for ids, share in zip(named, shares, strict=True)]
        return replies, sure.tolist()
    if kept < vocabulary:
        border, outside = values[:, kept - 1 : kept], values[:, kept : kept + 1]
        inside = torch.arange(values.shape[1], device=values.device) < kept
        norm = values[:, :kept].logsumexp(-1)
    else:
        border, outside = None, None
        inside = torch.ones(values.shape[1], dtype=torch.bool, device=values.device)
        norm = (
            values.logsumexp(-1) if one.noise is not None else (logits / one.temperature).logsumexp(-1)[rows]
        )
    perturbed = values
    if one.noise is not None:
        keys = torch.tensor([query.noise for query in queries], device=logits.device)
        perturbed = values + gumbel_of(keys, 0, tokens)
    loose = perturbed if border is None else perturbed.masked_fill(values < border - CLOSE, -torch.inf)
    best = loose.topk(2, dim=-1)
    certain = best.values[:, 0] - best.values[:, 1] > CLOSE
    choice = perturbed.masked_fill(~inside, -torch.inf).argmax(-1)
    if outside is not None:
        tight = perturbed.masked_fill(values <= outside + CLOSE, -torch.inf).argmax(-1)
        certain &= (tight == best.indices[:, 0]) & (choice == tight)
    picked = choice[:, None]
    shares = (values.gather(1, picked)[:, 0] - norm).exp().tolist()
    named = tokens.gather(1, picked)[:, 0].tolist()
    return [Reply((t,), (share,)) for t, share in zip(named, shares, strict=True)], certain.tolist()


def _lineages(row: list[_Node], own: set[int]) -> NDArray[np.int64]:
    """The slots that new nodes look at and that were there before."""
    above = {id(node.parent): node.parent for node in row if node.parent is not None}
    known = [parent.lineage for parent in above.values() if parent.slot not in own]
    return np.unique(np.concatenate(known)) if known else np.zeros(0, np.int64)


def _batches(rows: list[list[_Node]], positions: int) -> Iterator[list[list[_Node]]]:
    """Rows of like length, longest first."""
    order = sorted(rows, key=lambda row: -len(row))
    while order:
        longest = len(order[0])
        size = sum(len(row) >= FULL * longest for row in order[: max(1, positions // longest)])
        yield order[:size]
        order = order[size:]


class _Pool:
    """Where the keys, values and last hidden states of all positions lie, a slot for each."""

    def __init__(self, base: Base):
        self._base = base
        self.dtype: torch.dtype = base.dtype
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.states = torch.zeros(0, base.head.in_features, dtype=base.dtype, device=base.device)
        self.scratch = np.zeros(0, np.int64)
        self.used = 0
        self._free: list[int] = []

    @property
    def per_position(self) -> int:
        numbers = sum(one[0].numel() for one in (*self.keys, *self.values)) + self.states.shape[1]
        return numbers * self.dtype.itemsize

    def take(self) -> int:
        """Return a free slot."""
        if not self._free:
            have = len(self.scratch)
            more = max(1024, have // 2)
            self._free = list(range(have + more - 1, have - 1, -1))
            self.scratch = np.zeros(have + more, np.int64)
            self.states = _grown(self.states, more)
            self.keys = [_grown(one, more) for one in self.keys]
            self.values = [_grown(one, more) for one in self.values]
        self.used += 1
        return self._free.pop()

    def give(self, slot: int) -> None:
        """Take a slot back."""
        self.used -= 1
        self._free.append(slot)

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of one layer, [slots, heads, size]."""
        while len(self.keys) <= index:
            shape = (len(self.scratch), like.shape[1], like.shape[3])
            for store in (self.keys, self.values):
                store.append(torch.zeros(shape, dtype=like.dtype, device=like.device))
        return self.keys[index], self.values[index]


def _grown(tensor: Tensor, more: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])])


class _Window(DynamicCache):
    """What a forward sees of the pool, as the cache that attention layers know: one layer at a time."""

    def __init__(self, pool: _Pool, slots: Tensor, real: Tensor, where: Tensor):
        super().__init__()
        self.pool, self.slots, self.real, self.where = pool, slots, real, where

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.slots.shape[1]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put the new keys and values [rows, heads, width, size] into the pool; return those to be seen."""
        found = []
        for store, new in zip(
            self.pool.layer(layer_idx, key_states), (key_states, value_states), strict=True
        ):
            rows, heads, width, size = new.shape
            past = self.slots.shape[1]
            seen = new.new_empty(rows, past + width, heads, size)
            new = new.transpose(1, 2)
            seen[:, past:] = new
            for row, slots in zip(seen, self.slots, strict=True):
                torch.index_select(store, 0, slots, out=row[:past])
            store[self.where] = new[self.real[0], self.real[1]]
            found.append(seen.transpose(1, 2))
        return found[0], found[1]
