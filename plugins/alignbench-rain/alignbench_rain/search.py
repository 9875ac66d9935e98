"""The search for one answer: a tree of token sets, as a generator that asks the model and is told.

It knows no model and no batch. It yields what it wants to know, `Speak` or `Rate`, and is sent the reply, so
that many searches advance together; and what it draws is keyed by its place in the tree, so that it does not
matter which.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench import Query, Reply

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ids = tuple[int, ...]

GREEDY = 0
"""The number of the candidate that takes the likeliest tokens; the others are drawn."""

MORE = 15
"""Searches that a move gets at least where its root brings its visits along."""

NOISE = 0.25
"""Share of the uniform distribution in the priors at the root."""


@dataclass(frozen=True)
class Speak:
    """Asks the model that answers: one reply for each query."""

    queries: list[Query]


@dataclass(frozen=True)
class Rate:
    """Asks how good an unfinished answer is, and what its parts are like."""

    text: str | None
    """The answer so far; None where its value is known already."""
    path: Ids
    """Its tokens, after those of the prompt."""
    starts: tuple[int, ...]
    """Where in the path each part starts; each reaches to the end."""


@dataclass(frozen=True)
class Rated:
    """The reply to `Rate`."""

    value: float | None
    """In [-1, 1]."""
    embeddings: NDArray[np.float32]
    """float32 [starts, size]."""


@dataclass(eq=False)
class Node:
    """A set of tokens that may come next."""

    tokens: Ids
    prior: float
    parent: Node | None
    step: int
    """Sets before this one, from the beginning of the answer."""
    end: bool = False
    """Nothing follows: the answer is finished, or as long as it may be."""
    n: float = 0.0
    """Visits, and the parts of visits that similar siblings gave."""
    visits: int = 0
    value: float = 0.0
    embedding: NDArray[np.float32] | None = None
    children: dict[Ids, Node] = field(default_factory=dict)
    candidates: list[tuple[Ids, float]] = field(default_factory=list)
    """Every candidate that was proposed below, with its probability, the latest first."""
    drawn: int = 0
    """Candidates that were drawn below."""


@dataclass
class Found:
    """An answer and what the search for it did."""

    ids: Ids
    finished: bool
    searches: int = 0
    moves: int = 0
    exhausted: bool = False
    """The budget of the prompt ended before the search did."""


@dataclass(frozen=True)
class Words:
    """What a search knows of tokens."""

    text: Callable[[Ids], str]
    """The text of answer tokens, those that end an answer left out."""
    clause_ends: Callable[[Ids], bool]
    """Whether the text of these tokens stops at the end of a clause."""
    ended: Callable[[Ids], bool]
    """Whether an answer ends with the last of these tokens."""


Walk = Generator[Query, Reply, Any]
Steps = Generator[Speak | Rate, Any, Any]


def noise(*key: object) -> int:
    """The 63-bit key of one draw."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Search:
    """One answer under search. `key` holds seed, prompt and sample; `spent` tells whether the budget is."""

    def __init__(
        self,
        prompt: Ids,
        rules: Any,
        words: Words,
        key: tuple[object, ...],
        limit: int,
        *,
        threshold: float,
        spent: Callable[[], bool] = lambda: False,
        moved: Callable[[Ids], None] = lambda answer: None,
    ):
        self.prompt, self.rules, self.words, self.key, self.limit = prompt, rules, words, key, limit
        self.threshold, self.spent, self.moved = threshold, spent, moved
        self.root = Node((), 1.0, None, 0)
        self.answer: Ids = ()
        """The tokens that are settled."""
        self.values: dict[str, float] = {}
        """By text: what is judged once is not judged again."""
        self.best: tuple[float, Ids] | None = None
        """The best finished answer that was looked at, with its value."""
        self.searches = self.moves = 0

    def run(self) -> Steps:
        """Search until the answer ends; return `Found`."""
        while True:
            yield from self.think()
            if self.spent():
                return (yield from self.give_up())
            move = most_visited(self.root)
            if move is None:
                break
            self.moves += 1
            self.answer += move.tokens
            self.root, move.parent = move, None
            if move.end:
                break
            if self.rules.flavour == "code" and move.children:
                flatten(move.children.values())
            self.moved(self.answer)
        return Found(self.answer, self.words.ended(self.answer), self.searches, self.moves)

    def think(self) -> Steps:
        """Search until the next set of tokens is clear."""
        rules, code = self.rules, self.rules.flavour == "code"
        begun = self.root.visits if code else 0
        last = max(rules.searches, begun + min(MORE, rules.searches)) if code else rules.searches
        for number in range(begun, last):
            yield from self.once()
            self.searches += 1
            if self.spent():
                return
            best = most_visited(self.root)
            if best is None:
                continue
            if code and best.visits > rules.least_searches and best.value > rules.good_enough:
                return
            if not code and number + 1 >= rules.least_searches and best.value >= rules.good_enough:
                return

    def once(self) -> Steps:
        """One search: select down to a leaf, say how good it is, tell all above it, propose what follows."""
        node, path = self.root, self.answer
        while not node.end and node.visits:
            if not node.children:
                yield from self.expand(node, path)
            if self.wants_another(node):
                yield from self.add(node, path)
            node = max(node.children.values(), key=self.promise)
            path = path + node.tokens
        if node is self.root:
            # Nothing is said yet, and what an empty answer is worth would be of no use.
            node.n, node.visits = node.n + 1, node.visits + 1
            return
        whole = path
        walks: list[Walk] = []
        if not node.end and not self.words.clause_ends(path):
            walks.append(self.simulation(path))
        # What is proposed below a leaf does not depend on its simulation: both are drawn in step.
        ahead = [] if node.end else self.candidates(node, path, self.rules.candidates)
        if walks or ahead:
            drawn = yield from together([*walks, *ahead])
            if walks:
                whole = path + drawn[0][0]
            if ahead:
                self.propose(node, drawn[len(walks) :], path)
        value, embeddings = yield from self.rate(node, path, whole)
        back_up(node, value, embeddings, self.rules.similarity, self.threshold)

    def rate(self, node: Node, path: Ids, whole: Ids) -> Steps:
        """Return the value of an answer, and the embedding of each set above its end, the lowest first."""
        starts, at, above = [], len(path), node
        while above.parent is not None:
            at -= len(above.tokens)
            starts.append(at)
            above = above.parent
        text = self.words.text(whole)
        known = self.values.get(text)
        rated: Rated = yield Rate(text if known is None else None, whole, tuple(starts))
        value = known if rated.value is None else rated.value
        assert value is not None
        self.values[text] = value
        if self.words.ended(whole) and (self.best is None or value > self.best[0]):
            self.best = (value, whole)
        return value, rated.embeddings

    def promise(self, node: Node) -> float:
        """How much a search wants to go to a node: its value, and what may still be found there."""
        assert node.parent is not None
        siblings = node.parent.children.values()
        if self.rules.flavour == "code":
            # The parent's own visits, values moved to [0, 1], and what was never visited counts as worst.
            known = (node.value + 1) / (2 + 1e-5) if node.n else 0.0
            return known + self.rules.exploration * node.prior * math.sqrt(node.parent.n) / (1 + node.n)
        visits = math.sqrt(sum(one.n for one in siblings))
        return node.value + self.rules.exploration * node.prior * visits / (1 + node.n)

    # --- proposing ------------------------------------------------------------------------------------------

    def expand(self, node: Node, path: Ids) -> Steps:
        """Propose what follows a node."""
        drawn = yield from together(self.candidates(node, path, self.rules.candidates))
        self.propose(node, drawn, path)

    def candidates(self, node: Node, path: Ids, count: int) -> list[Walk]:
        """The walks that propose `count` sets: all of one token in one, or one each, the first greedy."""
        if self.length(node, path) == 1:
            return [self.likeliest(path, count)]
        first = node.drawn
        node.drawn += count - 1
        numbers = [GREEDY, *range(first + 1, first + count)]
        return [self.candidate(path, self.length(node, path), number) for number in numbers]

    def propose(self, node: Node, drawn: list[Any], path: Ids) -> None:
        """Give a node the children that its candidates are."""
        found = drawn[0] if self.length(node, path) == 1 else weighed(drawn)
        node.candidates = found
        self.adopt(node, found, path)

    def adopt(self, node: Node, found: list[tuple[Ids, float]], path: Ids) -> None:
        """Make children of those candidates that are none yet; priors are shares among all of `found`."""
        total = sum(share for _, share in found)
        priors = [share / total for _, share in found]
        if node.parent is None and self.rules.flavour == "code":
            priors = mixed(priors)
        for (tokens, _), prior in zip(found, priors, strict=True):
            if tokens not in node.children:
                whole = path + tokens
                end = len(whole) >= self.limit or self.words.ended(whole)
                node.children[tokens] = Node(tokens, prior, node, node.step + 1, end)

    def wants_another(self, node: Node) -> bool:
        """Whether all that was proposed is bad, and alike: then one more is."""
        children = list(node.children.values())
        if len(children) >= self.rules.most_candidates or max(one.value for one in children) >= 0:
            return False
        embeddings = [one.embedding for one in children if one.embedding is not None]
        if len(embeddings) < max(2, len(children)):
            return False
        spread = np.linalg.norm(np.var(np.stack(embeddings), axis=0, ddof=1))
        return bool(spread < self.rules.spread * len(children[0].tokens))

    def add(self, node: Node, path: Ids) -> Steps:
        """Propose one more set, the next likeliest token or a newly drawn set."""
        count = len(node.children) + 1
        if self.length(node, path) == 1:
            (found,) = yield from together([self.likeliest(path, count)])
        else:
            drawn = yield from together(self.candidates(node, path, 2))
            node.candidates = weighed(drawn) + node.candidates
            found = node.candidates[:count]
        self.adopt(node, found, path)

    def length(self, node: Node, path: Ids) -> int:
        """How many tokens a set below a node holds."""
        lengths = self.rules.lengths
        return min(lengths[min(node.step, len(lengths) - 1)], self.limit - len(path))

    # --- walks: one query after the other -------------------------------------------------------------------

    def simulation(self, path: Ids) -> Walk:
        """Go on as the model would to the end of the clause; return the tokens and 1."""
        said: Ids = ()
        while True:
            whole = path + said
            key = noise(*self.key, path, "simulation", len(said))
            reply = yield Query(self.prompt + whole, noise=key)
            said += reply.tokens
            whole = path + said
            if len(whole) >= self.limit or self.words.ended(whole) or self.words.clause_ends(whole):
                return said, 1.0

    def candidate(self, path: Ids, length: int, number: int) -> Walk:
        """Draw a set of `length` tokens, or fewer where the answer ends; return it and its probability."""
        rules, said, share = self.rules, (), 1.0
        while len(said) < length:
            key = None if number == GREEDY else noise(*self.key, path, number, len(said))
            reply = yield Query(
                self.prompt + path + said, noise=key, temperature=rules.temperature, top_k=rules.top_k
            )
            said, share = said + reply.tokens, share * reply.probabilities[0]
            if self.words.ended(path + said):
                break
        return said, share

    def likeliest(self, path: Ids, count: int) -> Walk:
        """Return the likeliest next tokens as sets of one, with their probabilities."""
        reply = yield Query(self.prompt + path, likeliest=count)
        return [((token,), p) for token, p in zip(reply.tokens, reply.probabilities, strict=True)]

    # --- the end of the budget ------------------------------------------------------------------------------

    def give_up(self) -> Steps:
        """Return the best answer so far: the best finished one, or what was visited most."""
        if not self.answer and not self.root.children:
            yield from self.expand(self.root, ())
        if self.best is not None and self.best[1][: len(self.answer)] == self.answer:
            ids = self.best[1]
        else:
            node, ids = self.root, self.answer
            while (below := most_visited(node)) is not None and (below.visits or not ids):
                node, ids = below, ids + below.tokens
        return Found(ids, self.words.ended(ids), self.searches, self.moves, exhausted=True)


