"""Token trees: what follows any path of tokens, each position computed once, many paths in one forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from alignbench.errors import ModelError
from alignbench.models import counting, meter
from alignbench.models.forward.attention import computes_same, installed, no_mask
from alignbench.models.forward.incremental import together
from alignbench.models.forward.last_layer import only
from alignbench.models.forward.memory import LOGITS, TREE_POSITIONS, halving, positions
from alignbench.models.forward.varlen import attends_to_all
from alignbench.models.generation import stop_ids
from alignbench.models.trees.kv_pool import OneRow, Pool, RowPerTree, Rows
from alignbench.models.trees.nodes import Node, SharedPrefix
from alignbench.models.trees.queries import Query, Reply, replies_of
from alignbench.rows import Ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.forward.network import Network
    from alignbench.models.policy import ModelPolicy

FEW = 7 / 8
"""Share of new positions that are read, below which a last layer for these alone is faster."""

FULL = 3 / 4
"""Trees attend together where each has at least this share of the new positions of the longest."""

APART = 32
"""Tokens from which all trees of a shared prefix attend to it together, instead of a copy for each."""


class TokenTree:
    """The paths of one prompt, behind a prefix that other trees may share."""

    def __init__(self, trees: TokenTrees, prefix: Ids, shared: SharedPrefix | None):
        self._trees, self._prefix = trees, prefix
        self._root = Node(None, -1, -1)
        self._shared: SharedPrefix | None = None
        if shared is not None:
            last = shared.last
            self._root.slot, self._root.depth, self._root.has_state = last.slot, last.depth, True
            if trees.in_one_row and last.depth >= APART:
                self._shared = shared
            else:
                self._root.lineage = last.lineage
        self._kept: tuple[Ids, Node] = (prefix, self._root)
        """The path that was kept when everything else was freed: most queries begin with it."""
        self._recent: dict[Ids, Node] = {}
        """The ends of the last queries' paths, by what follows the path above: most queries add one token."""
        self.whole_texts: bool = shared is not None and shared.whole_texts
        """Whether each path is computed as a whole text: no keys and values of this tree are kept."""
        self.forwards = 0
        """Model calls with positions of this tree."""
        self.tokens = 0
        """Positions computed for this tree, without those of a shared prefix."""

    def keep(self, path: Ids) -> None:
        """Free every position that is neither on `path` nor behind it."""
        self._kept, self._recent = (self._prefix, self._root), {}
        node = self._root
        for token in path[len(self._prefix) :]:
            for other in [other for other in node.under if other != token]:
                self._trees._free(node.under.pop(other))
            if token not in node.under:
                return
            node = node.under[token]
        self._kept = path, node

    def prune(self, path: Ids) -> None:
        """Free every position behind `path`."""
        self._kept, self._recent = (self._prefix, self._root), {}
        node = self._root
        for token in path[len(self._prefix) :]:
            if token not in node.under:
                return
            node = node.under[token]
        for under in node.under.values():
            self._trees._free(under)
        node.under = {}

    def path_to(self, node: Node) -> Ids:
        """Return the tokens of the path that ends with a node."""
        tokens: list[int] = []
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return (*self._prefix, *reversed(tokens))

    def _from(self, path: Ids) -> tuple[Node, Ids, Ids | None]:
        """Return a node on the path, the tokens of the path behind it, and those behind the kept path."""
        kept, node = self._kept
        if path[: len(kept)] != kept:
            return self._root, path[len(self._prefix) :], None
        rest = path[len(kept) :]
        near = self._recent.get(rest[:-1])
        return (node, rest, rest) if near is None else (near, rest[-1:], rest)


