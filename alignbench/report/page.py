"""The input of every section of `report.html`, and the tables that several sections share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.report import figures, metrics
from alignbench.report import leaderboard as leaderboards
from alignbench.report.leaderboard import Column, Leaderboard
from alignbench.results import Measured, Results


@dataclass(frozen=True)
class Page:
    """The input of every section."""

    folder: Path
    results: Results
    leaderboard: Leaderboard

    def colour(self, label: str) -> int:
        """Return a label's number, which sets its colour and shape on the whole page; base is 0."""
        others = [one.label for one in self.results.labels if one.label != "base"]
        return others.index(label) + 1 if label in others else 0


@dataclass(frozen=True)
class Section:
    """One section of the page: `view` returns what `templates/<id>.html` shows, or None to leave it out."""

    id: str
    title: str
    view: Callable[[Page], Mapping[str, Any] | None]


def tables_of(page: Page, *wanted: tuple[str, Sequence[str]]) -> dict[str, Any] | None:
    """Return a table for each caption that has a metric in this run."""
    infos = metrics.metric_infos(page.results)
    known = {
        name for label in page.results.labels for name, one in label.metrics.items() if one.value is not None
    }
    tables = []
    for caption, names in wanted:
        columns = [
            Column(name, infos[name], leaderboards.places([page.results], name))
            for name in names
            if name in known
        ]
        if columns:
            bars = {column.metric: bars_of(page, column) for column in columns}
            # The caption names what all headings have in common.
            heads = [_shortened(column.metric) for column in columns]
            heads = [re.sub(r"\.tax\.(base|start)$", "", head) for head in heads]
            heads = [f"token {head}" if head[0].isdigit() else head for head in heads]
            tables.append(
                {"caption": caption, "columns": list(zip(columns, heads, strict=True)), "bars": bars}
            )
    return {"tables": tables, "rows": page.leaderboard.rows} if tables else None


def _shortened(metric: str) -> str:
    """Return a metric's part with its judges: `harmless (self)`."""
    name, *judges = metric.split("@")
    return (name.partition(".")[2] or name) + (f" ({', '.join(judges)})" if judges else "")


def bars_of(page: Page, column: Column) -> dict[str, Any]:
    """Return a figure for each label that has the column's metric, all on one scale, with a line at base."""
    rows = [(row, row.measured(column)) for row in page.leaderboard.rows]
    known = [(row, one) for row, one in rows if one.value is not None]
    ends = [end for _, one in known for end in _ends(one)]
    if not ends:
        return {}
    span = (min(ends), max(ends))
    base = next((one.value for row, one in known if row.label.label == "base"), None)
    return {
        row.name: figures.bar(one.value or 0.0, one.ci95, span, page.colour(row.name), base)
        for row, one in known
    }


def _ends(one: Measured) -> tuple[float, ...]:
    return (*([one.value] if one.value is not None else []), *(one.ci95 or ()))
