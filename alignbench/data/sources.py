"""The built-in data sources: the sandbox, JSON lines, Parquet, and the Hugging Face hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from alignbench.api.config import Settings, Split
from alignbench.api.data import Source
from alignbench.data import columns, fields, jsonl
from alignbench.data.turns import RecordError, UselessRecordError
from alignbench.errors import DataError, Problem, first_line
from alignbench.recipe.named import READERS, check_exists, rows_in
from alignbench.rows import Ranking, Row, Text

SHOWN = 20
"""Bad rows that are listed; the others are counted."""

_SPLIT_IN_NAME = re.compile(r"(train|validation|valid|val|dev|test|eval)(?![a-z])")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A record and where it stands: `line` counts from 1, and `column` finds a field in the line."""

    file: str
    line: int
    fields: Mapping[str, Any]
    column: Callable[[str], int | None] = lambda field: None


class Problems:
    """Bad rows: the first ones and a count, raised together once all rows are read."""

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.total = 0

    def add(self, problem: Problem) -> None:
        """Add a problem."""
        self.total += 1
        if len(self.first) < SHOWN:
            self.first.append(problem)

    def raise_any(self) -> None:
        """Raise DataError if there are any."""
        if self.total:
            raise DataError(self.first, total=self.total)


class Mapped(Settings):
    """A source whose columns may have other names."""

    columns: dict[str, str | list[str] | None] = {}
    """Where a field is: `{prompt: [instruction, input], completion: output}`. A path such as
    `completions.response` goes through lists; the texts of several columns are joined; null leaves a column
    out."""

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, given: dict[str, str | list[str] | None]) -> dict[str, str | list[str] | None]:
        for field, sources in given.items():
            near = get_close_matches(field, fields.FIELDS, n=1, cutoff=0.85)
            if near and field not in fields.FIELDS and sources is not None:
                raise ValueError(f"there is no field '{field}'; did you mean '{near[0]}'?")
            if sources in ("", []):
                raise ValueError(f"'{field}' names no column; null leaves one out")
        return given


def read(
    records: Iterator[RawRow], problems: Problems, source: Source, split: Split, limit: int | None = None
) -> Iterator[Row]:
    """Yield the records of a source as rows, all of the first one's shape and with unique ids.

    All records are read and checked, also those beyond the limit; then their problems are raised.
    """
    mapping: columns.Columns = getattr(source.config, "columns", {})
    place = getattr(source.config, "path", None) or getattr(source.config, "id", "")
    line = partial(columns.as_yaml, source=f"{split}: {place}", given=mapping)
    shape: fields.Shape | None = None
    used: Counter[str] = Counter()
    misfits: set[str] = set()
    given, known = 0, dict[str, None]()
    file, unseen = "", columns.joined(mapping)
    for record in records:
        if unseen:
            file, unseen = record.file, unseen - columns.found(record.fields, unseen)
            known |= dict.fromkeys(record.fields)
        try:
            renamed = columns.rename(record.fields, mapping)
            shape = shape or fields.shape(renamed, line)
            row = fields.read(renamed, shape, line)
        except UselessRecordError as useless:
            source.dropped[str(useless)] += 1
            continue
        except RecordError as error:
            if shape is None and str(error) in misfits:
                problems.total += 1  # no row fits, each for the same reason
                continue
            misfits.add(str(error))
            for problem in error.problems:
                column = record.column(_column(problem.field, mapping)) if problem.field else None
                problems.add(replace(problem, file=record.file, line=record.line, column=column))
            continue
        used[row.id] += 1
        if used[row.id] > 1:
            row = replace(row, id=f"{row.id}.{used[row.id]}")
        given += 1
        if limit is None or given <= limit:
            yield row
    if file:
        for problem in columns.absent(unseen, mapping, [*known]):
            problems.add(replace(problem, file=file))
    problems.raise_any()


def _column(field: str, mapping: columns.Columns) -> str:
    """Return the column that a field, which may be a path into it, was read from."""
    top = re.split(r"[.\[]", field)[0]
    given = mapping.get(top) or top
    return (given if isinstance(given, str) else given[0]).split(".")[0]


