"""What the author of a data source or a row filter writes; imports no torch.

Groups of entry points: `alignbench.data` for sources, `alignbench.filters` for filters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from alignbench.api.config import API, Settings, Split
from alignbench.errors import DataError
from alignbench.rows import Row, Text


class Source(ABC):
    """Where rows come from. It reads; it never tokenises, filters by length or shuffles.

    Law: equal (config, bytes read, split, seed) give equal rows in equal order, and a larger `limit` only
    adds rows at the end.
    """

    api: ClassVar[int] = API
    owns_splits: ClassVar[bool] = False
    """True where `rows` has validation and test rows of its own; else they are split off the train rows."""

    Config: ClassVar[type[Settings]] = Settings
    """Its fields in a recipe; an own one is an inner class that inherits `Settings`."""

    def __init__(self, config: Settings | None = None, *, root: Path = Path()):
        self.config: Any = self.Config() if config is None else config
        self.root = root
        """The folder that relative paths of the recipe start from."""
        self.dropped: Counter[str] = Counter()
        """Rows that could be read but not used, by reason."""
        self.facts: dict[str, Any] = {}
        """What the record says about the source once it is read: files, hashes, what was tolerated."""

    @abstractmethod
    def view(self) -> type[Row] | None:
        """Return the richest view its rows have, from a quick look at the first; None where all must be read."""

    @abstractmethod
    def rows(self, split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        """Yield at most `limit` rows, without token ids. The ids of the rows are unique.

        Raises DataError, with every bad row (the first 20 and a total), once all rows are read.
        """

    def texts(self, split: Split, limit: int | None, seed: int) -> Iterator[Text]:
        """Yield at most `limit` plain texts: the rows, unless the source keeps its text elsewhere."""
        for row in self.rows(split, limit, seed):
            if not isinstance(row, Text):
                what = f"data.pretraining: the source has {type(row).__name__} rows and no plain text"
                raise DataError(what, "name a source of rows with the field `text`")
            yield row


class RowFilter(ABC):
    """Decides which rows stay, before the split and before any token is counted."""

    api: ClassVar[int] = API
    root: Path = Path()
    """The folder that relative paths of the recipe start from."""

    Config: ClassVar[type[Settings]] = Settings
    """Its fields in a recipe; an own one is an inner class that inherits `Settings`."""

    def __init__(self, config: Settings | None = None):
        self.config: Any = self.Config() if config is None else config
        self.counts: Counter[str] = Counter()
        """Rows dropped or changed, by reason: goes into the record."""
        self.cost: Counter[str] = Counter()
        """What it computed: judge_calls, tokens and flops. Goes into the record, and is part of no label's costs;
        seconds are left out, since equal inputs give an equal record."""

    def open(self, models: Any) -> None:  # noqa: B027  (most filters need no model)
        """Load what filtering needs; `models` is an `alignbench.api.judge.Models`."""

    @abstractmethod
    def keep(self, row: Row) -> Row | None:
        """Return the row, changed where the filter changes rows, or None to drop it; count why."""

    def keep_all(self, rows: Sequence[Row]) -> list[Row | None]:
        """Do the same for several rows, which a filter with a model does faster."""
        return [self.keep(row) for row in rows]
