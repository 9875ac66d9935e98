"""A language model that is a script: next tokens, values and embeddings are what the test says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from alignbench_rain.search import Found, Rated, Response, Search, Words, noise

from alignbench import Query, Reply
from alignbench.models.trees.queries import replies_of

END, COMMA, VOCABULARY = 9, 8, 10
PROMPT = (0,)
KEY = (7, "prompt", 0)


def text(ids):
    return " ".join(str(token) for token in ids if token != END)


def ended(ids):
    return bool(ids) and ids[-1] == END


def clause_ends(ids):
    return bool(ids) and ids[-1] == COMMA


WORDS = Words(text, clause_ends, ended)


def dice(*what, size=1):
    """Standard normal numbers that depend on `what` alone."""
    seed = int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def random_logits(seed):
    def logits(path):
        drawn = 1.5 * dice("logits", seed, path, size=VOCABULARY)
        drawn[END] += 0.2 * len(path) - 2
        return drawn

    return logits


@dataclass
class Script:
    """`logits` of a path, `value` of a text, `embedding` of an answer's part."""

    logits: Callable
    value: Callable = lambda tokens: 1.0
    embedding: Callable = lambda part: dice("embedding", part, size=4)
    asked: list = field(default_factory=list)
    """Every round of queries."""
    rated: list = field(default_factory=list)
    """Every text that was rated."""

    def reply(self, query: Query) -> Reply:
        logits = torch.tensor(np.asarray(self.logits(query.path)))[None]
        return replies_of(logits, torch.zeros(1, dtype=torch.long), [query])[0][0]

    def search(self, rules, limit=12, threshold=0.95, **more) -> tuple[Search, Found, list]:
        """Run a search; return it, what it found, and each move's root as it then was."""
        search = Search(PROMPT, rules, WORDS, KEY, limit, threshold=threshold, **more)
        steps = search.run()
        roots, root = [], search.root
        wants = next(steps)
        while True:
            if search.root is not root:
                roots.append(root)
                root = search.root
            try:
                wants = steps.send(self.answer(wants))
            except StopIteration as done:
                return search, done.value, [*roots, root]

    def answer(self, wants):
        self.asked.append(wants.queries)
        return Response([self.reply(query) for query in wants.queries], self.rate(wants.rate))

    def rate(self, rate):
        if rate is None:
            return None
        value = None
        if rate.text is not None:
            self.rated.append(rate.text)
            value = self.value(rate.text)
        embeddings = [self.embedding(rate.path[start:]) for start in rate.starts]
        return Rated(value, np.stack(embeddings) if embeddings else np.zeros((0, 1), np.float32))


class ForReference:
    """The script as the reference asks it."""

    def __init__(self, script: Script):
        self.script, self.value = script, script.value
        self.text, self.ended, self.clause_ends = text, ended, clause_ends

    def reply(self, query, kept):
        return self.script.reply(query), None, True

    def again(self, query, known):
        return self.script.reply(query)

    def questions(self, text):
        return [20, 20]

    def embed(self, prompt, whole, at):
        return self.script.embedding(whole[at:])


__all__ = [
    "COMMA",
    "END",
    "KEY",
    "PROMPT",
    "ForReference",
    "Script",
    "dice",
    "noise",
    "random_logits",
    "text",
]