class Sandbox(Source):
    """The embedded sandbox: rankings of 4 to 9 answers, and the text its model was pretrained on."""

    api = 2
    owns_splits = True

    class Config(Settings):
        """Only the size, where the recipe does not limit it."""

        rows: int = Field(1024, ge=1)
        """Rows of each split, where the recipe sets no `data.limit`."""
        families: list[str] | None = None
        """Kinds of prompts, such as `harm` and `disguised`; none: all, in the sandbox's own shares."""

    def view(self) -> type[Row]:
        return Ranking

    def rows(self, split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        from alignbench import sandbox

        count = self.config.rows if limit is None else limit
        records = (
            RawRow("sandbox", n, row)
            for n, row in enumerate(sandbox.rows(split, count, seed, families=self.config.families), start=1)
        )
        return read(records, Problems(), self, split)

    def texts(self, split: Split, limit: int | None, seed: int) -> Iterator[Text]:
        from alignbench import sandbox

        part = "train" if split == "train" else "heldout"
        count = self.config.rows if limit is None else limit
        for number, text in enumerate(sandbox.pretraining(part, count, seed)):
            yield Text(id=f"{part}-{seed}-{number}", text=text)


class Jsonl(Source):
    """JSON lines: one object on each line."""

    api = 2

    class Config(Mapped):
        """Where the rows are."""

        path: str
        """A file, or a folder whose files of this kind are read in the order of their names."""

    def view(self) -> type[Row] | None:
        return _view(
            (
                RawRow(name, line.number, line.record)
                for file, name in files_of(self.root, self.config.path, "jsonl")
                for line in jsonl.read(file, name, lambda problem: None, Counter())
            ),
            self,
        )

    def rows(self, split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        problems, tolerated = Problems(), Counter[str]()

        def records() -> Iterator[RawRow]:
            for file, name in files_of(self.root, self.config.path, "jsonl"):
                for line in jsonl.read(file, name, problems.add, tolerated):
                    yield RawRow(name, line.number, line.record, line.column)
                self.facts.setdefault("files", {})[name] = jsonl.digest(file)
            self.facts["tolerated"] = dict(sorted(tolerated.items()))

        return read(records(), problems, self, split, limit)


class Parquet(Source):
    """Parquet files whose columns have the same names; a problem's line is the row's number."""

    api = 2

    class Config(Mapped):
        """Where the rows are."""

        path: str
        """A file, or a folder whose files of this kind are read in the order of their names."""

    def view(self) -> type[Row] | None:
        return _view(
            (
                record
                for file, name in files_of(self.root, self.config.path, "parquet")
                for record in self._records(file, name, batch=16)
            ),
            self,
        )

    def rows(self, split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        def records() -> Iterator[RawRow]:
            for file, name in files_of(self.root, self.config.path, "parquet"):
                yield from self._records(file, name, batch=1024)
                self.facts.setdefault("files", {})[name] = jsonl.digest(file)

        return read(records(), Problems(), self, split, limit)

    @staticmethod
    def _records(file: Path, name: str, batch: int) -> Iterator[RawRow]:
        import pyarrow.parquet as pq

        with _opened(pq.ParquetFile, file, name) as table:
            rows = (row for rows in table.iter_batches(batch_size=batch) for row in rows.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield RawRow(name, number, row)


class Hub(Source):
    """A data set of the Hugging Face hub, as the `datasets` library reads it."""

    api = 2

    class Config(Mapped):
        """Which data set, and which part of it."""

        id: str
        """`owner/name`."""
        name: str | None = None
        """One of its configurations."""
        split: str = "train"
        """One of its splits; validation and test rows are split off it, unless the recipe names theirs."""
        revision: str | None = None
        """Branch, tag or commit."""

    def view(self) -> type[Row] | None:
        return None  # only the network knows

    def rows(self, split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        import datasets
        from datasets.exceptions import DatasetsError

        which = self.config
        try:
            table = datasets.load_dataset(which.id, which.name, split=which.split, revision=which.revision)
        except OSError as error:  # not found, no access, no network
            fix = "check the id, the network and your access to it, or name a local file"
            raise DataError(f"{which.id} could not be fetched: {first_line(error)}", fix) from error
        except (DatasetsError, ValueError, RuntimeError) as error:
            fix = "check the names of its configuration and split"
            raise DataError(f"{which.id} could not be read: {first_line(error)}", fix) from error
        self.facts.update(which.model_dump(exclude_none=True, exclude_defaults=True) | {"split": which.split})
        place = f"{which.id}[{which.split}]"
        records = (RawRow(place, number, dict(record)) for number, record in enumerate(table, start=1))
        return read(records, Problems(), self, split, limit)


def _view(records: Iterator[RawRow], source: Source) -> type[Row] | None:
    """Return the view of a source's first record; None where there is none.

    Raises DataError where it is not a row, or where no record has a column that the mapping names.
    """
    mapping: columns.Columns = source.config.columns
    line = partial(columns.as_yaml, source=source.config.path, given=mapping)
    first = next(records, None)
    if first is None:
        return None
    try:
        view = fields.shape(columns.rename(first.fields, mapping), line).view
    except RecordError as error:
        raise DataError(
            [replace(problem, file=first.file, line=first.line) for problem in error.problems]
        ) from error
    unseen = columns.joined(mapping) - columns.found(first.fields, columns.joined(mapping))
    while unseen and (record := next(records, None)) is not None:
        unseen -= columns.found(record.fields, unseen)
    if problems := columns.absent(unseen, mapping, [*first.fields]):
        raise DataError([replace(problem, file=first.file) for problem in problems])
    return view


def _opened(kind: Callable[[Path], Any], file: Path, name: str) -> Any:
    import pyarrow as pa

    try:
        return kind(file)
    except pa.ArrowException as error:
        with file.open("rb") as raw:
            what, fix = jsonl.other_format(raw.read(64))
        what = f"not a readable Parquet file: {what or first_line(error)}"
        raise DataError(Problem(what, fix or "write it again", file=name)) from error


def files_of(root: Path, given: str, kind: str) -> list[tuple[Path, str]]:
    """The files that a path stands for, each with its name in messages and in the record."""
    path = root / given
    check_exists(path, given, root)
    if path.is_file():
        return [(path, given)]
    files = [file for file in rows_in(path) if READERS[file.suffix] == kind]
    parts = {found[1] for file in files if (found := _SPLIT_IN_NAME.match(file.name))}
    if len(parts) > 1:
        what = f"the folder holds files of several splits ({', '.join(sorted(parts))})"
        raise DataError(
            Problem(what, "name a file each in data.train, data.validation, data.test", file=given)
        )
    return [(file, f"{given.rstrip('/')}/{file.name}") for file in files]
