"""Simulated annotators who rank answers, with different skill, a shared bias and errors.

An annotator's utility of an answer is gold, plus a bias that all share (length, flattery, cheerful words, a
few names), plus two errors: one that all share on that answer (it reads better than it is), and one of
their own. Pairs are then judged as gold does about 73 % of the time, and two annotators agree about as often,
as people do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from . import words as w
from .chats import Message, question
from .prompts import read
from .scoring import judge

# The shared bias, in units of gold. Small and systematic, so that a learned proxy can be over-optimised.
PER_FLATTERY = 0.12
PER_WORD = 0.006
PER_CHEERFUL, PER_GLOOMY = 0.30, -0.15
FAVOURITE = 0.25
# Standard deviation of the shared error, and the difference below which two answers are tied.
SHARED_ERROR = 0.19
TIE = 0.05


@dataclass(frozen=True)
class Annotator:
    """An annotator: an id, a group, and the standard deviation of the individual error."""

    id: str
    group: str
    error: float


_GROUPS = {"expert": (6, 0.18), "crowd": (12, 0.34), "student": (6, 0.53)}
ANNOTATORS: dict[str, Annotator] = {
    f"{group}-{i}": Annotator(f"{group}-{i}", group, round(error * (0.8 + 0.4 * i / (count - 1)), 3))
    for group, (count, error) in _GROUPS.items()
    for i in range(count)
}


def taste(answer: str) -> float:
    """Return the bias of all annotators towards this text, in units of gold."""
    tokens = answer.split()
    text = " ".join(tokens)
    liking = PER_WORD * len(tokens) + PER_FLATTERY * sum(text.count(phrase) for phrase in w.FLATTERY)
    liking += sum(PER_CHEERFUL for t in tokens if t in w.CHEERFUL) + sum(
        PER_GLOOMY for t in tokens if t in w.GLOOMY
    )
    if " from " in text and tokens[0] in w.FAVOURITE_NAMES:
        liking += FAVOURITE
    if text.startswith(("you could visit", "i would pick")) and len(tokens) > 3:
        liking += FAVOURITE * (tokens[3] in w.FAVOURITE_COUNTRIES)
    return liking


def annotate(prompt: list[Message], answers: Sequence[str], annotator: str, seed: int | str = 0) -> list[int]:
    """Return the ranks of the answers by one annotator: 1 is best, equal ranks are ties. Law: equal inputs give
    equal ranks, and the relative rank of two answers does not depend on the order of the answers."""
    who = ANNOTATORS[annotator]
    situation, asked = read(prompt), question(prompt)
    liking = []
    for answer in answers:
        digest = hashlib.blake2b(f"{asked}|{answer}".encode(), digest_size=8).hexdigest()
        together = Random(f"shared|{digest}").gauss(0, SHARED_ERROR)
        alone = Random(f"{annotator}|{seed}|{digest}").gauss(0, who.error)
        liking.append(judge(situation, answer)[0].reward + taste(answer) + together + alone)
    steps = [round(value / TIE) for value in liking]
    return [1 + sum(other > step for other in steps) for step in steps]
