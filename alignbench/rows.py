"""The views of one shared row, and how each is derived from the others: what "the same rows" means.

A source gives rows in the richest view it has. A method declares the view it consumes, and every view is
derived from the one table by the rules below, so that two methods that use different views of a row still
use the same row:

    Ranking -> Pair            one pair per row and epoch, drawn by seed
    Pair -> Demonstration      the chosen answer
    Pair -> UnpairedPreference            two: the chosen is desirable, the rejected is not
    anything with a prompt -> Prompt
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, TypeVar

Message = Mapping[str, str]
"""One turn of a conversation: `{"role": "system" | "user" | "assistant", "content": text}`."""
Messages = tuple[Message, ...]
Ids = tuple[int, ...]
"""Token ids. A prompt's end where the answer starts; a response's end with the end-of-sequence token."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a policy scores: the response is scored, token by token, after the prompt."""

    prompt: Ids
    response: Ids

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record of the shared table. The token ids are set once, by the core, before any method runs."""

    id: str
    length: int = 0
    """Tokens of the whole shared row: the same in every view, so that all methods are ordered alike."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Every column of the source that the view does not name: `user`, `annotator`, `topic`, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Row):
    """Plain text without turns: pretraining data."""

    text: str
    ids: Ids = ()

    def sequences(self) -> tuple[Sequence, ...]:
        """The text after its first token, which nothing precedes."""
        return (Sequence(self.ids[:1], self.ids[1:]),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Row):
    """A conversation that waits for its answer."""

    prompt: Messages
    prompt_ids: Ids = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration(Prompt):
    """A prompt and the answer to imitate."""

    response: str
    response_ids: Ids = ()

    def sequences(self) -> tuple[Sequence, ...]:
        return (Sequence(self.prompt_ids, self.response_ids),)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedPreference(Demonstration):
    """A prompt, an answer, and whether the answer is desirable."""

    desirable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Prompt):
    """Two answers to one prompt, the better one first."""

    chosen: str
    rejected: str
    preference: float = 1.0
    """The probability that `chosen` is the better one: 1 for a plain label, less for a soft one."""
    chosen_ids: Ids = ()
    rejected_ids: Ids = ()

    def sequences(self) -> tuple[Sequence, ...]:
        """(chosen, rejected)."""
        return Sequence(self.prompt_ids, self.chosen_ids), Sequence(self.prompt_ids, self.rejected_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Prompt):
    """K answers to one prompt with their ranks: 1 is best, equal ranks are ties."""

    answers: tuple[str, ...]
    ranks: tuple[int, ...]
    preferences: tuple[float | None, ...] = ()
    """Soft labels: for each two answers, in the order of `itertools.combinations`, the probability that the
    first is the better one, None for a tie or an unknown; () where ranks are all there is."""
    answer_ids: tuple[Ids, ...] = ()

    def sequences(self) -> tuple[Sequence, ...]:
        """One for each answer, in the order of `answers`."""
        return tuple(Sequence(self.prompt_ids, ids) for ids in self.answer_ids)

    def comparisons(self) -> list[tuple[int, int, float]]:
        """(better, worse, probability that it is) for every two answers that are no tie, by their places."""
        pairs = list(combinations(range(len(self.answers)), 2))
        if self.preferences:
            known = [
                (*pair, p) for pair, p in zip(pairs, self.preferences, strict=True) if p not in (None, 0.5)
            ]
            return [(i, j, p) if p > 0.5 else (j, i, 1 - p) for i, j, p in known]
        ranks = self.ranks
        return [(i, j, 1.0) if ranks[i] < ranks[j] else (j, i, 1.0) for i, j in pairs if ranks[i] != ranks[j]]


def conversation(prompt: Messages) -> str:
    """Return what a prompt's conversation begins with: its first user turn, which prompts that continue one
    conversation share; else all its turns."""
    first = next((turn["content"] for turn in prompt if turn["role"] == "user"), None)
    return first if first is not None else repr([dict(turn) for turn in prompt])


