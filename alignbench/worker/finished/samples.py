"""Samples on disk: what each policy answered at each sampling temperature, and what every answer cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from alignbench.api.policy import Answer
from alignbench.layout import SAMPLES

Settings = Mapping[float | None, Sequence[Answer]]
"""Temperature -> answers; None where the policy ignores the temperature."""


def write(folder: Path, answers: Settings, name: str = SAMPLES) -> None:
    """Write one row for each answer, in order; a column for the temperature and for each field of `Answer`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [answer for of in answers.values() for answer in of]
    drawn = [temperature for temperature, of in answers.items() for _ in of]
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Answer)}
    pq.write_table(pa.table({"temperature": pa.array(drawn, pa.float64()), **columns}), folder / name)


def read(folder: Path, name: str = SAMPLES) -> dict[float | None, list[Answer]]:
    """Read what `write` wrote."""
    import pyarrow.parquet as pq

    found: dict[float | None, list[Answer]] = {}
    for row in pq.read_table(folder / name).to_pylist():
        temperature = row.pop("temperature", None)
        found.setdefault(temperature, []).append(Answer(**{**row, "ids": tuple(row["ids"])}))
    return found


def read_all(folder: Path) -> list[Answer]:
    """Return every sample of a cell, one temperature after the other."""
    return [answer for of in read(folder).values() for answer in of]
