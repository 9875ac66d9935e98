"""Which answers people see, who sees which, in what order, and which are shown twice: fixed before the first.

An item is one prompt with the distinct answers to it. The design is written once and read by the page, by
the judge `people` and by the report, because every estimate depends on how its prompts were chosen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from alignbench import layout, store
from alignbench.errors import Problem, RecipeError, StorageError
from alignbench.rows import Messages

SCHEMA = 1

Choice = Literal["sample", "differ", "pairs"]
CHOICES: Mapping[Choice, str] = {
    "sample": "a random sample of the evaluation prompts",
    "differ": "the prompts on which the answers differ most; differences are larger here than on all prompts",
    "pairs": "a random sample of the evaluation prompts, two labels each, every two labels equally often",
}
"""How prompts are chosen, in the words of the report."""

Question = Literal["score", "flags", "note"]
FLAGS = ("not helpful", "not honest", "harmful")
MOST_ANSWERS = 9
"""Answers on one page: each has a key of its own, from 1 to 9."""

BETWEEN = 5
"""Other items that a rater ranks, at least, before one is shown again."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer text, and who gave it: the labels are never sent to the page."""

    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt with its distinct answers."""

    id: str
    prompt: Messages
    answers: tuple[Shown, ...]
    prompt_id: str = ""
    seed: int | None = None
    everyone: bool = True
    """Whether every rater ranks it; otherwise the first who comes does."""
    known: tuple[int, ...] = ()
    """The ranks of a check with a known answer, aligned with `answers`; () for any other item."""


@dataclass(frozen=True, slots=True)
class Design:
    """What is labelled, and how it was chosen."""

    items: tuple[Item, ...]
    choice: Choice = "sample"
    prompts: int = 0
    """Prompts that were chosen."""
    of: int = 0
    """Prompts that they were chosen from."""
    seed: int = 0
    overlap: float = 1.0
    repeats: float = 0.0
    """Share of its items that each rater sees a second time."""
    ask: tuple[Question, ...] = ()
    """What is asked in addition to the ranking."""
    name: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def order(self, rater: str) -> list[Item]:
        """Return all items in the order of this rater, keyed by rater and item."""
        return sorted(self.items, key=lambda item: key(self.seed, "item", rater, item.id))

    def shown(self, rater: str, item: Item, round: int) -> list[int]:
        """Return the places of an item's answers in the order in which a rater sees them in this round."""
        places = range(len(item.answers))
        return sorted(places, key=lambda place: key(self.seed, "answer", rater, item.id, round, place))

    def repeated(self, rater: str) -> list[Item]:
        """Return the items that this rater sees twice: no check, none without a choice, and none of the last.

        `BETWEEN` others come before an item is seen again, as far as there are so many.
        """
        order = [item for item in self.order(rater) if len(item.answers) > 1]
        fit = [item for item in order if not item.known]
        count = round(self.repeats * len(fit))
        early = [item for item in order[:-BETWEEN] if not item.known]
        chosen = early if len(early) >= count else fit[:count]
        return sorted(chosen, key=lambda item: key(self.seed, "again", rater, item.id))[:count]


def key(*parts: object) -> str:
    """Return what to sort by for an order that looks random and is the same every time."""
    return store.digest([str(part) for part in parts])


def item(
    prompt: Messages,
    answers: Mapping[str, str] | Sequence[str],
    *,
    prompt_id: str = "",
    seed: int | None = None,
    known: Sequence[int] = (),
) -> Item:
    """Return an item; labels with the same answer share one place. `answers`: text by label, or texts."""
    pairs = answers.items() if isinstance(answers, Mapping) else (("", text) for text in answers)
    labels: dict[str, list[str]] = {}
    for label, text in pairs:
        labels.setdefault(text, []).extend([label] if label else [])
    shown = tuple(Shown(text, tuple(names)) for text, names in labels.items())
    turns = [dict(turn) for turn in prompt]
    id = store.digest([turns, [one.text for one in shown], seed, list(known)])[:16]
    return Item(id, prompt, shown, prompt_id, seed, known=tuple(known))


Answers = Mapping[str, Mapping[str, Mapping[int, str]]]
"""Prompt id -> label -> seed -> text."""