def different(ids: Set[str]) -> set[str]:
    """Return the ids of different prompts: a row made of a prompt has its id, or one that begins so."""
    return {id for id in ids if id.rpartition("/")[0] not in ids}


View = TypeVar("View", bound=Row)
Draw = Literal["one", "all", "best_worst"]
"""Which pairs a ranking gives: `one` is the shared rule, the other two are departures."""


_WAYS: Mapping[type[Row], tuple[type[Row], ...]] = {
    Ranking: (Pair, Demonstration, UnpairedPreference, Prompt),
    Pair: (Ranking, Demonstration, UnpairedPreference, Prompt),
    UnpairedPreference: (Demonstration, Prompt),
    Demonstration: (Prompt,),
}


def can_derive(source: type[Row], view: type[Row]) -> bool:
    """Return whether a table of `source` rows has a `view`, without reading a row."""
    return source is view or view in _WAYS.get(source, ())


def derive(row: Row, view: type[View], *, seed: int, epoch: int = 0, draw: Draw = "one") -> tuple[View, ...]:
    """Return `row` as `view`: no rows where it has no such view (a ranking that is all ties).

    Law: equal (row, view, seed, epoch, draw) give equal rows. Raises TypeError where no rule leads from the
    row's view to the wanted one.
    """
    if type(row) is view:
        return (row,)
    if not isinstance(row, Prompt) or not can_derive(type(row), view):
        raise TypeError(f"a {type(row).__name__} row has no {view.__name__} view")
    common = {name: getattr(row, name) for name in ("id", "length", "extra", "prompt", "prompt_ids")}
    if view is Prompt:
        return (view(**common),)
    if isinstance(row, Ranking):
        pairs = _pairs(row, common, seed, epoch, draw)
        return tuple(seen for pair in pairs for seen in derive(pair, view, seed=seed, epoch=epoch))
    if isinstance(row, UnpairedPreference):
        answer = {"response": row.response, "response_ids": row.response_ids}
        return (view(**common, **answer),) if row.desirable else ()
    assert isinstance(row, Pair)
    chosen = {"response": row.chosen, "response_ids": row.chosen_ids}
    rejected = {"response": row.rejected, "response_ids": row.rejected_ids}
    if view is Demonstration:
        return (view(**common, **chosen),)
    if view is UnpairedPreference:
        good, bad = {**chosen, "desirable": True}, {**rejected, "desirable": False}
        return view(**common, **good), view(**common, **bad)
    ids = (row.chosen_ids, row.rejected_ids)
    ranks = (1, 1) if row.preference == 0.5 else (1, 2) if row.preference > 0.5 else (2, 1)
    both: dict[str, Any] = {"answers": (row.chosen, row.rejected), "ranks": ranks, "answer_ids": ids}
    if row.preference != 1.0:
        both["preferences"] = (row.preference,)
    return (view(**common, **both),)


def _pairs(row: Ranking, common: Mapping[str, Any], seed: int, epoch: int, draw: Draw) -> list[Pair]:
    untied = row.comparisons()
    if draw == "best_worst" and untied:
        untied = [max(untied, key=lambda pair: row.ranks[pair[1]] - row.ranks[pair[0]])]
    elif draw == "one" and untied:
        # Keyed by the row, not by its place: a filter that drops another row must not change this draw.
        digest = hashlib.sha256(f"{seed}/{epoch}/{row.id}".encode()).digest()
        untied = [untied[int.from_bytes(digest[:8], "big") % len(untied)]]
    ids = row.answer_ids or ((),) * len(row.answers)
    return [
        Pair(
            **common,
            chosen=row.answers[better],
            rejected=row.answers[worse],
            chosen_ids=ids[better],
            rejected_ids=ids[worse],
            preference=preference,
        )
        for better, worse, preference in untied
    ]
