"""Trees of tokens: what follows any path, every position computed once, many paths in one forward."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from alignbench.errors import ModelError
from alignbench.models.generation import stop_ids
from alignbench.models.kv_pool import NAME, Masked, Packed, Pool, Window
from alignbench.models.last_layer import only
from alignbench.models.queries import Query, Reply, replies_of
from alignbench.rows import Ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.base import Base, ModelPolicy

POSITIONS = {"cpu": 4096, "cuda": 32768}
"""Positions of one forward, padding included."""

LOGITS = {"cpu": 2**22, "cuda": 2**27}
"""Numbers of the largest logits tensor: paths x vocabulary."""

FEW = 7 / 8
"""Share of the new positions below which it is worth computing the last layer where it is read alone."""

FULL = 1 / 2
"""A tree with less than this share of the new positions of the first beside it attends by itself."""

APART = 32
"""Tokens from which a trunk is read by all its trees together, and not copied for each."""

_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Whether a model computes the same in one row."""


_NONE = np.zeros(0, np.int64)


class _Node:
    """One token of a tree: where its keys, values and hidden state lie, and what follows it."""

    __slots__ = ("depth", "lineage", "parent", "said", "slot", "token", "under")

    def __init__(self, parent: _Node | None, token: int, slot: int):
        self.parent = parent
        self.token = token
        self.slot = slot
        self.under: dict[int, _Node] = {}
        self.said: bool | None = None
        """Whether its hidden state lies in the pool; None where nobody has asked for it."""
        self.depth = 0
        """Tokens of the path."""
        self.lineage = _NONE
        """The slots of the path, its own last; those of a trunk that is read apart are left out."""
        if parent is not None:
            self.depth = parent.depth + 1
            above = parent.lineage
            self.lineage = np.empty(len(above) + 1, np.int64)
            self.lineage[:-1], self.lineage[-1] = above, slot


