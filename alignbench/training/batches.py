"""Which rows make up which optimiser step: one order for every method, whatever view it takes of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from typing import TypeVar

from alignbench.api.method import Rows
from alignbench.errors import DataError
from alignbench.rows import Row

View = TypeVar("View", bound=Row)

SPAN = 50
"""Steps whose rows are sorted by length together: long enough to fill batches evenly, short enough to mix."""


def epoch(rows: Rows[View], number: int, batch: int, seed: int) -> list[list[View]]:
    """Return the steps of one epoch, each with all views of `batch` rows, longest first.

    Law: the ids of a step depend only on (ids and lengths of the rows, number, batch, seed), so methods that
    read the same rows in different views get them in the same steps. Rows are drawn without
    replacement; rows of similar length share a step, and the incomplete step comes last.
    """
    views: dict[str, list[View]] = {}
    for row in rows.epoch(number):
        views.setdefault(row.id, []).append(row)
    order = sorted(views, key=lambda id: _draw(seed, "order", number, id))
    span = batch * max(1, min(len(order) // (4 * batch), SPAN))
    steps: list[list[str]] = []
    for start in range(0, len(order), span):
        like = sorted(order[start : start + span], key=lambda id: -views[id][0].length)
        steps += [like[at : at + batch] for at in range(0, len(like), batch)]
    steps.sort(key=lambda ids: (len(ids) < batch, _draw(seed, "steps", number, ids[0])))
    return [[view for id in ids for view in views[id]] for ids in steps]


def stream(rows: Rows[View], batch: int, seed: int, limit: int | None, skip: int = 0) -> Iterator[list[View]]:
    """Yield the rows of one step after another, over as many epochs as it takes to draw `limit` rows.

    With None it does not end. `skip` leaves out the first steps, and reads no epoch that lies before them.
    """
    table = size(rows)
    first, inside = divmod(skip, -(-table // batch))
    drawn = first * table
    for number in count(first):
        for at, step in enumerate(epoch(rows, number, batch, seed)):
            if limit is not None and drawn >= limit:
                return
            ids = list(dict.fromkeys(row.id for row in step))
            if limit is not None and drawn + len(ids) > limit:
                kept = set(ids[: limit - drawn])
                step = [row for row in step if row.id in kept]
            drawn += len(ids)
            if number > first or at >= inside:
                yield step


def cut(step: list[View], parts: int) -> Iterator[list[View]]:
    """Cut a step into at most `parts` micro-batches of similar size, in its order."""
    size = -(-len(step) // parts)
    for at in range(0, len(step), size):
        yield step[at : at + size]


def cut_evenly(step: list[View], sizes: list[float], capacity: float, most: int) -> Iterator[list[View]]:
    """Cut a step into as few micro-batches as `capacity` and `most` rows allow, in its order, of about equal size.

    A row that is larger than `capacity` is one by itself.
    """
    fewest = len(_ends(sizes, capacity, most))
    least, enough = min(capacity, sum(sizes) / fewest), capacity
    for _ in range(10):  # the smallest capacity that needs no more of them, to a thousandth
        middle = (least + enough) / 2
        least, enough = (least, middle) if len(_ends(sizes, middle, most)) == fewest else (middle, enough)
    begin = 0
    for end in _ends(sizes, enough, most):
        yield step[begin:end]
        begin = end


def _ends(sizes: list[float], capacity: float, most: int) -> list[int]:
    """Return where the parts end that hold as much as `capacity` allows, one after the other."""
    ends, begin, held = [], 0, 0.0
    for place, size in enumerate(sizes):
        if place > begin and (held + size > capacity or place - begin == most):
            ends.append(place)
            begin, held = place, 0.0
        held += size
    return [*ends, len(sizes)]


def size(rows: Rows[View]) -> int:
    """Return how many rows of the shared table an epoch holds, however many views each has.

    Raises DataError where there are none.
    """
    found = len({row.id for row in rows.epoch(0)})
    if not found:
        raise DataError("there are no training rows in this view", "see what the filters and the split left")
    return found


def _draw(seed: int, stream: str, epoch: int, id: str) -> bytes:
    # Keyed by the row and not by its place: a filter that drops one row leaves the order of the others.
    return hashlib.sha256(f"{seed}/{stream}/{epoch}/{id}".encode()).digest()