class TokenTrees:
    """Trees of token paths under one frozen policy.

    Keys and values of every position are kept. A forward is one row of all new positions of all trees: each
    attends to its own path, however many branches a tree has, and the trees of a long shared prefix attend to it
    together. Models that do not support this get a row for each tree and a mask; where that is not the plain
    forward either, or a path is longer than a layer's window, each path is computed as a whole text. In float32 a
    choice that rounding could decide is computed from the path alone, so that replies do not depend on what was
    asked with it. Raises ModelError for a path that is longer than the model's context.
    """

    def __init__(self, policy: ModelPolicy):
        self.policy = policy
        self.base: Network = policy.base
        self.stops: frozenset[int] = stop_ids(self.base)
        """Every token that ends an answer."""
        self.peak_bytes = 0
        """The most bytes that the trees have held."""
        self._pool = Pool(self.base)
        self._prefixes: dict[Ids, SharedPrefix] = {}
        self.in_one_row: bool = True
        """Whether all new positions are one row; otherwise each tree is a row, with padding and a mask."""
        self.whole_texts: bool = False
        """Whether each path is computed as a whole text."""
        self.in_one_row = installed(self.base.model) and self._gives_the_plain_states(True)
        self.whole_texts = not self.in_one_row and not self._gives_the_plain_states(False)

    @property
    def bytes(self) -> int:
        """Bytes of the keys, values and states that the trees hold now."""
        return self._pool.used * self._pool.per_position

    def reserve(self, positions: int) -> None:
        """Make room for so many positions at once: to grow is to copy what is there."""
        self._pool.reserve(positions)

    def new_tree(self, prefix: Ids = ()) -> TokenTree:
        """Return a new tree whose paths all begin with `prefix`, which is computed once for all its trees."""
        if prefix and prefix not in self._prefixes:
            first = TokenTree(self, (), None)
            try:
                new, (last,) = self._grow(first, [Query(prefix)])
                for node in new:
                    node.has_state = False
                self._compute([(first, new)])
            except BaseException:
                first.prune(())
                raise
            self._prefixes[prefix] = SharedPrefix(last, first.whole_texts)
        return TokenTree(self, prefix, self._prefixes.get(prefix))

    def free_prefix(self, prefix: Ids) -> None:
        """Free a shared prefix that no tree uses any more."""
        if prefix in self._prefixes:
            node = self._prefixes.pop(prefix).last
            while node.parent is not None and node.parent.slot >= 0:
                node = node.parent
            self._free(node)

    def ask(self, asked: Many[tuple[TokenTree, Many[Query]]]) -> list[list[Reply]]:
        """Answer the queries of each tree, each tree once at most; unknown positions are computed."""
        with self._computing():
            ends = self._ends(asked)
            replies = self._reply(
                [
                    (node, tree, query)
                    for (tree, queries), nodes in zip(asked, ends, strict=True)
                    for query, node in zip(queries, nodes, strict=True)
                ]
            )
        done = iter(replies)
        return [[next(done) for _ in queries] for _, queries in asked]

    def states(self, asked: Many[tuple[TokenTree, Many[Ids]]]) -> Tensor:
        """Return the hidden states [paths, hidden] after the paths of each tree, which is named once at most."""
        queries = [(tree, [Query(path) for path in paths]) for tree, paths in asked]
        with self._computing():
            slots = [node.slot for nodes in self._ends(queries) for node in nodes]
            return self._pool.states[torch.tensor(slots, device=self.base.device)]

    def alone(self, path: Ids) -> Tensor:
        """Return the float32 logits [1, vocabulary] after `path`, computed by itself and without a cache."""
        base = self.base
        with self._computing():
            ids, mask = base.pad([path], "left")
            return base.logits(base.hidden(ids, mask)[:, -1])[:, : base.vocabulary]

    def _gives_the_plain_states(self, in_one_row: bool) -> bool:
        """Return whether one of the ways computes what the plain forward does: tried behind a shared prefix."""
        base = self.base
        prefix = tuple(number % base.vocabulary for number in range(APART))
        paths = (*prefix, 1, 2), (*prefix, 1, 3, 4)
        if len(paths[1]) > (base.context or APART + 3) or not attends_to_all(base.model, len(paths[1])):
            return False

        def states() -> Tensor:
            trees = copy(self)
            trees._pool, trees._prefixes, trees.in_one_row = Pool(base), {}, in_one_row
            tree = trees.new_tree(prefix)
            new, _ = trees._grow(tree, [Query(path) for path in paths])
            for node in new:
                node.has_state = False
            trees._compute([(tree, new)])
            return trees._pool.states[[node.slot for node in new]]

        def plain() -> Tensor:
            first, second = (base.plain_states(path)[APART:] for path in paths)
            return torch.cat([first, second[1:]])

        what = "token trees in one row" if in_one_row else "token trees, each a row"
        return computes_same(base.model, what, plain, states)

    # --- trees ----------------------------------------------------------------------------------------------

    def _grow(self, tree: TokenTree, queries: Iterable[Query]) -> tuple[list[Node], list[Node]]:
        """Add the nodes that the paths lack; return what is to be computed and the last node of each path.

        To be computed is what is new, parents first, and known positions whose state is needed for the first time.
        """
        new: list[Node] = []
        ends: list[Node] = []
        missing: list[Node] = []
        take = self._pool.take
        recent: dict[Ids, Node] = {}
        for query in queries:
            node, rest, behind = tree._from(query.path)
            for token in rest:
                below = node.under.get(token)
                if below is None:
                    below = node.under[token] = Node(node, token, take())
                    new.append(below)
                node = below
            if node.slot < 0:
                raise ModelError("a path without tokens has nothing that could follow it")
            if self.base.context is not None and node.depth > self.base.context:
                raise ModelError(
                    f"a path of {node.depth} tokens does not fit the model's context of {self.base.context}",
                    "use a model with a longer context, or shorter prompts, answers and questions",
                )
            ends.append(node)
            if behind is not None:
                recent[behind] = node
            first = min(query.since) if query.since else node.depth - 1
            above: Node | None = node
            while above is not None and above.depth > first:
                if above.has_state is None:
                    above.has_state = False
                    missing.append(above)
                above = above.parent
        tree._recent = recent
        fresh = set(new)
        new += [node for node in missing if node not in fresh]
        return new, ends

    def _free(self, node: Node) -> None:
        waiting = [node]
        while waiting:
            one = waiting.pop()
            self._pool.give(one.slot)
            waiting.extend(one.under.values())
            one.parent, one.under = None, {}  # cycles would wait for the garbage collector

    # --- the network ----------------------------------------------------------------------------------------

    @contextmanager
    def _computing(self) -> Iterator[None]:
        base = self.base
        with meter.doing("search"), torch.inference_mode(), base.using(self.policy), base.arithmetic():
            yield

    def _ends(self, asked: Many[tuple[TokenTree, Many[Query]]]) -> list[list[Node]]:
        """Return the last node of each path, by tree, once what they need is computed."""
        try:
            grown = [(tree, *self._grow(tree, queries)) for tree, queries in asked]
            self._compute([(tree, new) for tree, new, _ in grown if new])
        except BaseException:
            for tree, _ in asked:
                tree.prune(())  # what was not computed must not count as known
            raise
        return [ends for _, _, ends in grown]

    def _compute(self, work: list[Row]) -> None:
        texts: list[Row] = []
        fast: list[Row] = []
        with self._computing():
            for tree, new in work:
                deepest = max(node.depth for node in new)
                tree.whole_texts |= self.whole_texts or not attends_to_all(self.base.model, deepest)
                (texts if tree.whole_texts else fast).append((tree, new))
            self._compute_texts(texts)
            for rows in _batches(fast, positions(self.base, TREE_POSITIONS), copied=not self.in_one_row):
                for _ in halving(rows, self.forward):
                    pass
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _compute_texts(self, work: list[Row]) -> None:
        """Compute the states of positions from whole texts, one for each of the paths that end with them."""
        ends: list[tuple[TokenTree, Node]] = []
        for tree, new in work:
            inner = {node.parent for node in new}
            ends += [(tree, node) for node in new if node not in inner]
        texts = [tree.path_to(node) for tree, node in ends]
        left = {node for _, new in work for node in new}
        for places in together(self.base.paths.batch, texts, positions(self.base, TREE_POSITIONS)):
            pairs = halving(places, lambda some: self._read([texts[place] for place in some]))
            states_of = {place: one for some, found in pairs for place, one in zip(some, found, strict=True)}
            for tree in {ends[place][0] for place in places}:
                tree.forwards += 1
            for place, states in states_of.items():
                tree, node = ends[place]
                tree.tokens += len(texts[place])
                above: Node | None = node
                while above is not None and above in left:
                    self._pool.states[above.slot] = states[above.depth - len(texts[place]) - 1]
                    above.has_state = True
                    left.remove(above)
                    above = above.parent

    def _read(self, texts: Many[Ids]) -> Tensor:
        counting.expect(sum(map(len, texts)))
        return self.base.hidden(*self.base.pad(texts, "left"))

    def forward(self, rows: Many[Row]) -> None:
        """Compute positions and put them into the pool."""
        # After a lack of memory some may be computed already.
        if not (rows := [row for row in rows if not all(node.has_state for node in row[1])]):
            return
        pool, device = self._pool, self.base.device
        nodes = [node for _, new in rows for node in new]
        ids = torch.tensor([node.token for node in nodes], device=device)
        positions = torch.tensor([node.depth - 1 for node in nodes], device=device)
        where = torch.tensor([node.slot for node in nodes], device=device)
        blocks: list[tuple[list[Row], Rows]] = []
        for similar in _similar(rows):
            blocks.append((similar, Rows(pool, similar, blocks[-1][1].stop if blocks else 0)))
        if self.in_one_row:
            read = np.flatnonzero([node.has_state is not None for node in nodes])
            row = OneRow(pool, where, [block for _, block in blocks], _spans(rows), read)
            places = torch.from_numpy(read).to(device)
            model = self.base.model
            few = only(model, places) if len(read) < FEW * len(nodes) else nullcontext(False)
            with few as shortened:
                hidden = self._hidden(row, ids[None], positions[None], no_mask(model), pattern=row)
            pool.states[where[places] if shortened else where] = hidden[0]
            for tree, new in rows:
                tree.forwards += 1
                tree.tokens += len(new)
            for node in [nodes[place] for place in read] if shortened else nodes:
                node.has_state = True
            return
        for similar, block in blocks:
            # Some models have masks for as many keys as their context, and no more.
            if self.base.context is not None and block.mask.shape[-1] > self.base.context:
                for tree, _ in similar:
                    tree.whole_texts = True
                self._compute_texts(similar)
                continue
            ours = block.flat(block.places)
            cache = RowPerTree(pool, where[ours], block)
            counting.expect(len(ours))
            hidden = self._hidden(cache, ids[block.places], positions[block.places], block.mask)
            pool.states[where[ours]] = block.flat(hidden)
            for tree, new in similar:
                tree.forwards += 1
                tree.tokens += len(new)
                for node in new:
                    node.has_state = True

    def _hidden(
        self, cache: DynamicCache, ids: Tensor, positions: Tensor, mask: Tensor | None, **more: Any
    ) -> Tensor:
        if self.base.takes_positions:
            more["position_ids"] = positions
        states = self.base.decoder(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more
        ).last_hidden_state
        return states.to(self._pool.states.dtype)

    # --- replies --------------------------------------------------------------------------------------------

    def _reply(self, asked: list[tuple[Node, TokenTree, Query]]) -> list[Reply]:
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

    def _means(self, tree: TokenTree, node: Node, starts: Many[int]) -> NDArray[np.float32]:
        line = node.lineage
        if tree._shared is not None:
            line = np.concatenate([tree._shared.last.lineage, line])
        states = self._pool.states[torch.from_numpy(line).to(self.base.device)]
        return torch.stack([states[start:].float().mean(0) for start in starts]).cpu().numpy()


