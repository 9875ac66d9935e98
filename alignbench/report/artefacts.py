"""The files next to `results.json`: prompts, samples, training logs. A missing file is not an error."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from alignbench import layout
from alignbench.results import CellResult
from alignbench.rows import Messages

PROMPTS = f"{layout.EVALUATION}/{layout.PROMPTS}"
SCORES = f"{layout.EVALUATION}/{layout.SCORES}"
PREFERENCES = f"{layout.EVALUATION}/{layout.PREFERENCES}"
FIGURES = f"{layout.EVALUATION}/{layout.FIGURES}"


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Place = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of a policy."""

    prompt_id: str
    text: str
    finished: bool


@dataclass(frozen=True)
class Curve:
    """One logged number of one cell: a value for each step at which it was finite."""

    seed: int
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """`alignbench.api.metric.Figure`, read from its file."""

    kind: Literal["histogram", "words", "map"]
    title: str
    description: str
    data: dict[str, list[Share] | dict[str, Share] | list[tuple[Place, Place]]]
    edges: list[Place] = field(default_factory=list)


_FIGURE = TypeAdapter(Figure)


def prompts(run: Path) -> dict[str, Messages]:
    """Return the evaluation prompts by id, in order; empty where there is no file."""
    found = {}
    for line in _lines(run / PROMPTS):
        messages = line.get("prompt")
        if isinstance(messages, list):
            found[str(line.get("id"))] = tuple(turn for turn in messages if isinstance(turn, dict))
    return found


def samples(run: Path, cell: CellResult, temperature: float | None = None) -> dict[str, Sample]:
    """Return a cell's first answer to each prompt at `temperature`, by prompt id; empty where they cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = inside(run, cell.samples)
    if file is None:
        return {}
    try:
        names = set(pq.read_schema(file).names)
        wanted = [
            name for name in ("temperature", "prompt_id", "sample", "text", "finished") if name in names
        ]
        rows = pq.read_table(file, columns=wanted).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    found: dict[str, Sample] = {}
    for row in sorted(rows, key=lambda row: row.get("sample") or 0):
        if row.get("temperature") not in (None, temperature):
            continue
        key = str(row.get("prompt_id"))
        if key not in found:
            found[key] = Sample(key, str(row.get("text") or ""), row.get("finished") is not False)
    return found


def scores(run: Path, judge: str, seeds: Collection[int]) -> dict[tuple[str, int], dict[str, float]]:
    """Return a judge's scores of the first answers at some seeds: (label, seed) -> prompt id -> score."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for label, seed, prompt, score in _of_judge(
        run / SCORES, judge, seeds, "label", "seed", "prompt_id", "score"
    ):
        found.setdefault((label, seed), {})[prompt] = score
    return found


def preferences(
    run: Path, judge: str, seeds: Collection[int]
) -> dict[tuple[str, str, int], dict[str, float]]:
    """Return a judge's preferences between first answers at some seeds: (a, b, seed) -> prompt id -> preference for a.

    Above one half, a is better. Each two labels occur in one order only.
    """
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for a, b, seed, prompt, preference in _of_judge(
        run / PREFERENCES, judge, seeds, "a", "b", "seed", "prompt_id", "preference"
    ):
        if (b, a, seed) not in found:
            found.setdefault((a, b, seed), {})[prompt] = preference
    return found


def _of_judge(file: Path, judge: str, seeds: Collection[int], *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield a judge's rows about first answers at some seeds, those whose last column is a finite number.

    None where the file cannot be read. A large comparison has millions of rows, and a page needs one seed of them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not file.is_file() or not seeds:
        return
    only = [("judge", "=", judge), ("sample", "=", 0), ("seed", "in", list(seeds))]
    try:
        table = pq.read_table(file, columns=list(columns), filters=only)
        table = table.filter(pc.is_finite(table[columns[-1]]))  # pyright: ignore[reportAttributeAccessIssue]
    except (OSError, pa.ArrowException):
        return
    yield from zip(*(table[name].to_pylist() for name in columns), strict=True)


def figures(run: Path) -> list[Figure]:
    """Return the metrics' figures; a figure that cannot be read is left out."""
    file = inside(run, FIGURES)
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file else []
    except (OSError, ValueError, RecursionError):
        return []
    kept = []
    for one in found if isinstance(found, list) else ():
        try:
            kept.append(_FIGURE.validate_python(one))
        except ValidationError:
            continue
    return kept


def curves(run: Path, cell: CellResult) -> dict[str, Curve]:
    """Return a cell's training curves by name; empty where there are none."""
    file = inside(run, cell.log)
    points: dict[str, list[tuple[float, float]]] = {}
    for line in _lines(file) if file else ():
        if (step := _finite(line.get("step"))) is None:
            continue
        for name, value in line.items():
            if name != "step" and (number := _finite(value)) is not None:
                points.setdefault(name, []).append((step, number))
    return {name: Curve(cell.seed, *zip(*found, strict=True)) for name, found in points.items()}


def inside(run: Path, relative: str | None) -> Path | None:
    """Return the file that a record names, or None where it is missing or outside the run's folder."""
    if not relative or "\0" in relative:
        return None
    file = (run / relative).resolve()
    return file if file.is_relative_to(run.resolve()) and file.is_file() else None


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; a last line torn by a kill is passed over."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.split("\n"):
        try:
            value = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _finite(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