def together(walks: list[Walk]) -> Steps:
    """Take walks in step, each query beside the others'; return what each returned."""
    results: list[Any] = [None] * len(walks)
    waiting = {place: next(walk) for place, walk in enumerate(walks)}
    while waiting:
        replies: list[Reply] = yield Speak(list(waiting.values()))
        after: dict[int, Query] = {}
        for place, reply in zip(waiting, replies, strict=True):
            try:
                after[place] = walks[place].send(reply)
            except StopIteration as done:
                results[place] = done.value
        waiting = after
    return results


def weighed(drawn: list[tuple[Ids, float]]) -> list[tuple[Ids, float]]:
    """Drop sets that came twice; the greedy one, the first, was not drawn and gets a share of its own."""
    (greedy, share), *others = drawn
    distinct = {tokens: p for tokens, p in others if tokens != greedy}
    if distinct:
        shares = distinct.values()
        share = max(min(share, sum(shares)), max(shares) + min(shares))
    return [(greedy, share), *distinct.items()]


def mixed(priors: list[float]) -> list[float]:
    """Priors with a share of the uniform distribution."""
    blend = [(1 - NOISE) * prior + NOISE / len(priors) for prior in priors]
    return [one / sum(blend) for one in blend]


def flatten(nodes: Any) -> None:
    """Mix the priors of a new root's children."""
    nodes = list(nodes)
    for node, prior in zip(nodes, mixed([node.prior for node in nodes]), strict=True):
        node.prior = prior