def of_run(
    prompts: Mapping[str, Messages],
    answers: Answers,
    *,
    count: int,
    choice: Choice = "sample",
    most: int = MOST_ANSWERS,
    overlap: float = 1.0,
    seed: int = 0,
    spread: Mapping[str, float] | None = None,
    **more: Any,
) -> Design:
    """Return the design for a run's answers: `count` prompts, at every seed, all labels side by side.

    `spread` says for `differ` how far the answers to a prompt lie apart; without it distinct texts are
    counted. Where there are more than `most` labels, each page shows as many, every two labels about equally
    often over the pages; `pairs` shows two.
    """
    ids = [id for id in prompts if id in answers]
    drawn = sorted(ids, key=lambda id: key(seed, "prompt", id))
    if choice == "differ":
        apart = spread or {
            id: float(len({t for of in answers[id].values() for t in of.values()})) for id in ids
        }
        drawn.sort(key=lambda id: -apart.get(id, 0.0))
    chosen = drawn[:count]
    met: Counter[tuple[str, str]] = Counter()
    items = []
    for id in chosen:
        for at in dict.fromkeys(seed for of in answers[id].values() for seed in of):
            texts = {label: of[at] for label, of in answers[id].items() if at in of}
            labels = _together(list(texts), 2 if choice == "pairs" else most, met, seed=(seed, id, at))
            items.append(item(prompts[id], {label: texts[label] for label in labels}, prompt_id=id, seed=at))
    return Design(tuple(shared(items, overlap, seed)), choice, len(chosen), len(ids), seed, overlap, **more)


def shared(items: Iterable[Item], overlap: float, seed: int) -> list[Item]:
    """Return the items, a share of `overlap` of them for everyone, checks always."""
    items = list(items)
    free = sorted((one for one in items if not one.known), key=lambda one: key(seed, "everyone", one.id))
    everyone = {one.id for one in free[: round(overlap * len(free))]}
    return [Item(**{**_fields(one), "everyone": bool(one.known) or one.id in everyone}) for one in items]


def _together(labels: list[str], most: int, met: Counter[tuple[str, str]], *, seed: Any) -> list[str]:
    """Return at most `most` labels that have met least so far, and count that they meet."""
    if len(labels) > most:
        pairs = list(combinations(labels, 2))
        first = min(pairs, key=lambda pair: (met[pair], key(seed, *pair)))
        chosen = list(first)
        while len(chosen) < most:
            rest = [label for label in labels if label not in chosen]

            def often(label: str, chosen: list[str] = chosen) -> tuple[int, str]:
                return sum(met[_pair(labels, label, other)] for other in chosen), key(seed, label)

            chosen.append(min(rest, key=often))
        labels = [label for label in labels if label in chosen]
    met.update(combinations(labels, 2))
    return labels


def _pair(labels: list[str], a: str, b: str) -> tuple[str, str]:
    return (a, b) if labels.index(a) < labels.index(b) else (b, a)


HALF = "holds a lone surrogate, which is not a character"


def half_character(value: Any, path: str = "") -> str | None:
    """Return the path of the first text in JSON values that is not a text in UTF-8; None where all are."""
    if isinstance(value, str):
        return None if value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value) else path
    if isinstance(value, Mapping):
        members = [
            (f"{path}.{name}" if name.isprintable() else path, [name, one]) for name, one in value.items()
        ]
        members = [(where, one) for where, both in members for one in both]
    else:
        members = [
            (f"{path}[{n}]", one) for n, one in enumerate(value if isinstance(value, (list, tuple)) else ())
        ]
    return next((found for where, one in members if (found := half_character(one, where)) is not None), None)


def write(design: Design, folder: Path) -> None:
    """Write the design into `folder`, whole or not at all."""
    store.write_json(folder / layout.DESIGN, {"schema": SCHEMA, **asdict(design)})


def read(folder: Path) -> Design:
    """Return the design in `folder`. Raises RecipeError where there is none, StorageError where it is broken."""
    file = folder / layout.DESIGN
    if not file.is_file():
        raise RecipeError(f"{folder} holds no labels of people", "begin with: alignbench label RUN")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.pop("schema") != SCHEMA:
            raise RecipeError(Problem("was written by another version of alignbench", file=str(file)))
        items = tuple(_item(one) for one in record.pop("items"))
        return Design(**{**record, "items": items, "ask": tuple(record["ask"])})
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            Problem(f"is damaged: {error}", "restore it; the journal next to it needs it", file=str(file))
        ) from error


def _item(record: Mapping[str, Any]) -> Item:
    shown = tuple(Shown(one["text"], tuple(one["labels"])) for one in record["answers"])
    more = {"answers": shown, "prompt": tuple(record["prompt"]), "known": tuple(record["known"])}
    return Item(**{**record, **more})


def _fields(one: Item) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Item.__slots__}
