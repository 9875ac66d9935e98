"""The append-only journal of people's rankings: a ranking is on the disk before it is acknowledged.

One JSON object a line. A later line for the same rater, item and round replaces the one before it, which
stays in the file. A line that a killed process left half written was never confirmed; it is cut off when the
journal is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alignbench import layout, store
from alignbench.errors import Problem, StorageError

NOTE = 4000
"""Characters of a note, at most."""


class Annotation(BaseModel):
    """One rater's ranking of one item, aligned with the item's answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ticket: str = Field(min_length=8, max_length=64)
    """Given by the page, once for each save: the same ticket twice is the same annotation, written once."""
    rater: str = Field(min_length=1, max_length=80)
    item: str = Field(min_length=1, max_length=64)
    round: int = Field(default=0, ge=0, le=1)
    """0 for the first time, 1 for the item shown again."""
    ranks: tuple[int, ...] = Field(min_length=1, max_length=99)
    """1 is best, equal ranks are ties."""
    shown: tuple[int, ...] = ()
    """The places of the answers in the order in which they stood on the page."""
    scores: tuple[int | None, ...] = ()
    """From 1 to 7 for each answer, where it was asked."""
    flags: tuple[tuple[str, ...], ...] = ()
    note: str = Field(default="", max_length=NOTE)
    seconds: float = Field(default=0.0, ge=0, le=86400, allow_inf_nan=False)
    at: str = Field(default="", max_length=40)
    automatic: bool = False
    """Written by alignbench because all answers are the same text."""

    @model_validator(mode="after")
    def _is_whole(self) -> Annotation:
        places = len(self.ranks)
        if min(self.ranks) != 1 or set(self.ranks) - set(range(1, places + 1)):
            raise ValueError("ranks begin at 1 and are no larger than the number of answers")
        if self.shown and sorted(self.shown) != list(range(places)):
            raise ValueError("shown names every answer once")
        if self.scores and len(self.scores) != places:
            raise ValueError("one score for each answer, or none at all")
        if any(score is not None and not 1 <= score <= 7 for score in self.scores):
            raise ValueError("a score is a whole number from 1 to 7")
        if self.flags and len(self.flags) != places:
            raise ValueError("one list of flags for each answer, or none at all")
        return self

    @property
    def place(self) -> tuple[str, str, int]:
        """What a later annotation of the same rater, item and round replaces."""
        return self.rater, self.item, self.round


class TakenError(ValueError):
    """The item was ranked already by this rater, perhaps in another tab."""


@dataclass(frozen=True, slots=True)
class _Line:
    end: int
    annotation: Annotation


def read(folder: Path) -> list[Annotation]:
    """Return the annotations that stand, in the order in which their items were first ranked.

    What was replaced is left out, and so is a last line that is not whole. Raises StorageError where any
    other line is damaged.
    """
    file = folder / layout.JOURNAL
    if not file.is_file():
        return []
    return list({line.annotation.place: line.annotation for line in _lines(file)}.values())


def digest(folder: Path) -> str:
    """Return a digest of everything that stands in the journal; "" where there is none."""
    found = [annotation.model_dump(mode="json") for annotation in read(folder)]
    return store.digest(found) if found else ""


def _lines(file: Path) -> Iterator[_Line]:
    end = 0
    with file.open("rb") as opened:
        for number, raw in enumerate(opened, 1):
            if not raw.endswith(b"\n"):
                return  # never confirmed
            end += len(raw)
            try:
                yield _Line(end, Annotation.model_validate_json(raw))
            except ValidationError as error:
                what = f"is damaged: {error.errors(include_url=False)[0]['msg']}"
                fix = "restore the file from a copy, or move the line elsewhere"
                raise StorageError(Problem(what, fix, file=str(file), line=number)) from error


class Journal:
    """The journal of one folder, open for writing by this process alone.

    Raises StorageError where another process holds it.
    """

    def __init__(self, folder: Path):
        self.file = folder / layout.JOURNAL
        self._guard = Lock()
        self._tickets: dict[str, Annotation] = {}
        self.annotations: dict[tuple[str, str, int], Annotation] = {}
        """What stands, by rater, item and round."""
        with store.storage_errors(self.file):
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.file, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise StorageError(
                f"another process writes to {self.file}", "use its page, or stop it first"
            ) from None
        self._end = 0
        for line in _lines(self.file):
            self._note(line.annotation)
            self._end = line.end
        os.ftruncate(self._handle, self._end)
        store.sync(folder)

    def append(self, annotation: Annotation, *, replace: bool = False) -> Annotation:
        """Write an annotation and return once it is on the disk; a ticket that is known is not written again.

        Raises TakenError where the item has an annotation and `replace` is not set, StorageError where the disk
        does not take it; the journal is then as before.
        """
        with self._guard:
            if (known := self._tickets.get(annotation.ticket)) is not None:
                if known.place != annotation.place:
                    raise TakenError("this ticket was used for another item")
                if (
                    known.model_copy(update={"at": annotation.at, "seconds": annotation.seconds})
                    != annotation
                ):
                    raise TakenError("this ticket was used for another annotation")
                return known
            if annotation.place in self.annotations and not replace:
                raise TakenError("you have ranked this item already, perhaps in another tab")
            line = (json.dumps(annotation.model_dump(mode="json"), ensure_ascii=False) + "\n").encode(
                "utf-8", "backslashreplace"
            )
            with store.storage_errors(self.file, needed=len(line)):
                try:
                    rest = memoryview(line)
                    while rest:
                        rest = rest[os.write(self._handle, rest) :]
                    os.fsync(self._handle)
                except BaseException:
                    os.ftruncate(self._handle, self._end)
                    raise
            self._end += len(line)
            self._note(annotation)
            return annotation

    def close(self) -> None:
        """Let other processes write."""
        os.close(self._handle)

    def _note(self, annotation: Annotation) -> None:
        self._tickets[annotation.ticket] = annotation
        self.annotations[annotation.place] = annotation

    def of(self, rater: str) -> list[Annotation]:
        """Return what stands of one rater, in the order in which the items were first ranked."""
        return [annotation for annotation in list(self.annotations.values()) if annotation.rater == rater]


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """Open a journal and close it at the end."""
    journal = Journal(folder)
    try:
        yield journal
    finally:
        journal.close()


def now() -> str:
    """Return the time as it stands in the journal: UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
