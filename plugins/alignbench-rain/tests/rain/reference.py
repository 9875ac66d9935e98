"""RAIN in the authors' order, one question at a time: slow, plain, and the law of the fast search.

Everything goes as in the authors' code (SafeAILab/RAIN, HH), read with their paper: simulate, evaluate,
propose below every leaf that is visited, back up the value. Only the noise of a draw is shared with the fast
search: its key says where in the tree it is drawn. What docs/methods/rain.md calls a defect of the authors'
program is not repeated. Counts what it asks as that program would have asked it: of a prefix nothing is kept
but keys and values inside one walk, and the next-token distributions by path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from alignbench_rain.search import noise

from alignbench import Query


@dataclass
class Counts:
    """Model calls one after the other, and the positions that they processed."""

    calls: int = 0
    tokens: int = 0
    fresh: int = 0
    """Calls that read the whole path, as no walk had kept it."""


class Node:
    def __init__(self, parent, prior, tokens, step):
        self.parent, self.p, self.tokens, self.step = parent, prior, tokens, step
        self.children, self.n, self.fn, self.q, self.embedding = {}, 0.0, 0, 0.0, None
        self.listed = []
        self.drawn = 0


@dataclass
class Reference:
    """`model` answers one query (`reply`: with what a walk has kept, or None; returns both), rates a text
    (`value`; `questions` are the lengths of the prompts that ask for it), and embeds the end of a path
    (`embed`); it knows `text`, `clause_ends` and `ended`."""

    model: object
    rules: object
    prompt: tuple
    key: tuple
    limit: int
    threshold: float
    counts: Counts = field(default_factory=Counts)
    values: dict = field(default_factory=dict)
    known: dict = field(default_factory=dict)
    searches: int = 0

    def answer(self):
        """Return the tokens; `self.roots` holds each move's root as it was when the move was made."""
        root = Node(None, 1.0, (), 0)
        state, self.roots = (), []
        while True:
            first = root.fn if self.code else 0
            most = self.rules.searches
            for i in range(first, max(most, first + min(15, most)) if self.code else most):
                self.search(root, state)
                self.searches += 1
                best = self.most_visited(root)
                if best is None:
                    continue
                if self.code and best.fn > self.rules.least_searches and best.q > self.rules.good_enough:
                    break
                enough = i + 1 >= self.rules.least_searches
                if not self.code and enough and best.q >= self.rules.good_enough:
                    break
            self.roots.append((state, root))
            move = self.most_visited(root)
            if move is None:
                break
            state += move.tokens
            if self.finished(state):
                break
            root, root.parent = move, None
            root.parent = None
            if self.code:
                self.mix(list(root.children.values()))
        return state

    @property
    def code(self):
        return self.rules.flavour == "code"

    def finished(self, state):
        return len(state) >= self.limit or self.model.ended(state)

    def search(self, root, state):
        node = root
        while node.children:
            self.maybe_add(node, state)
            node = max(node.children.values(), key=self.score)
            state = state + node.tokens
        if self.finished(state) and node is not root:
            value, whole = self.evaluate(state, simulate=False)
        else:
            value, whole = self.evaluate(state, simulate=node is not root)
            listed = self.propose(node, state, self.rules.candidates)
            self.expand(node, listed)
        self.backup(node, value, whole, len(state))

    def score(self, node):
        parent = node.parent
        if self.code:
            exploit = 0.0 if node.n == 0 else (node.q + 1) / (2 + 1e-5)
            explore = self.rules.exploration * node.p * math.sqrt(parent.n) / (1 + node.n)
        else:
            exploit = node.q
            total = sum(child.n for child in parent.children.values())
            explore = self.rules.exploration * node.p * math.sqrt(total) / (1 + node.n)
        return exploit + explore

    def most_visited(self, node):
        if not node.children:
            return None
        most = max(child.n for child in node.children.values())
        return max((child for child in node.children.values() if child.n == most), key=lambda child: child.q)

    # --- simulate and evaluate

    def evaluate(self, state, *, simulate):
        whole, cached = state, None
        while simulate and not (self.model.clause_ends(whole) or self.finished(whole)):
            drawn = len(whole) - len(state)
            query = Query(self.prompt + whole, noise=noise(*self.key, state, "simulation", drawn))
            reply, cached = self.ask(query, cached)
            whole += reply.tokens
        text = self.model.text(whole)
        if text not in self.values:
            self.values[text] = self.model.value(text)
            for length in self.model.questions(text):
                self.counts.calls += 1
                self.counts.tokens += length
        return self.values[text], whole

    def ask(self, query, cached):
        """One model call, unless the distribution is known; then the walk has lost its keys and values."""
        if query.path in self.known:
            return self.model.again(query, self.known[query.path]), None
        reply, self.known[query.path], kept = self.model.reply(query, cached)
        self.counts.calls += 1
        self.counts.fresh += cached is None
        self.counts.tokens += len(query.path) if cached is None else 1
        return reply, kept

    # --- propose

    def length(self, node, state):
        lengths = self.rules.lengths
        wanted = lengths[node.step] if node.step < len(lengths) else lengths[-1]
        return min(wanted, self.limit - len(state))

    def propose(self, node, state, count):
        length = self.length(node, state)
        if length == 1:
            reply, _ = self.ask(Query(self.prompt + state, likeliest=count), None)
            return [((token,), p) for token, p in zip(reply.tokens, reply.probabilities, strict=True)]
        greedy, p_greedy = self.draw(state, length, 0)
        distinct, shares = [greedy], []
        for _ in range(count - 1):
            node.drawn += 1
            tokens, p = self.draw(state, length, node.drawn)
            if tokens not in distinct:
                distinct.append(tokens)
                shares.append(p)
        if shares:
            p_greedy = max(min(p_greedy, sum(shares)), max(shares) + min(shares))
        return list(zip(distinct, [p_greedy, *shares], strict=True))

    def draw(self, state, length, number):
        tokens, p, cached = (), 1.0, None
        for position in range(length):
            key = noise(*self.key, state, number, position) if number else None
            query = Query(
                self.prompt + state + tokens,
                noise=key,
                temperature=self.rules.temperature,
                top_k=self.rules.top_k,
            )
            reply, cached = self.ask(query, cached)
            tokens += reply.tokens
            p *= reply.probabilities[0]
            if self.model.ended(state + tokens):
                break
        return tokens, p

    def expand(self, node, listed):
        node.listed = listed
        self.adopt(node, listed)

    def adopt(self, node, listed):
        total = sum(p for _, p in listed)
        shares = [p / total for _, p in listed]
        if node.parent is None and self.code:
            shares = [0.75 * p + 0.25 / len(shares) for p in shares]
            total = sum(shares)
            shares = [p / total for p in shares]
        for (tokens, _), p in zip(listed, shares, strict=True):
            if tokens not in node.children:
                node.children[tokens] = Node(node, p, tokens, node.step + 1)

    def maybe_add(self, node, state):
        children = list(node.children.values())
        if len(children) >= self.rules.most_candidates or any(c.embedding is None for c in children):
            return
        if len(children) < 2:
            return
        variance = np.var(np.stack([child.embedding for child in children]), axis=0, ddof=1)
        if not np.linalg.norm(variance) < self.rules.spread * len(children[0].tokens):
            return
        if not max(child.q for child in children) < 0:
            return
        if self.length(node, state) == 1:
            self.adopt(node, self.propose(node, state, len(children) + 1))
        else:
            node.listed = self.propose(node, state, 2) + node.listed
            self.adopt(node, node.listed[: len(children) + 1])

    def mix(self, nodes):
        shares = [0.75 * node.p + 0.25 / len(nodes) for node in nodes]
        for node, share in zip(nodes, shares, strict=True):
            node.p = share / sum(shares)

    # --- back up

    def backup(self, node, value, whole, at):
        node.n += 1
        node.fn += 1
        if node.parent is not None:
            at -= len(node.tokens)
            embedding = self.model.embed(self.prompt, whole, at)
            if node.embedding is None:
                node.embedding = embedding
            else:
                node.embedding = node.embedding + (embedding - node.embedding) / node.fn
            for other in node.parent.children.values():
                if other is node or other.embedding is None:
                    continue
                norms = np.linalg.norm(node.embedding) * np.linalg.norm(other.embedding)
                cosine = float(node.embedding @ other.embedding) / max(float(norms), 1e-8)
                if cosine >= self.threshold and self.rules.similarity:
                    weight = self.rules.similarity * cosine
                    before = other.n
                    other.n += weight
                    other.q = (other.q * before + weight * value) / other.n
            self.backup(node.parent, value, whole, at)
        node.q += (value - node.q) / node.n


def visited(root, of):
    """What a tree is: prior, visits, real visits and value of every node that was visited, by its path."""
    found = {}
    waiting = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if path and node.n:
            found[path] = of(node)
        waiting += [((*path, tokens), child) for tokens, child in node.children.items()]
    return found
