"""The probabilities of a few options after a question; what questions share is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.data.tokens import encode, spelled
from alignbench.errors import ModelError
from alignbench.models import meter
from alignbench.models.forward.memory import LOGITS, QUESTIONS, cached
from alignbench.models.trees.token_tree import TokenTrees
from alignbench.rows import Ids

if TYPE_CHECKING:
    from alignbench.models.forward.network import Network
    from alignbench.models.policy import ModelPolicy

ALIKE = 8
"""Questions that share fewer tokens than this, behind what all share, are in trees of their own."""

WIDTH = 256
"""New positions of a tree in one forward: each attends to the others, or a mask hides them."""


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
def read(policy: ModelPolicy, questions: Many[Ids], options: Options) -> Reading:
    """Return how likely each option is after each question, at temperature 1 over the full vocabulary.

    What questions share is computed once where the model supports token trees, in whatever order they are given. An
    option that begins another one ("1" of "10") does not get the other's probability.
    """
    base = policy.base
    reading = Reading(torch.empty(len(questions), len(options.variants)), likeliest=[0] * len(questions))
    base.model.eval()
    trees = TokenTrees(policy)
    held = cached(base) + base.head.in_features * base.dtype.itemsize
    batches = _batches(questions, len(options.begun), max(QUESTIONS[base.device.type] // held, 1024))
    trees.reserve(max((positions for _, positions in batches), default=0))
    with meter.metered(meter.Tally()) as tally:
        for places, _ in batches:
            after = _states(trees, [questions[place] for place in places], options.begun)
            with base.using(policy), base.arithmetic():
                chances, likeliest = _of_each(base, after, options)
            reading.probabilities[places] = chances.cpu()
            for place, token in zip(places, likeliest.tolist(), strict=True):
                reading.likeliest[place] = token
    reading.tokens, reading.forwards = tally.work.positions, tally.work.forwards
    return reading


def _batches(questions: Many[Ids], begun: int, capacity: int) -> list[tuple[list[int], int]]:
    """Return the places of questions, sorted by their tokens, that are in memory together, and their positions.

    At most `capacity` positions, or one question.
    """
    batches: list[tuple[list[int], int]] = []
    last: Ids = ()
    # In the order of tuples no earlier text shares a longer prefix with one than its predecessor.
    for place in sorted(range(len(questions)), key=lambda place: questions[place]):
        text = questions[place]
        new = len(text) - _shared(last, text) + begun - 1
        if batches and batches[-1][1] + new <= capacity:
            places, held = batches[-1]
            places.append(place)
            batches[-1] = places, held + new
        else:
            batches.append(([place], len(text) + begun - 1))
        last = text
    return batches


def _states(trees: TokenTrees, questions: Many[Ids], begun: Many[Ids]) -> dict[Ids, Tensor]:
    """Return states [questions, hidden] after sorted questions with each of `begun` behind them.

    A tree for each of the texts that differ soon after what all share; what a tree has beyond `WIDTH` waits for the
    next forward.
    """
    common: Ids = ()
    if not trees.whole_texts:
        common = questions[0][: min(_shared(questions[0], questions[-1]), len(questions[0]) - 1)]
    waiting = [(trees.new_tree(common), parts) for parts in _parts(questions, len(common), len(begun))]
    after: dict[int, Tensor] = {}
    for turn in range(max(len(parts) for _, parts in waiting)):
        asked = [(tree, parts[turn]) for tree, parts in waiting if turn < len(parts)]
        paths = [(tree, [questions[place] + ids for place in part for ids in begun]) for tree, part in asked]
        found = trees.states(paths).view(-1, len(begun), trees.base.head.in_features)
        after.update(zip((place for _, part in asked for place in part), found, strict=True))
    for tree, _ in waiting:
        tree.prune(common)
    trees.free_prefix(common)
    states = torch.stack([after[place] for place in range(len(questions))])
    return {ids: states[:, number] for number, ids in enumerate(begun)}


def _parts(questions: Many[Ids], common: int, begun: int) -> list[list[list[int]]]:
    """Return by tree, and in it by forward, the places of sorted questions that begin with `common` equal tokens."""
    trees: list[list[list[int]]] = []
    last: Ids = ()
    held = 0
    for place, text in enumerate(questions):
        shared = _shared(last, text)
        new = len(text) - shared + begun - 1
        if not trees or shared < common + ALIKE:
            trees.append([[place]])
            held = new - common
        elif held + new > WIDTH:
            trees[-1].append([place])
            held = new
        else:
            trees[-1][-1].append(place)
            held += new
        last = text
    return trees


def _shared(one: Ids, other: Ids) -> int:
    """How many tokens both begin with."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


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
