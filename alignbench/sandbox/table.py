"""The shared table of the sandbox: rows with a prompt, K answers to it, and an annotator's ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, TypedDict

from . import answers as behaviour
from . import prompts
from .annotators import ANNOTATORS, annotate
from .chats import Message, question

Split = Literal["train", "validation", "test"]


# Share of the answers by a careful writer; the others are of the base's mixture.
CAREFUL = 0.15


class Row(TypedDict):
    """One row of the table; ranks belong to the answers in order, 1 is best, equal ranks are ties."""

    id: str
    user: str
    prompt: list[Message]
    answers: list[str]
    ranks: list[int]
    annotator: str
    group: str
    family: str
    topic: str
    unseen: bool


def rows(split: Split, count: int, seed: int = 0, *, families: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the first `count` rows of a split, as dictionaries: id, user, prompt (chat messages), answers (K = 4..9
    texts, all different), ranks (1 best, ties possible), annotator, group, family, topic, unseen.

    Laws: equal arguments give equal rows; a larger count only adds rows at the end; no user text of one split
    occurs in another; no prompt occurs twice unless its family is exhausted; topics marked `unseen` come in
    "test" only. `families` draws from these families alone; "foreign" (requests in the toy language) comes
    only when named.
    """
    if split not in prompts.SPLITS:
        raise ValueError(f"no split {split!r}; there are: {', '.join(prompts.SPLITS)}")
    chosen = tuple(families) if families is not None else None
    known: set[str] = set()
    for index in range(count):
        rng = Random(f"row|{split}|{seed}|{index}|{chosen}")
        tries = 0
        while True:
            family = prompts.draw_family(rng, chosen)
            prompt = prompts.draw(rng, family, (split,), unseen=split == "test")
            text, tries = question(prompt), tries + 1
            if text not in known or tries == 50:
                break
        known.add(text)
        situation = prompts.read(prompt)
        assert situation is not None, prompt
        wanted, drawn = rng.randint(4, 9), dict[str, None]()
        for _ in range(200):
            author = behaviour.careful if rng.random() < CAREFUL else behaviour.draw
            drawn[author(rng, situation)] = None
            if len(drawn) == wanted:
                break
        annotator = rng.choice(list(ANNOTATORS))
        texts = list(drawn)
        yield {
            "id": f"{split}-{seed}-{index}",
            "user": f"{split}-user-{rng.randrange(400)}",
            "prompt": prompt,
            "answers": texts,
            "ranks": annotate(prompt, texts, annotator, f"{split}|{seed}|{index}"),
            "annotator": annotator,
            "group": ANNOTATORS[annotator].group,
            "family": family,
            "topic": situation.topic,
            "unseen": prompts.unseen(situation),
        }
