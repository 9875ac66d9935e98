"""The probabilities of a few options after a question; what questions share is computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignbench.data.tokens import encode, spelled
from alignbench.errors import ModelError
from alignbench.models import counting
from alignbench.models.forward import varlen
from alignbench.models.forward.attention import computes_same
from alignbench.models.forward.incremental import handed_on, last_states, select
from alignbench.models.forward.memory import CACHED_QUESTIONS, LOGITS, QUESTIONS, positions
from alignbench.models.forward.prefix_tree import prefix_tree, tree_states
from alignbench.rows import Ids

if TYPE_CHECKING:
    from alignbench.models.forward.network import Adapted, Network

WORTH = 0.05
"""Share of all tokens that a shared prefix must save to be worth a separate forward."""


@dataclass(frozen=True)
class Options:
    """The ways in which each option can be written after a question, as the tokenizer splits them."""

    variants: tuple[tuple[Ids, ...], ...]
    """By option; no two are equal."""

    @property
    def ways(self) -> list[Ids]:
        return [ids for of_one in self.variants for ids in of_one]

    @property
    def begun(self) -> list[Ids]:
        """What stands before each token of an option; the shortest, nothing, is first."""
        return sorted({ids[:cut] for ids in self.ways for cut in range(len(ids))})

    @property
    def longest(self) -> int:
        return max(map(len, self.ways))


def options_of(base: Network, opened: str, options: Many[str]) -> Options:
    """Return how the tokenizer writes each option after `opened`, a text that ends before its answer.

    As it stands, and with a space before it. Raises ModelError where two options are written alike.
    """
    (before,) = encode(base.tokenizer, [opened])
    ways: list[tuple[Ids, ...]] = []
    for option in options:
        found: dict[Ids, None] = {}
        for text in (option, f" {option}"):
            (whole,) = encode(base.tokenizer, [opened + text])
            ids = whole[len(before) :]
            if whole[: len(before)] != before:
                ids = spelled(text, before, whole, base.tokenizer)
            if ids:
                found[ids] = None
        ways.append(tuple(found))
    made = Options(tuple(ways))
    unknown = base.tokenizer.unk_token_id
    if len(set(made.ways)) < len(made.ways) or not all(ways) or any(unknown in ids for ids in made.ways):
        raise ModelError(
            f"the tokenizer cannot tell the options {', '.join(options)} apart",
            "name options that it can write",
        )
    return made


@dataclass
class Reading:
    """The probabilities of options after questions, and their cost."""

    probabilities: Tensor
    """float32 [questions, options]: of each whole option, over all ways to write it."""
    tokens: int = 0
    """Positions that the model computed, without padding."""
    forwards: int = 0
    likeliest: list[int] = field(default_factory=list)
    """The likeliest token after each question, whether it belongs to an option or not."""


@torch.no_grad()
def read(policy: Adapted, questions: Many[Ids], options: Options, groups: Many[Many[object]] = ()) -> Reading:
    """Return how likely each option is after each question, at temperature 1 over the full vocabulary.

    What questions share is computed once: all questions of a forward are one row, as a prefix tree. A model that
    does not support this computes shared prefixes first and goes on with their cache; then `groups`, aligned with
    `questions`, names what shares a prefix: the first name, then the first two, and so on. Where a cache would not
    be that of the whole text, nothing is shared. An option that begins another one ("1" of "10") does not get the
    other's probability.
    """
    base = policy.base
    reading = Reading(torch.empty(len(questions), len(options.variants)), likeliest=[0] * len(questions))
    base.model.eval()
    groups = groups or [()] * len(questions)
    width = max(map(len, questions), default=0) + options.longest
    with base.using(policy), base.arithmetic():
        if varlen.supports(base.model, width):
            way = _in_one_row
        # Padding in the middle of a text would shift a window.
        elif varlen.attends_to_all(base.model, width) and continues(base):
            way = _with_cache
        else:
            way = _one_by_one
        way(base, questions, options, groups, reading)
    return reading


def _in_one_row(
    base: Network, questions: Many[Ids], options: Options, groups: Many[Many[object]], reading: Reading
) -> None:
    """Read the questions of a forward, and the options of more than one token behind each, as one prefix tree."""
    for places in _buckets(questions, groups, options.longest, positions(base, QUESTIONS)):
        asked = [questions[place] for place in places]
        texts = [question + begun for begun in options.begun for question in asked]
        tree = prefix_tree(texts)
        reading.forwards += 1
        reading.tokens += len(tree.ids)
        found = tree_states(base, tree).split(len(asked))
        after = dict(zip(options.begun, found, strict=True))
        _record(reading, places, *_of_each(base, after, options))


def _one_by_one(
    base: Network, questions: Many[Ids], options: Options, groups: Many[Many[object]], reading: Reading
) -> None:
    """Read each question, and each option of more than one token behind it, as a whole text."""
    for places in _buckets(questions, groups, options.longest, positions(base, CACHED_QUESTIONS)):
        asked = [questions[place] for place in places]
        _record(reading, places, *_whole(base, asked, options, reading))


def _whole(base: Network, asked: Many[Ids], options: Options, reading: Reading) -> tuple[Tensor, Tensor]:
    """Return what `_of_each` returns for questions that are read as whole texts."""
    after: dict[Ids, Tensor] = {}
    for begun in options.begun:
        texts = [question + begun for question in asked]
        after[begun] = last_states(base, texts)
        reading.forwards += 1
        reading.tokens += sum(map(len, texts))
    return _of_each(base, after, options)


def _with_cache(
    base: Network, questions: Many[Ids], options: Options, groups: Many[Many[object]], reading: Reading
) -> None:
    """Read shared prefixes first, and what follows each with its keys and values."""
    for places in _buckets(questions, groups, options.longest, positions(base, CACHED_QUESTIONS)):
        asked = [questions[place] for place in places]
        levels = _levels(asked, [groups[place] for place in places])
        if not _fits(base, asked, levels, options):
            _record(reading, places, *_whole(base, asked, options, reading))
            continue
        texts, begun = _CachedTexts(base, reading), [0] * len(asked)
        for ends in levels:
            texts.extend([question[:end] for question, end in zip(asked, ends, strict=True)], begun)
            begun = ends
        after = {(): texts.extend(asked, begun)} | texts.options([ids for ids in options.begun if ids])
        _record(reading, places, *_of_each(base, after, options))


def _buckets(
    questions: Many[Ids], groups: Many[Many[object]], longest: int, positions: int
) -> Iterator[list[int]]:
    """Places of questions that are read together: of like length, and whole groups where they fit."""
    members: dict[object, list[int]] = defaultdict(list)
    for place, names in enumerate(groups):
        members[names[0] if names else place].append(place)

    def length(places: list[int]) -> int:
        return max(len(questions[place]) for place in places) + longest

    bucket: list[int] = []
    for places in sorted(members.values(), key=lambda places: (-length(places), places[0])):
        if bucket and (len(bucket) + len(places)) * length([*bucket, *places]) > positions:
            yield bucket
            bucket = []
        most = max(1, positions // length(places))
        while len(places) > most:
            yield places[:most]
            places = places[most:]
        bucket = [*bucket, *places]
    if bucket:
        yield bucket


def _levels(questions: Many[Ids], groups: Many[Many[object]]) -> list[list[int]]:
    """How much of each question its group begins with, group by group from coarse to fine, where it pays."""
    begun, levels = [0] * len(questions), []
    total = sum(map(len, questions))
    for depth in range(max(map(len, groups)) + 1):
        members: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for place, names in enumerate(groups):
            members[tuple(names[:depth])].append(place)
        ends, saved = list(begun), 0
        for places in members.values():
            end = _common([questions[place] for place in places])
            saved += sum(end - begun[place] for place in places[1:])
            for place in places:
                ends[place] = end
        if saved > WORTH * total:
            levels.append(ends)
            begun = ends
    return levels


def _fits(base: Network, questions: Many[Ids], levels: list[list[int]], options: Options) -> bool:
    """Return whether the cache of questions that are read level by level, padded, is no longer than the context."""
    columns, begun = options.longest - 1, [0] * len(questions)
    for ends in [*levels, [len(question) for question in questions]]:
        columns += max(end - before for end, before in zip(ends, begun, strict=True))
        begun = ends
    return base.context is None or columns <= base.context


def _common(questions: Many[Ids]) -> int:
    """How many tokens all of them begin with; one at least is left to each."""
    first, last = min(questions), max(questions)  # in the order of tuples these two differ soonest
    most = min(map(len, questions)) - 1
    return next((at for at in range(most) if first[at] != last[at]), most)


class _CachedTexts:
    """Texts that are extended from shared prefixes: the keys and values of each, computed once."""

    def __init__(self, base: Network, reading: Reading):
        self.base, self.reading = base, reading
        self.cache: dict[str, Any] = {}
        self.mask: Tensor | None = None
        self.rows: list[int] = []
        """By text, in the order given: the row of the cache that holds it."""

    def extend(self, texts: Many[Ids], begun: Many[int]) -> Tensor:
        """Read `texts` from their `begun` tokens on; return states [texts, hidden]. Equal texts are read once."""
        different = {text: place for place, text in reversed(list(enumerate(texts)))}
        row = {text: number for number, text in enumerate(different)}
        hidden = self._read(
            list(different.values()), [text[begun[place] :] for text, place in different.items()]
        )
        self.rows = [row[text] for text in texts]
        return hidden[self.rows, -1]

    def options(self, begun: Many[Ids]) -> dict[Ids, Tensor]:
        """Return states [texts, hidden] after each text with each of these tokens behind it."""
        if not begun:
            return {}
        count = len(self.rows)
        hidden = self._read(list(range(count)) * len(begun), [ids for ids in begun for _ in range(count)])
        return dict(zip(begun, hidden[:, -1].split(count), strict=True))

    def _read(self, places: Many[int], rest: Many[Ids]) -> Tensor:
        """Read each `rest` after the text at its place; return hidden states, padded on the left."""
        ids, mask = self.base.pad(rest, "left")
        if self.mask is not None:
            index = torch.tensor([self.rows[place] for place in places], device=self.base.device)
            self.cache = {name: select(cache, index) for name, cache in self.cache.items()}
            mask = torch.cat([self.mask[index], mask], dim=1)
        self.mask = mask
        self.reading.forwards += 1
        self.reading.tokens += sum(map(len, rest))
        counting.expect(sum(map(len, rest)))
        output = self.base.forward(ids, mask, use_cache=True, **self.cache)
        self.cache = handed_on(self.base, output)
        return output.last_hidden_state


def continues(base: Network) -> bool:
    """Return whether several tokens, padded on the left, can follow a cache whose rows are selected again."""
    shared = base.trial_text(0, 5)
    texts = [shared + base.trial_text(place, 6 - 2 * place) for place in (1, 2)]

    def cached() -> Tensor:
        growing = _CachedTexts(base, Reading(torch.empty(0)))
        first = growing.extend([shared, shared], [0, 0])
        rest = growing.extend(texts, [5, 5])
        behind = growing.options([(1,), (2, 3)])
        return torch.cat([first, rest, *behind.values()])

    def plain() -> Tensor:
        whole = [shared, shared, *texts, *(text + more for more in ((1,), (2, 3)) for text in texts)]
        return torch.stack([base.plain_states(text)[-1] for text in whole])

    return computes_same(base.model, "texts that continue a cache", plain, cached)


def _record(reading: Reading, places: Many[int], chances: Tensor, likeliest: Tensor) -> None:
    reading.probabilities[places] = chances.cpu()
    for place, token in zip(places, likeliest.tolist(), strict=True):
        reading.likeliest[place] = token


def _of_each(base: Network, after: Mapping[Ids, Tensor], options: Options) -> tuple[Tensor, Tensor]:
    """Return probabilities [questions, options] from states [questions, hidden] after each beginning of an option.

    And the likeliest token [questions] after each question.
    """
    likeliest = torch.empty(0)
    chances: dict[Ids, Tensor] = {(): torch.zeros((), device=base.device)}
    rows = max(1, LOGITS[base.device.type] // base.vocabulary)
    for begun, known in sorted(after.items()):
        following = sorted(
            {ids[: len(begun) + 1] for ids in options.ways if ids[: len(begun)] == begun} - {begun}
        )
        wanted = torch.tensor([ids[-1] for ids in following], device=base.device)
        parts, tops = [], []
        for part in known.split(rows):
            logits = base.logits(part)
            parts.append(logits.log_softmax(-1)[:, wanted])
            tops.append(logits.argmax(-1))
        likeliest = likeliest if begun else torch.cat(tops)
        for ids, logps in zip(following, torch.cat(parts).T, strict=True):
            chances[ids] = chances[begun] + logps

    def alone(ids: Ids) -> Tensor:
        # What another option begins with counts for that option.
        others = [chances[other].exp() for other in options.ways if other != ids and other[: len(ids)] == ids]
        return (chances[ids].exp() - sum(others)).clamp_min(0)

    chosen = torch.stack([sum(map(alone, of_one)) for of_one in options.variants], dim=1)  # pyright: ignore
    return chosen, likeliest