class SharedPrefix:
    """What several trees begin with: computed once, and read by all their positions together."""

    def __init__(self, first: TokenTree, last: _Node):
        self.first, self.last = first, last
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, pool: Pool, index: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of one layer, [1, tokens, heads, size]."""
        if index not in self._layers:
            slots = torch.from_numpy(self.last.lineage).to(pool.states.device)
            # Head by head, as attention reads them.
            keys, values = (one[slots].transpose(0, 1).contiguous() for one in pool.layer(index))
            self._layers[index] = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
        return self._layers[index]


class TokenTree:
    """The paths of one prompt, behind a trunk that other trees may share."""

    def __init__(self, forest: TokenTrees, trunk: Ids, shared: SharedPrefix | None):
        self._forest, self._trunk = forest, trunk
        self._root = _Node(None, -1, -1)
        self._apart: SharedPrefix | None = None
        if shared is not None:
            last = shared.last
            self._root.slot, self._root.depth, self._root.said = last.slot, last.depth, True
            if forest._packs and last.depth >= APART:
                self._apart = shared
            else:
                self._root.lineage = last.lineage
        self._kept: tuple[Ids, _Node] = (trunk, self._root)
        """The path on which everything else was freed: most queries begin with it."""
        self._recent: dict[Ids, _Node] = {}
        """Where the paths of the last queries end, by what follows the path above: most go on by a token."""
        self.forwards = 0
        """Model calls that this tree took part in."""
        self.tokens = 0
        """Positions computed for this tree, those of the trunk not counted."""

    def keep(self, path: Ids) -> None:
        """Free what does not lie on `path` or under it."""
        self._kept, self._recent = (self._trunk, self._root), {}
        node = self._root
        for token in path[len(self._trunk) :]:
            for other in [other for other in node.under if other != token]:
                self._forest._free(node.under.pop(other))
            if token not in node.under:
                return
            node = node.under[token]
        self._kept = path, node

    def cut(self, path: Ids) -> None:
        """Free what lies under `path`."""
        self._kept, self._recent = (self._trunk, self._root), {}
        node = self._root
        for token in path[len(self._trunk) :]:
            if token not in node.under:
                return
            node = node.under[token]
        for under in node.under.values():
            self._forest._free(under)
        node.under = {}

    def _from(self, path: Ids) -> tuple[_Node, Ids, Ids | None]:
        """A node on the path, the tokens of the path that follow it, and those that follow what is kept."""
        kept, node = self._kept
        if path[: len(kept)] != kept:
            return self._root, path[len(self._trunk) :], None
        rest = path[len(kept) :]
        near = self._recent.get(rest[:-1])
        return (node, rest, rest) if near is None else (near, rest[-1:], rest)


class TokenTrees:
    """Trees of token paths under one frozen policy.

    Keys and values of every position are kept. A forward is one row of all new positions of all trees: each
    sees its own path, however many branches a tree has, and a trunk is read by the positions of all its trees
    together. Models that compute something else in one row get a row for each tree and a mask instead. In
    float32 a choice that rounding could decide is made by the path alone, so that replies do not depend on
    what was asked with it. It reads models whose layers all attend to the whole past, or to a window that no
    path outgrows.
    """

    def __init__(self, policy: ModelPolicy):
        self.policy = policy
        self.base: Base = policy.base
        self.stops: frozenset[int] = stop_ids(self.base)
        """Every token that ends an answer."""
        self.peak_bytes = 0
        """The most bytes that trees have held."""
        self._pool = Pool(self.base)
        self._trunks: dict[Ids, SharedPrefix] = {}
        self._no_mask = torch.zeros(1, 1, 1, 1, dtype=self.base.dtype, device=self.base.device)
        """Whatever has four dimensions keeps transformers from making a mask that nobody looks at."""
        self._packs = self._packing()

    @property
    def bytes(self) -> int:
        """Bytes of the keys, values and states that trees hold now."""
        return self._pool.used * self._pool.per_position

    def new_tree(self, trunk: Ids = ()) -> TokenTree:
        """Return a new tree whose paths all begin with `trunk`, which is computed once for all of them."""
        if trunk and trunk not in self._trunks:
            first = TokenTree(self, (), None)
            new, (last,) = self._grow(first, [Query(trunk)])
            for node in new:
                node.said = False
            self._compute([(first, new)])
            self._trunks[trunk] = SharedPrefix(first, last)
        return TokenTree(self, trunk, self._trunks.get(trunk))

    def free_prefix(self, trunk: Ids) -> None:
        """Free a trunk on which no tree stands any more."""
        if trunk in self._trunks:
            self._trunks.pop(trunk).first.cut(())

    def ask(self, asked: Many[tuple[TokenTree, Many[Query]]]) -> list[list[Reply]]:
        """Answer the queries of each tree, no tree twice; positions that are not known yet are computed."""
        base, begun = self.base, time.perf_counter()
        before = [(tree.tokens, tree.forwards) for tree, _ in asked]
        with torch.inference_mode(), base.using(self.policy), base.arithmetic():
            try:
                grown = [(tree, *self._grow(tree, queries)) for tree, queries in asked]
                self._compute([(tree, new) for tree, new, _ in grown if new])
            except BaseException:
                for tree, _ in asked:
                    tree.cut(())  # what was never computed must not seem known
                raise
            replies = self._reply(
                [
                    (node, tree, query)
                    for (tree, queries), (_, _, ends) in zip(asked, grown, strict=True)
                    for query, node in zip(queries, ends, strict=True)
                ]
            )
        base.meter.searched(
            sum(tree.tokens - old for (tree, _), (old, _) in zip(asked, before, strict=True)),
            sum(tree.forwards - old for (tree, _), (_, old) in zip(asked, before, strict=True)),
            time.perf_counter() - begun,
        )
        done = iter(replies)
        return [[next(done) for _ in queries] for _, queries in asked]

    def alone(self, path: Ids) -> Tensor:
        """Return the float32 logits [1, vocabulary] after `path`, computed by itself and from nothing."""
        base = self.base
        with torch.inference_mode(), base.using(self.policy), base.arithmetic():
            ids, mask = base.pad([path], "left")
            return base.logits(base.hidden(ids, mask)[:, -1])[:, : base.vocabulary]

    def _packing(self) -> bool:
        """Whether this model computes the same in one row: tried once, on a tree behind a trunk."""
        model = self.base.model
        if model not in _TRIED:
            _TRIED[model] = False
            trunk = tuple(number % self.base.vocabulary for number in range(APART))
            states = []
            for packs in (False, True):
                trial = TokenTrees(self.policy)
                trial._packs = packs
                try:
                    tree = trial.new_tree(trunk)
                    new, _ = trial._grow(tree, [Query((*trunk, 1, 2)), Query((*trunk, 1, 3, 4))])
                    for node in new:
                        node.said = False
                    trial._compute([(tree, new)])
                except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError):
                    if not packs:
                        raise
                    return False
                states.append(trial._pool.states[[node.slot for node in new]].float())
            limit = 1e-4 if self.base.dtype == torch.float32 else 5e-2
            _TRIED[model] = bool((states[0] - states[1]).abs().max() <= limit * states[0].abs().max())
        return _TRIED[model]

    # --- trees ----------------------------------------------------------------------------------------------

    def _grow(self, tree: TokenTree, queries: Iterable[Query]) -> tuple[list[_Node], list[_Node]]:
        """Add the nodes that the paths lack; return what is to be computed and the last node of each path.

        To be computed is what is new, parents first, and what was there but had nobody to read its state.
        """
        new: list[_Node] = []
        ends: list[_Node] = []
        unsaid: list[_Node] = []
        take = self._pool.take
        recent: dict[Ids, _Node] = {}
        for query in queries:
            node, rest, behind = tree._from(query.path)
            for token in rest:
                below = node.under.get(token)
                if below is None:
                    below = node.under[token] = _Node(node, token, take())
                    new.append(below)
                node = below
            if node.slot < 0:
                raise ModelError("a path without tokens has nothing that could follow it")
            ends.append(node)
            if behind is not None:
                recent[behind] = node
            first = min(query.since) if query.since else node.depth - 1
            above: _Node | None = node
            while above is not None and above.depth > first:
                if above.said is None:
                    above.said = False
                    unsaid.append(above)
                above = above.parent
        tree._recent = recent
        fresh = set(new)
        new += [node for node in unsaid if node not in fresh]
        return new, ends

    def _free(self, node: _Node) -> None:
        waiting = [node]
        while waiting:
            one = waiting.pop()
            self._pool.give(one.slot)
            waiting.extend(one.under.values())
            one.parent, one.under = None, {}  # a circle would wait for the garbage collector

    # --- the network ----------------------------------------------------------------------------------------

    def _compute(self, work: list[tuple[TokenTree, list[_Node]]]) -> None:
        for tree, new in work:
            tree.forwards += 1
            tree.tokens += len(new)
        with torch.inference_mode(), self.base.using(self.policy), self.base.arithmetic():
            for rows in _batches(work, POSITIONS[self.base.device.type]):
                self._forward(rows)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _forward(self, rows: list[tuple[TokenTree, list[_Node]]]) -> None:
        """Compute positions and put them into the pool."""
        pool, device = self._pool, self.base.device
        nodes = [node for _, new in rows for node in new]
        ids = torch.tensor([node.token for node in nodes], device=device)
        positions = torch.tensor([node.depth - 1 for node in nodes], device=device)
        where = torch.tensor([node.slot for node in nodes], device=device)
        windows, at = [], 0
        for alike in _alike(rows):
            windows.append(Window(pool, alike, at))
            at = windows[-1].stop
        if self._packs:
            read = np.flatnonzero([node.said is not None for node in nodes])
            packed = Packed(pool, where, windows, _spans(rows), read)
            places = torch.from_numpy(read).to(device)
            model = self.base.model
            few = only(model, places) if len(read) < FEW * len(nodes) else nullcontext(False)
            before, model.config._attn_implementation = model.config._attn_implementation, NAME
            try:
                with few as cut:
                    hidden = self._hidden(packed, ids[None], positions[None], self._no_mask, packed=packed)
            finally:
                model.config._attn_implementation = before
            pool.states[where[places] if cut else where] = hidden[0]
            for node in [nodes[place] for place in read] if cut else nodes:
                node.said = True
            return
        for node in nodes:
            node.said = True
        for window in windows:
            ours = window.flat(window.places)
            cache = Masked(pool, where[ours], window)
            hidden = self._hidden(cache, ids[window.places], positions[window.places], window.mask)
            pool.states[where[ours]] = window.flat(hidden)

    def _hidden(
        self, cache: DynamicCache, ids: Tensor, positions: Tensor, mask: Tensor | None, **more: Any
    ) -> Tensor:
        if self.base._positions:
            more["position_ids"] = positions
        states = self.base.model.base_model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more
        ).last_hidden_state
        return states.to(self._pool.states.dtype)

    # --- replies --------------------------------------------------------------------------------------------

    def _reply(self, asked: list[tuple[_Node, TokenTree, Query]]) -> list[Reply]:
        replies: list[Reply | None] = [None] * len(asked)
        of_kind: dict[Any, list[int]] = {}
        for place, (node, tree, query) in enumerate(asked):
            if query.since:
                replies[place] = Reply(states=self._means(tree, node, query.since))
            else:
                # A draw among a few and the likeliest of these differ in the noise alone.
                plain = query.noise is None and not query.top_k
                kind = (query.temperature, query.top_k, query.likeliest, len(query.options), plain)
                of_kind.setdefault(kind, []).append(place)
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

    def _means(self, tree: TokenTree, node: _Node, starts: Many[int]) -> NDArray[np.float32]:
        line = node.lineage
        if tree._apart is not None:
            line = np.concatenate([tree._apart.last.lineage, line])
        states = self._pool.states[torch.from_numpy(line).to(self.base.device)]
        return torch.stack([states[start:].float().mean(0) for start in starts]).cpu().numpy()


Row = tuple[TokenTree, list[_Node]]
"""A tree and its new positions."""


def _batches(rows: list[Row], positions: int) -> Iterator[list[Row]]:
    """The rows of each forward: those with one trunk side by side, and of those the longest first."""
    trunks = {id(tree._apart): place for place, (tree, _) in enumerate(rows)}
    batch: list[Row] = []
    count = 0
    for row in sorted(rows, key=lambda row: (trunks[id(row[0]._apart)], -len(row[1]))):
        if batch and count + len(row[1]) > positions:
            yield batch
            batch, count = [], 0
        batch.append(row)
        count += len(row[1])
    if batch:
        yield batch


def _alike(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows side by side, with one trunk and of like length, longest first."""
    batch: list[Row] = []
    for tree, new in rows:
        if batch and not (tree._apart is batch[0][0]._apart and len(new) >= FULL * len(batch[0][1])):
            yield batch
            batch = []
        batch.append((tree, new))
    if batch:
        yield batch


def _spans(rows: list[Row]) -> list[tuple[SharedPrefix, slice]]:
    """Each trunk that is read apart, and the positions that read it."""
    spans: list[tuple[SharedPrefix, slice]] = []
    at = 0
    for tree, new in rows:
        end = at + len(new)
        if tree._apart is not None:
            if spans and spans[-1][0] is tree._apart:
                spans[-1] = tree._apart, slice(spans[-1][1].start, end)
            else:
                spans.append((tree._apart, slice(at, end)))
        at = end
    return spans
