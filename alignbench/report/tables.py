"""The comparison as a Markdown table, and as a long table for CSV and JSON."""

from __future__ import annotations

import csv as comma_separated
import io
import re
from collections.abc import Iterator
from typing import Any

from alignbench.report import decoding, text
from alignbench.report.leaderboard import (
    PRICES,
    Column,
    Leaderboard,
    Row,
    leaderboard,
    prices,
    start_of,
)
from alignbench.report.metrics import metric_infos
from alignbench.results import Estimate, Measured, Results

COLUMNS = (
    *("run", "label", "method", "version", "start", "status", "reason"),
    *("quantity", "temperature", "estimand", "judge", "value", "low", "high", "n", "unit", "missing"),
)
"""Of the long table: one line for each label and quantity."""


def markdown(results: Results) -> str:
    """Return a run's leaderboard as a GitHub table with its caption and notes."""
    return leaderboard_markdown(leaderboard(results))


def csv(results: Results) -> str:
    """Return every number of a run in one long table: a line for each label and quantity."""
    return leaderboard_csv(leaderboard(results))


def leaderboard_markdown(seen: Leaderboard) -> str:
    """Return a leaderboard as a GitHub table; text from data cannot end a cell or become markup."""
    head = [
        "label",
        "start",
        *(["T"] if seen.decoded else []),
        *(_cell(column.title) for column in seen.columns),
        *PRICES,
        "against its start",
    ]
    lines = [f"> Different: {_cell(one)}" for one in seen.differences]
    if lines:
        lines.append("")
    lines.append(_line(head))
    numeric = len(seen.columns) + len(PRICES) + seen.decoded
    lines.append(_line(["---", "---", *["---:"] * numeric, "---"]))
    for row in seen.rows:
        status = f"{row.status}: {row.reason}" if row.reason else row.status
        lines.append(
            _line(
                [
                    _cell(row.name),
                    _cell(start_of(row.label)),
                    *([row.temperature] if seen.decoded else []),
                    *(_measured(row, column) for column in seen.columns),
                    *(", ".join(price) for price in prices(row.label)),
                    _cell((row.verdict.short if row.verdict else "") if row.done else status),
                ]
            )
        )
    if seen.caption:
        lines += ["", seen.caption]
    if len(seen.runs) == 1 and seen.columns:
        lines += _temperatures(next(iter(seen.runs.values())), seen.columns[0])
    notes = [f"- {_cell(row.name)}: {_cell(note)}" for row in seen.rows for note in row.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _temperatures(results: Results, column: Column) -> list[str]:
    """Return the leading metric of every label at each temperature, as the lines of a table."""
    if not (settings := decoding.table(results, column.metric)):
        return []
    lines = [
        "",
        _line([_cell(f"{column.title} by temperature"), *(f"T {temperature:g}" for temperature in settings)]),
        _line(["---", *["---:"] * len(settings)]),
    ]
    for label in results.labels:
        if any(label.label in labels for labels in settings.values()):
            cells = (labels.get(label.label, Measured()) for labels in settings.values())
            lines.append(_line([_cell(label.label), *(text.estimate(one, column.places) for one in cells)]))
    if turned := [f"- {_cell(str(one))}" for one in decoding.reversals(results, column.metric)]:
        lines += ["", decoding.CHANGED, "", *turned]
    return lines


def leaderboard_csv(seen: Leaderboard) -> str:
    """Return a leaderboard's numbers as CSV. `'` precedes a cell that a spreadsheet would read as a formula."""
    out = io.StringIO()
    writer = comma_separated.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_safe(line[name]) for name in COLUMNS] for line in numbers(seen))
    return out.getvalue()


def numbers(seen: Leaderboard) -> Iterator[dict[str, Any]]:
    """Yield one record for each label and quantity: metrics under each estimand, cost of the label and its chain.

    A label that did not finish yields one record with its status and reason, and no quantity.
    """
    names = {id(results): run for run, results in seen.runs.items()}
    for row in seen.rows:
        label = row.label
        common: dict[str, Any] = dict.fromkeys(COLUMNS) | {
            "run": names[id(row.results)],
            "label": label.label,
            "method": label.method,
            "version": label.version,
            "start": start_of(label) or None,
            "status": row.status,
            "reason": row.reason or None,
        }
        if not row.done:
            yield common
            continue
        for metric, info in metric_infos(row.results).items():
            if (measured := label.metrics.get(metric)) is None:
                continue
            record = {**common, "quantity": metric, "unit": info.unit or None, "judge": info.judge}
            yield from _both(record, measured)
            for setting in row.results.settings:
                if metric in (columns := setting.labels.get(label.label, {})):
                    yield from _both({**record, "temperature": setting.temperature}, columns[metric])
        for scope, cost in (("own", label.cost.own), ("chain", label.cost.chain)):
            for what, value in cost:
                if value is not None:
                    yield {**common, "quantity": f"cost.{scope}.{what}", "value": value}


def _both(record: dict[str, Any], measured: Measured) -> Iterator[dict[str, Any]]:
    """Yield a metric's line under each estimand. Without a temperature it is the one the label is ranked at."""
    yield {**record, "estimand": measured.estimand, **_numbers(measured)}
    if measured.method:
        yield {**record, "estimand": "method", **_numbers(measured.method)}


def _measured(row: Row, column: Column) -> str:
    return text.estimate(row.measured(column), column.places)


def _numbers(one: Estimate) -> dict[str, Any]:
    low, high = one.ci95 or (None, None)
    return {"value": one.value, "low": low, "high": high, "n": one.n, "missing": one.missing or None}


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = text.line(value)
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    safe = text.line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", safe)
