"""Reads a recipe's sources, filters their rows and divides them into splits, before any token is counted."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from alignbench import plugins
from alignbench.api.config import Split
from alignbench.api.data import RowFilter, Source
from alignbench.data.fidelity import answers
from alignbench.data.split import order_of, prompt_key, split_of
from alignbench.errors import DataError
from alignbench.recipe import configs
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import CONVERSATION, PROMPT, Named, Recipe
from alignbench.rows import Pair, Prompt, Ranking, Row, Text, UnpairedPreference

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CHUNK = 1024
"""Rows that are worked on together."""

Progress = Callable[[str, int], object]
"""Called with what is being done, and to how many rows it has been done."""


@dataclass
class Pool:
    """The usable rows of each split, in the order in which a limit takes them; and counts of the others."""

    view: type[Row] = Row
    rows: dict[Split, list[Row]] = field(default_factory=dict)
    read: int = 0
    usable: int = 0
    grouped: int = 0
    """Usable rows that have what `data.split.by` names."""
    dropped: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    """Rows that repeat an earlier row."""
    conflicts: int = 0
    """Rows with the prompt and answers of an earlier row and another label."""
    sources: dict[str, Any] = field(default_factory=dict)
    filters: list[dict[str, Any]] = field(default_factory=list)


def gather(recipe: Recipe, root: Path, progress: Progress, models: Any = None) -> Pool:
    """Return the recipe's rows. Where it sets a limit, memory holds few more rows than that.

    `models` is what filters may read with: see `alignbench.api.judge.Models`.

    Raises DataError where rows cannot be read or differ in kind.
    """
    data = recipe.data
    filters = [(named.name, _open_filter(named, root, models)) for named in data.filters]
    pool, known = Pool(), dict[int, int]()
    found: dict[Split, _First] = {split: _First(ample(recipe, split)) for split in SPLITS}
    shares = data.split
    reading: list[tuple[Split, Source]] = []
    main = open_source(data.train, root)
    pool.sources["train"] = {"name": data.train.name}
    for split in SPLITS:
        named = None if split == "train" else getattr(data, split)
        if named is not None:
            reading.append((split, open_source(named, root)))
            pool.sources[split] = {"name": named.name}
            shares = shares.model_copy(update={split: 0.0})
        elif split == "train" or main.owns_splits:
            reading.append((split, main))

    for split, source in reading:
        limit = ample(recipe, split) if source.owns_splits else None
        rows = _checked(source.rows(split, limit, data.split.seed), split, pool, progress)
        for number, kept in enumerate(_filtered(rows, filters), start=1):
            if kept is None:
                continue
            if reason := useless(kept):
                pool.dropped[reason] += 1
                continue
            pool.grouped += data.split.by in (CONVERSATION, PROMPT) or data.split.by in kept.extra
            pool.usable += 1
            _compare(kept, known, pool)
            own = source.owns_splits or source is not main
            # A source with splits of its own has mixed its rows; others may be sorted by anything.
            order = (number, "") if source.owns_splits else order_of(kept, data.split.seed)
            found[split if own else split_of(kept, shares)].add(order, kept)
        pool.read += source.dropped.total()
        pool.dropped.update(source.dropped)
        source.dropped.clear()
        pool.sources["train" if source is main else split].update(source.facts)
    if pool.usable and not pool.grouped:
        what = f"data.split.by: no row has the column '{data.split.by}'"
        raise DataError(what, f"name another, or leave it out: rows of one {CONVERSATION} stay together")
    for name, one in filters:
        pool.filters.append({"name": name, "counts": dict(sorted(one.counts.items()))})
        if one.cost:
            pool.filters[-1]["cost"] = dict(sorted(one.cost.items()))
    pool.rows = {split: first.rows() for split, first in found.items()}
    return pool


def useless(row: Row) -> str:
    """Return why no method could learn from the row, or an empty text."""
    texts = answers(row)
    if isinstance(row, Text):
        return "" if row.text.strip() else "empty text"
    if isinstance(row, Prompt) and not any(turn["content"].strip() for turn in row.prompt):
        return "empty prompt"
    if not all(text.strip() for text in texts):
        return "empty answer"
    if isinstance(row, Pair) and row.chosen == row.rejected:
        return "chosen equals rejected"
    if isinstance(row, Ranking):
        if not row.comparisons():
            return "all answers are tied"
        if len(set(zip(texts, row.ranks, strict=True))) > len(set(texts)):
            return "equal answers with different ranks"
    return ""


def wanted(recipe: Recipe, split: Split) -> int | None:
    """Return how many rows of a split are kept at most; None for all.

    A limit of the training rows limits the other splits too, in proportion, but leaves enough to evaluate on.
    """
    limit, shares = recipe.data.limit, recipe.data.split
    if limit is None or split == "train":
        return limit
    share = getattr(shares, split) / max(1 - shares.validation - shares.test, 0.01)
    evaluation, least = recipe.evaluation, recipe.training.batch
    if split == evaluation.split:
        least = evaluation.prompts
    elif split == "validation" and evaluation.chooses:
        least = max(least, evaluation.tuning_prompts)
    return max(math.ceil(limit * share), least)


def answered(recipe: Recipe, split: Split) -> int:
    """Return how many tokens the answers to a split's prompts may have; 0 where the evaluation asks none of them."""
    evaluation = recipe.evaluation
    asks = split in ("test", evaluation.split) or (split == "validation" and evaluation.chooses)
    return evaluation.sampling.max_new_tokens if asks else 0


