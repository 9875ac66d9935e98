"""The prepared table: a Parquet file for each split and a record on disk, and views of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic

from alignbench import layout
from alignbench.api.config import Split
from alignbench.data.split import prompt_key
from alignbench.errors import DataError, StorageError
from alignbench.rows import (
    Demonstration,
    Draw,
    Pair,
    Prompt,
    Ranking,
    Row,
    Sequence,
    Text,
    UnpairedPreference,
    View,
    can_derive,
    derive,
)

_VIEWS: dict[str, type[Row]] = {
    view.__name__: view for view in (Ranking, Pair, UnpairedPreference, Demonstration, Prompt, Text)
}
NO_VIEW = "docs/data.md lists which rows each view is made of"
_JSON = ("prompt", "extra")
"""Fields kept as JSON text, since their shape is the source's."""


class Table:
    """The kept rows of a run, read when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.record: dict[str, Any] = json.loads((folder / layout.RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{folder} holds no prepared table: {error}", "prepare the data again"
            ) from error
        self.view: type[Row] = _VIEWS[self.record["view"]]
        self._kept: dict[str, list[Row]] = {}

    def rows(
        self,
        view: type[View],
        split: Split = "train",
        *,
        seed: int,
        draw: Draw = "one",
        given: Many[Row] | None = None,
    ) -> TableRows[View]:
        """Return the kept rows of a split in one view; plain text comes from `data.pretraining`.

        `given` rows, a method's own, replace the train split. Raises DataError where there is no such view.
        """
        if given is not None and split == "train":
            rows = list(given)
        else:
            rows = self.texts(split) if view is Text and self.view is not Text else self.kept(split)
        for kind in {type(row) for row in rows}:
            if not can_derive(kind, view):
                raise DataError(
                    f"the data has {kind.__name__} rows, which cannot be seen as {view.__name__}", NO_VIEW
                )
        return TableRows(rows, view, seed=seed, draw=draw)

    def prompts(self, split: Split = "test", count: int | None = None) -> list[Prompt]:
        """Return the first `count` different prompts of a split, with their token ids.

        A prompt's id is that of the first row that has it; the rows' order does not depend on which other
        rows there are.
        """
        first: dict[str, Prompt] = {}
        for row in self.kept(split):
            if not isinstance(row, Prompt):
                raise DataError(f"the data has {type(row).__name__} rows, which have no prompts", NO_VIEW)
            key = prompt_key(row.prompt)
            if key not in first:
                if len(first) == count:
                    break
                first[key] = derive(row, Prompt, seed=0)[0]
        return list(first.values())

    def texts(self, split: Split = "train") -> Many[Row]:
        """Return the pretraining text (`train` or `test`) in pieces of at most `max_length` tokens."""
        return self._read(layout.texts_file(split), Text)

    def kept(self, split: Split) -> list[Row]:
        """Return the rows of a split in the view of the source."""
        return self._read(layout.rows_file(split), self.view)

    def _read(self, name: str, view: type[Row]) -> list[Row]:
        if name not in self._kept:
            path = self.folder / name
            self._kept[name] = read_rows(path, view) if path.is_file() else []
        return self._kept[name]


class TableRows(Generic[View]):
    """The rows of one split in one view. `seen` and `on_read` are the proof of what was handed out."""

    def __init__(self, rows: Many[Row], view: type[View], *, seed: int, draw: Draw = "one"):
        self._rows, self._view, self._seed = rows, view, seed
        self._draw: Draw = draw
        self.seen: list[str] = []
        """The ids of the rows handed out, in order."""
        self.on_read: Callable[[list[str]], object] = lambda ids: None
        """Called with the ids of each epoch that is handed out."""

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[View]:
        return iter(self.epoch(0))

    def epoch(self, number: int) -> list[View]:
        """Return the rows as epoch `number` (from 0) sees them: a ranking draws another pair each epoch."""
        found = self._first if number == 0 else self._derive(number)
        ids = [row.id for row in found]
        self.seen.extend(ids)
        self.on_read(ids)
        return list(found)

    def sequences(self) -> list[Sequence]:
        """Return every sequence that the rows of any epoch have: of a ranking drawn as pairs, all its answers."""
        rows: list[Any] = list(self._first)
        if self._view is Pair:
            rows += [row for row in self._rows if isinstance(row, Ranking)]
        return list(dict.fromkeys(sequence for row in rows for sequence in row.sequences()))

    def digest(self) -> str:
        """Return the sha256 of the ids handed out so far."""
        return digest_of(self.seen)

    @cached_property
    def _first(self) -> list[View]:
        return self._derive(0)

    def _derive(self, epoch: int) -> list[View]:
        return [row for one in self._rows for row in self._of(one, epoch)]

    def _of(self, row: Row, epoch: int) -> tuple[View, ...]:
        return derive(row, self._view, seed=self._seed, epoch=epoch, draw=self._draw)


def open_table(folder: Path) -> Table:
    """Return the table that `prepare` wrote. Raises StorageError where there is none."""
    return Table(folder)


def digest_of(values: Iterable[Any]) -> str:
    """Return the sha256 of JSON values, one after the other."""
    seen = sha256()
    for value in values:
        seen.update(json.dumps(value, separators=(",", ":")).encode())
        seen.update(b"\n")
    return seen.hexdigest()


def write_rows(path: Path, rows: Many[Row], view: type[Row]) -> None:
    """Write rows of one view. Law: equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "length": pa.int32(),
        "preference": pa.float64(),
        "desirable": pa.bool_(),
        "answers": pa.list_(pa.string()),
        "ranks": pa.list_(pa.int32()),
        "preferences": pa.list_(pa.float64()),
        "ids": pa.list_(pa.int32()),
        "prompt_ids": pa.list_(pa.int32()),
        "response_ids": pa.list_(pa.int32()),
        "chosen_ids": pa.list_(pa.int32()),
        "rejected_ids": pa.list_(pa.int32()),
        "answer_ids": pa.list_(pa.list_(pa.int32())),
    }
    columns = {}
    for name in (field.name for field in fields(view)):
        values = [getattr(row, name) for row in rows]
        if name == "preferences" and not any(values):
            continue  # a table of plain ranks keeps the bytes, and so the key, that it always had
        if name in _JSON:
            values = [json.dumps(value, sort_keys=True, default=str) for value in values]
        columns[name] = pa.array(values, kinds.get(name, pa.string()))
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)


def read_rows(path: Path, view: type[Row]) -> list[Row]:
    """Read what `write_rows` wrote."""
    import pyarrow.parquet as pq

    rows = []
    for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        for name in _JSON:
            if name in columns:
                columns[name] = [json.loads(value) for value in columns[name]]
        for values in zip(*columns.values(), strict=True):
            rows.append(view(**{name: _frozen(value) for name, value in zip(columns, values, strict=True)}))
    return rows


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
