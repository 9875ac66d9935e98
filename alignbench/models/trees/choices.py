"""The probabilities of a few options after a question; what questions share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.data.tokens import encode, spelled
from alignbench.errors import ModelError
from alignbench.models import meter
from alignbench.models.forward.memory import HELD, LOGITS, QUESTIONS, halving, kv_bytes, limit
from alignbench.models.trees.token_tree import TokenTrees
from alignbench.rows import Ids

if TYPE_CHECKING:
    from alignbench.models.forward.network import Network
    from alignbench.models.policy import ModelPolicy

MIN_SHARED = 8
"""Questions that share fewer tokens than this, behind what all share, are in trees of their own."""

WIDTH = {"cpu": 256, "cuda": 2048}
"""New positions of a tree in one forward: each attends to the others, or a mask hides them."""

FLOOR = 1024
"""Positions that are in memory together at least."""


@dataclass(frozen=True)
class Options:
    """The ways in which each option can be written after a question, as the tokenizer splits them."""

    variants: tuple[tuple[Ids, ...], ...]
    """By option; no two are equal."""

    @property
    def ways(self) -> list[Ids]:
        return [ids for of_one in self.variants for ids in of_one]

    @property
    def prefixes(self) -> list[Ids]:
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
    likeliest: list[int] = field(default_factory=list)
    """The likeliest token after each question, whether it belongs to an option or not."""


@torch.no_grad()
def read(policy: ModelPolicy, questions: Many[Ids], options: Options) -> Reading:
    """Return how likely each option is after each question, at temperature 1 over the full vocabulary.

    What questions share is computed once where the model supports token trees, but for a few tokens of questions
    that differ early and for what trees that are not in memory together share behind the beginning of all. An
    option that begins another one ("1" of "10") does not get the other's probability.
    """
    base, kind = policy.base, policy.base.device.type
    reading = Reading(torch.empty(len(questions), len(options.variants)), likeliest=[0] * len(questions))
    if not questions:
        return reading
    base.model.eval()
    trees = TokenTrees(policy)
    order = sorted(range(len(questions)), key=lambda place: questions[place])
    texts = [questions[place] for place in order]
    begins: Ids = ()
    if not trees.whole_texts:
        begins = texts[0][: min(_common(texts[0], texts[-1]), len(texts[0]) - 1)]
    held = kv_bytes(base) + base.head.in_features * base.dtype.itemsize
    capacity = max(limit(kind, QUESTIONS, HELD / 2) // held, FLOOR)

    def planned(texts: Many[Ids]) -> list[_Planned]:
        return list(_planned(texts, len(begins), len(options.prefixes), WIDTH[kind], capacity))

    batches = list(_batches(planned(texts), capacity))
    room = max(sum(one.positions for one in batch) for batch in batches)

    def answer(numbers: Many[int]) -> None:
        nonlocal trees, room
        some = [texts[number] for number in numbers]
        try:
            trees.reserve(len(begins) + room)
            after = _states(trees, begins, planned(some), some, options.prefixes)
            with base.using(policy), base.arithmetic():
                chances, likeliest = _of_each(base, after, options)
        except RuntimeError:  # where they did not fit, each half gets trees of its own
            trees, room = TokenTrees(policy), 0
            raise
        places = [order[number] for number in numbers]
        reading.probabilities[places] = chances.cpu()
        for place, token in zip(places, likeliest.tolist(), strict=True):
            reading.likeliest[place] = token

    with meter.metered(meter.Tally()) as tally:
        for batch in batches:
            for _ in halving([number for tree in batch for part in tree.parts for number in part], answer):
                pass
        trees.free_prefix(begins)
    reading.tokens = tally.work.positions
    return reading


@dataclass
class _Planned:
    """The questions of one tree."""

    parts: list[list[int]]
    """The numbers of the texts that are added to it, forward by forward."""
    positions: int
    """What it holds at the end, without the beginning of all."""


def _planned(texts: Many[Ids], begins: int, spellings: int, width: int, capacity: int) -> Iterator[_Planned]:
    """Yield the trees of sorted texts that have their first `begins` tokens in common.

    In the order of tuples no earlier text shares a longer prefix with one than its predecessor.
    """
    tree, held, last = _Planned([], 0), 0, ()
    for number, text in enumerate(texts):
        shared = _common(last, text)
        new = len(text) - shared + spellings - 1
        if not tree.parts or shared < begins + MIN_SHARED or tree.positions + new > capacity:
            if tree.parts:
                yield tree
            held = len(text) - begins + spellings - 1
            tree = _Planned([[number]], held)
        else:
            if held + new > width:
                tree.parts.append([])
                held = 0
            tree.parts[-1].append(number)
            held += new
            tree.positions += new
        last = text
    yield tree


def _batches(planned: Many[_Planned], capacity: int) -> Iterator[list[_Planned]]:
    """Yield trees that are in memory together: of at most `capacity` positions, or one."""
    batch: list[_Planned] = []
    for tree in planned:
        if batch and sum(one.positions for one in batch) + tree.positions > capacity:
            yield batch
            batch = []
        batch.append(tree)
    yield batch


def _states(
    trees: TokenTrees, begins: Ids, batch: Many[_Planned], texts: Many[Ids], prefixes: Many[Ids]
) -> dict[Ids, Tensor]:
    """Return states [texts of the batch, hidden] after its texts, tree by tree, with each of `prefixes` behind them."""
    grown = [(trees.new_tree(begins), tree.parts) for tree in batch]
    if trees.whole_texts:  # nothing waits for what an earlier forward computed
        grown = [(tree, [[number for part in parts for number in part]]) for tree, parts in grown]
    after: dict[int, Tensor] = {}
    for turn in range(max(len(parts) for _, parts in grown)):
        asked = [(tree, parts[turn]) for tree, parts in grown if turn < len(parts)]
        paths = [(tree, [texts[number] + ids for number in part for ids in prefixes]) for tree, part in asked]
        found = trees.states(paths).view(-1, len(prefixes), trees.base.head.in_features)
        after.update(zip((number for _, part in asked for number in part), found, strict=True))
    for tree, _ in grown:
        tree.prune(begins)
    states = torch.stack([after[number] for tree in batch for part in tree.parts for number in part])
    return {ids: states[:, place] for place, ids in enumerate(prefixes)}


def _common(one: Ids, other: Ids) -> int:
    """Return how many tokens both begin with."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def _of_each(base: Network, after: Mapping[Ids, Tensor], options: Options) -> tuple[Tensor, Tensor]:
    """Return probabilities [questions, options] from states [questions, hidden] after each beginning of an option.

    And the likeliest token [questions] after each question.
    """
    likeliest = torch.empty(0)
    chances: dict[Ids, Tensor] = {(): torch.zeros((), device=base.device)}
    rows = max(1, LOGITS[base.device.type] // base.vocabulary)
    for prefix, known in sorted(after.items()):
        following = sorted(
            {ids[: len(prefix) + 1] for ids in options.ways if ids[: len(prefix)] == prefix} - {prefix}
        )
        wanted = torch.tensor([ids[-1] for ids in following], device=base.device)
        parts, tops = [], []
        for part in known.split(rows):
            logits = base.logits(part)[:, : base.vocabulary]
            parts.append(logits.log_softmax(-1)[:, wanted])
            tops.append(logits.argmax(-1))
        likeliest = likeliest if prefix else torch.cat(tops)
        for ids, logps in zip(following, torch.cat(parts).T, strict=True):
            chances[ids] = chances[prefix] + logps

    def alone(ids: Ids) -> Tensor:
        # What another option begins with counts for that option.
        others = [chances[other].exp() for other in options.ways if other != ids and other[: len(ids)] == ids]
        return (chances[ids].exp() - sum(others)).clamp_min(0)

    chosen = torch.stack([sum(map(alone, of_one)) for of_one in options.variants], dim=1)  # pyright: ignore
    return chosen, likeliest
