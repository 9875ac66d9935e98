"""Samples on disk: what each policy answered, and what every answer cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from alignbench.api.policy import Answer
from alignbench.layout import SAMPLES


def write(folder: Path, answers: Sequence[Answer]) -> None:
    """Write one row for each answer, in order; a column for each field of `Answer`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {field.name: [getattr(answer, field.name) for answer in answers] for field in fields(Answer)}
    pq.write_table(pa.table(columns), folder / SAMPLES)


def read(folder: Path) -> list[Answer]:
    """Read what `write` wrote."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / SAMPLES).to_pylist()
    return [Answer(**{**row, "ids": tuple(row["ids"])}) for row in rows]