def most_visited(node: Node) -> Node | None:
    """The child visited most, and of those the best."""
    return max(node.children.values(), key=lambda one: (one.n, one.value), default=None)


def back_up(
    node: Node, value: float, embeddings: NDArray[np.float32], similarity: float, threshold: float
) -> None:
    """Tell a leaf and all above it what it is worth, and their siblings as far as they are alike."""
    at: Node | None = node
    place = 0
    while at is not None:
        at.n += 1
        at.visits += 1
        if at.parent is not None:
            new = embeddings[place]
            at.embedding = new if at.embedding is None else at.embedding + (new - at.embedding) / at.visits
            place += 1
            alike(at, value, similarity, threshold)
        at.value += (value - at.value) / at.n
        at = at.parent


def alike(node: Node, value: float, similarity: float, threshold: float) -> None:
    """Count a visit in part for those siblings whose embedding is close."""
    assert node.parent is not None
    assert node.embedding is not None
    others = [one for one in node.parent.children.values() if one is not node and one.embedding is not None]
    if not others or not similarity:
        return
    matrix = np.stack([one.embedding for one in others])  # pyright: ignore[reportArgumentType, reportCallIssue]
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(node.embedding)
    cosines = matrix @ node.embedding / np.maximum(norms, 1e-8)
    for other, cosine in zip(others, cosines.tolist(), strict=True):
        if cosine >= threshold:
            weight = similarity * cosine
            other.value = (other.value * other.n + weight * value) / (other.n + weight)
            other.n += weight
