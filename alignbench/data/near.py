"""Counts evaluation prompts that nearly repeat a training prompt, which a hash of the text does not see."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from zlib import crc32

from alignbench.rows import Messages

SIMILAR = 0.8
"""Least Jaccard similarity of two prompts' word trigrams, as in Lee et al. 2022 (arXiv:2107.06499)."""

_WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")
"""A word; of scripts that are written without spaces, a character."""


def near_duplicates(prompts: Iterable[Messages], training: Iterable[Messages]) -> int:
    """Return how many of the `prompts` are similar, and not equal, to one of the `training` prompts.

    Exact, by prefix filtering: two sets that share a part of `SIMILAR` share one of their rarest members.
    Texts without a word are similar to none. Memory grows with `prompts`, not with `training`.
    """
    asked = {texts: _trigrams(texts) for texts in map(_texts, prompts)}
    sizes = Counter(member for members in asked.values() for member in members)
    rarest: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    for texts, members in asked.items():
        for member in _prefix(members, sizes):
            rarest[member].append(texts)
    found: set[tuple[str, ...]] = set()
    for texts in map(_texts, training):
        members = _trigrams(texts)
        near = {other for member in _prefix(members, sizes) for other in rarest.get(member, ())}
        for other in near - found - {texts}:
            both = len(members & asked[other])
            if both >= SIMILAR * (len(members) + len(asked[other]) - both):
                found.add(other)
    return len(found)


def _texts(prompt: Messages) -> tuple[str, ...]:
    return tuple(turn["content"] for turn in prompt)


def _trigrams(texts: tuple[str, ...]) -> frozenset[int]:
    """The runs of three words, without case and punctuation; a shorter text is one run."""
    words = _WORD.findall(" ".join(texts).casefold())
    if not words:
        return frozenset()
    runs = (words[place : place + 3] for place in range(max(len(words) - 2, 1)))
    return frozenset(crc32(" ".join(run).encode()) for run in runs)


def _prefix(members: frozenset[int], sizes: Counter[int]) -> list[int]:
    ordered = sorted(members, key=lambda member: (sizes[member], member))
    return ordered[: len(ordered) - math.ceil(SIMILAR * len(ordered)) + 1]