def ample(recipe: Recipe, split: Split) -> int | None:
    """Return how many rows leave enough of a split, by all odds, once the allowed share of all is dropped."""
    most = wanted(recipe, split)
    if most is None:
        return None
    return math.ceil((most + 3 * math.sqrt(most)) / max(1 - recipe.data.allowed_drop, 0.1))


class _First:
    """The first rows by a sort key; never many more of them than asked for."""

    def __init__(self, count: int | None):
        self._count = count
        self._items: list[tuple[Any, Row]] = []

    def add(self, order: tuple[Any, ...], row: Row) -> None:
        self._items.append((order, row))
        if self._count is not None and len(self._items) > 2 * self._count + CHUNK:
            self._sort()

    def rows(self) -> list[Row]:
        self._sort()
        return [row for _, row in self._items]

    def _sort(self) -> None:
        self._items.sort(key=lambda item: item[0])
        if self._count is not None:
            del self._items[self._count :]


def _open_filter(named: Named, root: Path, models: Any) -> RowFilter:
    made: RowFilter = configs.make("filters", named.name, named.config)
    made.root = root
    made.open(models)
    return made


def _checked(rows: Iterator[Row], split: Split, pool: Pool, progress: Progress) -> Iterator[Row]:
    """The rows as they are read, all of one kind, counted."""
    for number, row in enumerate(rows, start=1):
        if number % CHUNK == 0:
            progress("reading rows", number)
        pool.read += 1
        if pool.view is Row:
            pool.view = type(row)
        elif type(row) is not pool.view:
            what = f"{type(row).__name__} rows for {split}, but {pool.view.__name__} rows before them"
            raise DataError(what, "give train, validation and test rows of one kind")
        yield row


def _filtered(rows: Iterator[Row], filters: Sequence[tuple[str, RowFilter]]) -> Iterator[Row | None]:
    """What the filters, one after the other, make of each row; None where one of them drops it."""
    while chunk := list(islice(rows, CHUNK)):
        found: list[Row | None] = list(chunk)
        for _, one in filters:
            there = [place for place, row in enumerate(found) if row is not None]
            for place, kept in zip(there, _keep(one, [chunk[place] for place in there]), strict=True):
                found[place] = kept
                chunk[place] = kept or chunk[place]
        yield from found


def _keep(one: RowFilter, rows: Sequence[Row]) -> list[Row | None]:
    with plugins.naming_row(rows, lambda place: one.keep_all([rows[place]])):
        return one.keep_all(rows)


def _compare(row: Row, known: dict[int, int], pool: Pool) -> None:
    """Count a row that repeats, or contradicts, an earlier one with the same prompt and answers."""
    texts = (row.text,) if isinstance(row, Text) else answers(row)
    order = sorted(range(len(texts)), key=texts.__getitem__)
    label: Any = None
    if isinstance(row, Ranking):
        label = [row.ranks[place] for place in order]
    elif isinstance(row, Pair):
        label = order
    elif isinstance(row, UnpairedPreference):
        label = row.desirable
    prompt = prompt_key(row.prompt) if isinstance(row, Prompt) else ""
    content, given = _number([prompt, [texts[place] for place in order]]), _number(label)
    if content in known:
        pool.duplicates += known[content] == given
        pool.conflicts += known[content] != given
    else:
        known[content] = given


def _number(value: Any) -> int:
    return int.from_bytes(sha256(json.dumps(value).encode()).digest()[:8], "big")
