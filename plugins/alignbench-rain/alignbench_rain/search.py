"""The search for one answer: a tree of token sets, as a generator of requests.

It knows no model and no batch: it yields requests and is sent the responses, so that many searches advance together.
What it draws is keyed by its place in the tree, so that the answer does not depend on which searches do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench import Query, Reply
from alignbench_rain.tree import Ids, Node, back_up, flatten, mixed, most_visited, upwards, weighed

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREEDY = 0
"""The number of the candidate that takes the likeliest tokens; the others are drawn."""

AHEAD = 4
"""Searches that are prefetched, at most."""

MORE = 15
"""Searches that a move gets at least where its root brings its visits along."""


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
    """The reply to a `Rate`."""

    value: float | None
    """In [-1, 1]."""
    embeddings: NDArray[np.float32]
    """float32 [starts, size]."""


@dataclass(frozen=True)
class Request:
    """What a search wants to know next: what the model would say, how good an answer is, or both."""

    queries: list[Query]
    rate: Rate | None = None


@dataclass(frozen=True)
class Response:
    """The reply to `Request`."""

    replies: list[Reply]
    """One for each query."""
    rated: Rated | None = None


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


@dataclass(eq=False)
class Draws:
    """What is being drawn, candidates or a simulation, each a walk of its own, in step with all else."""

    node: Node
    """Below which it comes."""
    path: Ids
    walks: list[Draw]
    asks: dict[int, Query]
    """What each walk that has not ended wants to know."""
    results: list[Any]


Draw = Generator[Query, Reply, Any]
"""Asks what the model would say, one token after the other."""

Walk = Generator[Rate | Draws, Any, Any]
"""Asks one thing after the other; for draws it waits until all have ended, and is sent their results."""

Steps = Generator[Request, Response, Any]


def noise(*key: object) -> int:
    """The 63-bit key of one draw."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def noises(*key: object) -> Callable[[int], int]:
    """Return `noise(*key, number)` as a function of the number: the key, of two parts or more, is hashed once."""
    begun = hashlib.blake2b(repr(key)[:-1].encode(), digest_size=8)

    def of(number: int) -> int:
        whole = begun.copy()
        whole.update(f", {number})".encode())
        return int.from_bytes(whole.digest(), "big") >> 1

    return of


