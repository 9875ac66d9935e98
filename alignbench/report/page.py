"""What every section of `report.html` is made from, and the tables that several of them show."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.report import figures
from alignbench.report import leaderboard as boards
from alignbench.report.leaderboard import Board, Column
from alignbench.results import Interval, Measured, Results


@dataclass(frozen=True)
class Page:
    """What every section is made from."""

    folder: Path
    results: Results
    board: Board

    def colour(self, label: str) -> int:
        """A label's number, by which it has one colour and one shape throughout; base is 0."""
        others = [one.label for one in self.results.labels if one.label != "base"]
        return others.index(label) + 1 if label in others else 0


@dataclass(frozen=True)
class Section:
    """One part of the page: `view` gathers what `templates/<id>.html` shows, or None where it has nothing."""

    id: str
    title: str
    view: Callable[[Page], Mapping[str, Any] | None]


def tables_of(page: Page, *wanted: tuple[str, Sequence[str]]) -> dict[str, Any] | None:
    """Return a table for each caption of which the run has a metric."""
    infos = boards.metric_infos(page.results)
    known = {
        name for label in page.results.labels for name, one in label.metrics.items() if one.value is not None
    }
    tables = []
    for caption, names in wanted:
        columns = [
            Column(name, infos[name], boards.places([page.results], name)) for name in names if name in known
        ]
        if columns:
            bars = {column.metric: bars_of(page, column) for column in columns}
            # What all headings have in common stands in the caption already.
            heads = [_shortened(column.metric) for column in columns]
            heads = [re.sub(r"\.tax\.(base|start)$", "", head) for head in heads]
            heads = [f"token {head}" if head[0].isdigit() else head for head in heads]
            tables.append(
                {"caption": caption, "columns": list(zip(columns, heads, strict=True)), "bars": bars}
            )
    return {"tables": tables, "rows": page.board.rows} if tables else None


def _shortened(metric: str) -> str:
    """A metric's part, with the judges it is told by: `harmless (self)`."""
    name, *judges = metric.split("@")
    return (name.partition(".")[2] or name) + (f" ({', '.join(judges)})" if judges else "")


def bars_of(page: Page, column: Column) -> dict[str, Any]:
    """Return a picture for each label that has the column's metric, all on one scale, base marked."""
    rows = [(row, row.measured(column)) for row in page.board.rows]
    known = [(row, one) for row, one in rows if one.value is not None]
    ends = [end for _, one in known for end in _ends(one)]
    if not ends:
        return {}
    span = (min(ends), max(ends))
    base = next((one.value for row, one in known if row.label.label == "base"), None)
    return {
        row.name: figures.bar(
            one.value or 0.0, one.ci95, one.method and one.method.ci95, span, page.colour(row.name), base
        )
        for row, one in known
    }


def _ends(one: Measured) -> tuple[float, ...]:
    intervals: list[Interval] = [ci for ci in (one.ci95, one.method and one.method.ci95) if ci]
    return (*([one.value] if one.value is not None else []), *(end for ci in intervals for end in ci))