Row = tuple[TokenTree, list[Node]]
"""A tree and its new positions."""


def _batches(rows: list[Row], positions: int, *, copied: bool) -> Iterator[list[Row]]:
    """Yield the rows of each forward: those of one shared prefix side by side, and of these the longest first.

    Of at most `positions`, with those of its past where each row has a copy of them.
    """
    prefixes = {id(tree._shared): place for place, (tree, _) in enumerate(rows)}
    batch: list[Row] = []
    count = 0
    for row in sorted(rows, key=lambda row: (prefixes[id(row[0]._shared)], -len(row[1]))):
        size = len(row[1]) + (min(node.depth for node in row[1]) if copied else 0)
        if batch and count + size > positions:
            yield batch
            batch, count = [], 0
        batch.append(row)
        count += size
    if batch:
        yield batch


def _similar(rows: Many[Row]) -> Iterator[list[Row]]:
    """Yield rows side by side, with one shared prefix and of similar length, longest first."""
    batch: list[Row] = []
    for tree, new in rows:
        if batch and not (tree._shared is batch[0][0]._shared and len(new) >= FULL * len(batch[0][1])):
            yield batch
            batch = []
        batch.append((tree, new))
    if batch:
        yield batch


def _spans(rows: Many[Row]) -> list[tuple[SharedPrefix, slice]]:
    """Return each long shared prefix, and the positions that attend to it."""
    spans: list[tuple[SharedPrefix, slice]] = []
    at = 0
    for tree, new in rows:
        end = at + len(new)
        if tree._shared is not None:
            if spans and spans[-1][0] is tree._shared:
                spans[-1] = tree._shared, slice(spans[-1][1].start, end)
            else:
                spans.append((tree._shared, slice(at, end)))
        at = end
    return spans
