"""The comparison as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.report import text
from alignbench.report.board import Board, Column, Row, board, spent_tokens, start_of
from alignbench.results import Results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def show(results: Results, console: Console | None = None) -> None:
    """Print a run's leaderboard: a row for every label, those that did not finish with their reason."""
    from rich.console import Console

    draw(board(results), console or Console())


def draw(seen: Board, console: Console) -> None:
    """Print a board. Text from data is made visible and never read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for one in seen.unlike:
        console.print(Text(f"unlike: {text.line(one)}", style="yellow"))
    table = Table(
        box=SIMPLE_HEAD,
        title=Text(text.line(" and ".join(seen.runs)), style="bold"),
        caption=Text(seen.caption, style="dim"),
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    table.add_column("label", overflow="fold")
    for column in seen.columns:
        table.add_column(column.title, justify="right", min_width=6)
    table.add_column("time", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("against its start")
    for row in seen.rows:
        own = row.label.cost.own
        table.add_row(
            _name(row),
            *(_measured(row, column) for column in seen.columns),
            text.duration(own.train_seconds) if row.done else "",
            text.count(spent_tokens(own)) if row.done else "",
            _verdict(row),
        )
    console.print(table)
    for row in seen.rows:
        for note in row.notes:
            console.print(
                Text(f"  {text.line(row.name)}: ", style="bold") + Text(text.line(note), style="not bold")
            )


def _name(row: Row) -> Text:
    from rich.text import Text

    start = start_of(row.label)
    return Text(text.line(row.name), style="bold") + Text(
        f"\nfrom {text.line(start)}" if start else "", style="not bold dim"
    )


def _measured(row: Row, column: Column) -> Text:
    from rich.text import Text

    one = row.measured(column)
    if one.value is None:
        return Text(text.NOTHING if row.done else "", style="dim")
    said = Text(text.number(one.value, column.places))
    said.append(f" {text.spread(one.value, one.ci95, column.places)}".rstrip(), style="dim")
    if method := text.over_seeds(one, column.places):
        said.append(f"\n{method}", style="dim cyan")
    return said


def _verdict(row: Row) -> Text:
    from rich.text import Text

    if not row.done:
        return Text(f"{row.status}: {text.line(row.reason)}" if row.reason else row.status, style="red")
    if row.verdict is None:
        return Text("")
    style = {"better": "green", "worse": "red"}.get(row.verdict.outcome or "", "dim")
    return Text(text.line(row.verdict.short), style=style)
