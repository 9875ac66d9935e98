"""Which item a rater sees next, how many are left, and about how long they take."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from threading import Lock

from alignbench.label.design import BETWEEN, Design, Item
from alignbench.label.journal import Annotation, Journal, now

CLAIM = 1800.0
"""Seconds for which an item that is not for everyone is kept for the rater who sees it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One item in front of one rater."""

    item: Item
    round: int
    shown: list[int]


class Progress:
    """What each rater has ranked and has still to rank."""

    def __init__(self, design: Design, journal: Journal):
        self.design = design
        self.journal = journal
        self.items = {item.id: item for item in design.items}
        self._claims: dict[str, tuple[str, float]] = {}
        self._guard = Lock()

    def next(self, rater: str) -> Turn | None:
        """Return what the rater ranks next; None at the end. Items without a choice are written by the way.

        Raises StorageError where the disk does not take them.
        """
        with self._guard:
            while True:
                fresh, again = self._left(rater)
                due = [one for one in again if self._since(rater, one) >= BETWEEN or not fresh]
                if due:
                    return self.turn(rater, due[0], 1)
                if not fresh:
                    return None
                item = fresh[0]
                if len(item.answers) > 1:
                    if not item.everyone:
                        self._claims[item.id] = (rater, time.monotonic())
                    return self.turn(rater, item, 0)
                same = Annotation(
                    ticket=f"same-{item.id}-{rater}"[:64],
                    rater=rater,
                    item=item.id,
                    ranks=(1,),
                    shown=(0,),
                    at=now(),
                    automatic=True,
                )
                self.journal.append(same)

    def turn(self, rater: str, item: Item, round: int) -> Turn:
        """Return an item as this rater sees it."""
        return Turn(item, round, self.design.shown(rater, item, round))

    def before(self, rater: str, item: str | None = None, round: int = 0) -> Annotation | None:
        """Return the annotation that the rater gave before this one, or the last one; None where there is none."""
        given = [one for one in self.journal.of(rater) if not one.automatic and one.item in self.items]
        places = [one.place for one in given]
        at = (rater, item or "", round)
        given = given[: places.index(at)] if at in places else given
        return given[-1] if given else None

    def count(self, rater: str) -> dict[str, float | int | None]:
        """Return `done` and `total` items of the rater, repeats among them, and the `seconds` left, about."""
        fresh, again = self._left(rater)
        done = [one for one in self.journal.of(rater) if not one.automatic]
        left = sum(len(one.answers) > 1 for one in fresh)
        coming = {one.id for one in fresh}
        left += len(again) + sum(one.id in coming for one in self.design.repeated(rater))
        times = [one.seconds for one in done if one.seconds > 0]
        return {
            "done": len(done),
            "total": len(done) + left,
            "seconds": round(left * median(times)) if len(times) > 2 else None,
        }

    def _left(self, rater: str) -> tuple[list[Item], list[Item]]:
        """The items that the rater has not ranked, and those that are to be ranked again."""
        stands = self.journal.annotations
        taken = {place[1] for place in list(stands) if place[0] != rater and place[2] == 0}
        since = time.monotonic() - CLAIM
        taken |= {item for item, (who, at) in self._claims.items() if who != rater and at > since}
        fresh = [
            item
            for item in self.design.order(rater)
            if (rater, item.id, 0) not in stands and (item.everyone or item.id not in taken)
        ]
        again = [
            item
            for item in self.design.repeated(rater)
            if (rater, item.id, 0) in stands and (rater, item.id, 1) not in stands
        ]
        return fresh, again

    def _since(self, rater: str, item: Item) -> int:
        """How many other items the rater has ranked since this one."""
        places = [one.item for one in self.journal.of(rater) if not one.automatic]
        return len(places) - 1 - places.index(item.id)