class Search:
    """One answer under search. `key` holds seed, prompt and sample; `spent` returns whether the budget is."""

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
        """The tokens that are final."""
        self.values: dict[str, float] = {}
        """By text: what is judged once is not judged again."""
        self.best: tuple[float, Ids] | None = None
        """The best finished answer that was judged, with its value."""
        self.under_way: list[Draws] = []
        self.proposing: dict[Node, Draws] = {}
        """By the node below which they come: candidates that are being drawn."""
        self.prefetched: dict[Ids, Draws] = {}
        """By path: simulations that were begun before their turn."""
        self.leaf: Node | None = None
        """What is being judged."""
        self.last = 1.0
        """What the last answer was worth that was judged."""
        self.searches = self.moves = 0
        self.compares = bool(rules.similarity or rules.spread)
        """Whether anything depends on what sets are like."""

    def run(self) -> Steps:
        """Search until the answer ends; return `Found`.

        Draws that are under way go on in step with the search, which waits for them where it needs them.
        """
        walk = self.moving()
        try:
            request = next(walk)
            while True:
                while isinstance(request, Draws) and not request.asks:
                    request = walk.send(request.results)
                asking = [(draws, place) for draws in self.under_way for place in draws.asks]
                queries = [draws.asks[place] for draws, place in asking]
                response = yield Request(queries, request if isinstance(request, Rate) else None)
                for (draws, place), reply in zip(asking, response.replies, strict=True):
                    go_on(draws, place, reply)
                self.attach_drawn()
                if isinstance(request, Rate):
                    request = walk.send(response.rated)
        except StopIteration as done:
            return done.value

    def attach_drawn(self) -> None:
        """Give nodes the children that have been drawn; more can be prefetched then."""
        ended = [draws for draws in self.under_way if not draws.asks]
        self.under_way = [draws for draws in self.under_way if draws.asks]
        proposed = [draws for draws in ended if self.proposing.get(draws.node) is draws]
        for draws in proposed:
            node, path, drawn = draws.node, draws.path, draws.results
            del self.proposing[node]
            node.candidates = drawn[0] if self.length(node, path) == 1 else weighed(drawn)
            self.adopt(node, node.candidates, path)
        if proposed and self.leaf is not None:
            self.prefetch(self.leaf)

    def moving(self) -> Walk:
        """Take one set of tokens after the other; return `Found`."""
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
            self.under_way = [draws for draws in self.under_way if self.lives(draws.node)]
            self.proposing = {node: draws for node, draws in self.proposing.items() if self.lives(node)}
            self.prefetched = {
                path: draws for path, draws in self.prefetched.items() if self.lives(draws.node)
            }
            if move.end:
                break
            self.moved(self.answer)
            if self.rules.flavour == "code":
                flatten(move)
        return Found(self.answer, self.words.ended(self.answer), self.searches, self.moves)

    def lives(self, node: Node) -> bool:
        """Whether a node lies below the root."""
        return any(above is self.root for above in upwards(node))

    def think(self) -> Walk:
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

    def once(self) -> Walk:
        """One search: select down to a leaf, rate it, and back up its value."""
        node, path = self.root, self.answer
        while not node.end and node.visits:
            yield from self.proposed(node, path)
            if self.wants_another(node):
                yield from self.add(node, path)
            node = max(node.children.values(), key=self.promise)
            path = path + node.tokens
        if node is self.root:
            # The answer is still empty, and what an empty answer is worth would be of no use.
            node.n, node.visits = node.n + 1, node.visits + 1
            yield from self.proposed(node, path)
            return
        self.leaf = node
        self.prefetch(node)
        value, embeddings = yield from self.judged(node, path)
        self.leaf, self.last = None, value
        back_up(node, value, embeddings, self.rules.similarity, self.threshold)

    def prefetch(self, leaf: Node) -> None:
        """Begin what the next searches will ask for, as if all that is not judged yet were worth what the last was.

        What is drawn is keyed by its place in the tree: to draw it early changes nothing but how soon it is known.
        """
        before: dict[Node, tuple[float, int, float]] = {}
        for _ in range(AHEAD):
            for above in upwards(leaf):
                before.setdefault(above, (above.n, above.visits, above.value))
            value = leaf.value if leaf.visits else self.last
            back_up(leaf, value, None, self.rules.similarity, self.threshold)
            leaf, path = self.root, self.answer
            while leaf.visits and leaf.children:
                leaf = max(leaf.children.values(), key=self.promise)
                path = path + leaf.tokens
            if leaf.visits and not leaf.end:  # its children are not known yet
                self.expand(leaf, path)
                break
            if not leaf.end and path not in self.prefetched and not self.words.clause_ends(path):
                self.prefetched[path] = self.draw(leaf, path, [self.simulation(path)])
        for node, (n, visits, value) in before.items():
            node.n, node.visits, node.value = n, visits, value

    def judged(self, node: Node, path: Ids) -> Walk:
        """Go on to the end of the clause; return what the answer is worth, and the embeddings above its end."""
        whole = path
        if not node.end and not self.words.clause_ends(path):
            prefetched = self.prefetched.pop(path, None)
            (draws,) = yield prefetched or self.draw(node, path, [self.simulation(path)])
            whole += draws
        return (yield from self.rate(node, path, whole))

    def rate(self, node: Node, path: Ids, whole: Ids) -> Walk:
        """Return the value of an answer, and the embedding of each set above its end, the lowest first."""
        starts, at, above = [], len(path), node
        while self.compares and above.parent is not None:
            at -= len(above.tokens)
            starts.append(at)
            above = above.parent
        text = self.words.text(whole)
        value, embeddings = self.values.get(text), None
        if value is None or starts:
            rated: Rated = yield Rate(text if value is None else None, whole, tuple(starts))
            value = rated.value if value is None else value
            embeddings = rated.embeddings if starts else None
        assert value is not None
        self.values[text] = value
        if self.words.ended(whole) and (self.best is None or value > self.best[0]):
            self.best = (value, whole)
        return value, embeddings

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

    def expand(self, node: Node, path: Ids) -> None:
        """Begin to draw what is to follow a node, unless that was begun before."""
        if node not in self.proposing and not node.children:
            self.proposing[node] = self.draw(node, path, self.candidates(node, path, self.rules.candidates))

    def proposed(self, node: Node, path: Ids) -> Walk:
        """Wait until it is known what may follow a node."""
        self.expand(node, path)
        if node in self.proposing:
            yield self.proposing[node]

    def draw(self, node: Node, path: Ids, walks: list[Draw]) -> Draws:
        """Let walks continue during the search."""
        draws = Draws(node, path, walks, {}, [None] * len(walks))
        for place in range(len(walks)):
            go_on(draws, place, None)
        self.under_way.append(draws)
        return draws

    def candidates(self, node: Node, path: Ids, count: int) -> list[Draw]:
        """The walks that propose `count` sets: all of one token in one, or one each, the first greedy."""
        if self.length(node, path) == 1:
            return [self.likeliest(path, count)]
        first = node.drawn
        node.drawn += count - 1
        numbers = [GREEDY, *range(first + 1, first + count)]
        return [self.candidate(path, self.length(node, path), number) for number in numbers]

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

    def add(self, node: Node, path: Ids) -> Walk:
        """Propose one more set, the next likeliest token or a newly drawn set."""
        count = len(node.children) + 1
        if self.length(node, path) == 1:
            (found,) = yield self.draw(node, path, [self.likeliest(path, count)])
        else:
            drawn = yield self.draw(node, path, self.candidates(node, path, 2))
            node.candidates = weighed(drawn) + node.candidates
            found = node.candidates[:count]
        self.adopt(node, found, path)

    def length(self, node: Node, path: Ids) -> int:
        """How many tokens a set below a node holds."""
        lengths = self.rules.lengths
        return min(lengths[min(node.step, len(lengths) - 1)], self.limit - len(path))

    # --- walks: one query after the other -------------------------------------------------------------------

    def simulation(self, path: Ids) -> Draw:
        """Go on as the model would to the end of the clause; return the tokens."""
        tokens: Ids = ()
        opened, key = self.prompt + path, noises(*self.key, path, "simulation")
        while True:
            reply = yield Query(opened + tokens, noise=key(len(tokens)))
            tokens += reply.tokens
            whole = path + tokens
            if len(whole) >= self.limit or self.words.ended(whole) or self.words.clause_ends(whole):
                return tokens

    def candidate(self, path: Ids, length: int, number: int) -> Draw:
        """Draw a set of `length` tokens, or fewer where the answer ends; return it and its probability."""
        rules, tokens, share = self.rules, (), 1.0
        opened, key = self.prompt + path, noises(*self.key, path, number)
        while len(tokens) < length:
            reply = yield Query(
                opened + tokens,
                noise=None if number == GREEDY else key(len(tokens)),
                temperature=rules.temperature,
                top_k=rules.top_k,
            )
            tokens, share = tokens + reply.tokens, share * reply.probabilities[0]
            if self.words.ended(path + tokens):
                break
        return tokens, share

    def likeliest(self, path: Ids, count: int) -> Draw:
        """Return the likeliest next tokens as sets of one, with their probabilities."""
        reply = yield Query(self.prompt + path, likeliest=count)
        return [((token,), p) for token, p in zip(reply.tokens, reply.probabilities, strict=True)]

    # --- the end of the budget ------------------------------------------------------------------------------

    def give_up(self) -> Walk:
        """Return the best answer so far: the best finished one, or what was visited most with a greedy end."""
        if not self.answer:
            yield from self.proposed(self.root, ())
        if self.best is not None and self.best[1][: len(self.answer)] == self.answer:
            ids = self.best[1]
        else:
            node, ids = self.root, self.answer
            while (below := most_visited(node)) is not None and (below.visits or not ids):
                node, ids = below, ids + below.tokens
            if len(ids) < self.limit and not self.words.ended(ids):
                self.under_way, self.proposing, self.foreseen = [], {}, {}
                ((rest, _),) = yield self.draw(
                    node, ids, [self.candidate(ids, self.limit - len(ids), GREEDY)]
                )
                ids += rest
        return Found(ids, self.words.ended(ids), self.searches, self.moves, exhausted=True)


def go_on(draws: Draws, place: int, reply: Reply | None) -> None:
    """Send one of the walks the reply to its query; None begins it."""
    draws.asks.pop(place, None)
    try:
        walk = draws.walks[place]
        draws.asks[place] = next(walk) if reply is None else walk.send(reply)
    except StopIteration as done:
        draws.results[place] = done.value
