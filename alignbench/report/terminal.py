"""The comparison as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignbench.report import decoding, text
from alignbench.report.leaderboard import PRICES, Column, Leaderboard, Row, leaderboard, prices, start_of
from alignbench.results import Measured, Results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


WIDE = 110
"""Terminal columns from which an interval is shown next to its number instead of below."""


def show(results: Results, console: Console | None = None) -> None:
    """Print a run's leaderboard: a row for every label, with the reason where it did not finish."""
    from rich.console import Console

    draw(leaderboard(results), console or Console())


def draw(seen: Leaderboard, console: Console) -> None:
    """Print a leaderboard. Text from data is escaped and never read as markup."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for one in seen.differences:
        console.print(Text(f"different: {text.line(one)}", style="yellow"))
    table = Table(
        box=SIMPLE_HEAD,
        title=Text(text.line(" and ".join(seen.runs)), style="bold"),
        caption=Text(seen.caption, style="dim"),
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    narrow = console.width < WIDE
    # A narrow terminal first shows the leading metric and the whole price.
    columns, shown = (seen.columns[:1], PRICES[1:]) if narrow else (seen.columns, PRICES)
    table.add_column("label", overflow="fold", min_width=10)
    for column in columns:
        table.add_column(Text(column.title), justify="right", min_width=7)
    for price in shown:
        table.add_column(price, justify="right", no_wrap=True)
    table.add_column("against its start", min_width=10)
    for row in seen.rows:
        costs = prices(row.label)[-len(shown) :] if row.done else ((),) * len(shown)
        table.add_row(
            _name(row, seen),
            *(_measured(row, column, narrow) for column in columns),
            *("\n".join(cost) for cost in costs),
            _verdict(row, narrow),
        )
    console.print(table)
    if narrow:
        console.print(_others(seen))
    for results in seen.runs.values() if len(seen.runs) == 1 and seen.columns else ():
        _temperatures(results, seen.columns[0], console)
    for row in seen.rows:
        for note in row.notes:
            console.print(
                Text(f"  {text.line(row.name)}: ", style="bold") + Text(text.line(note), style="not bold")
            )


def _temperatures(results: Results, column: Column, console: Console) -> None:
    """Print the leading metric of every label at each temperature."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if not (settings := decoding.table(results, column.metric)):
        return
    table = Table(
        box=SIMPLE_HEAD,
        title=Text(f"{column.title} by temperature", style="bold"),
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("label", overflow="fold", min_width=10)
    for temperature in settings:
        table.add_column(f"T {temperature:g}", justify="right")
    for label in results.labels:
        if any(label.label in labels for labels in settings.values()):
            cells = [labels.get(label.label, Measured()) for labels in settings.values()]
            table.add_row(Text(text.line(label.label)), *(text.estimate(one, column.places) for one in cells))
    console.print(table)
    if turned := list(decoding.reversals(results, column.metric)):
        console.print(Text(decoding.CHANGED))
        for one in turned:
            console.print(Text(f"  {text.line(str(one))}"))


def _others(seen: Leaderboard) -> Table:
    """Return a table of the metrics and the cost for which a narrow terminal has no room in the first one."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("label", overflow="fold", min_width=10)
    for column in seen.columns[1:]:
        table.add_column(Text(column.title), justify="right", min_width=7)
    table.add_column(PRICES[0], justify="right")
    for row in seen.rows:
        if row.done:
            found = (_measured(row, column, narrow=True) for column in seen.columns[1:])
            table.add_row(_name(row, seen, start=False), *found, "\n".join(prices(row.label)[0]))
    return table


def _name(row: Row, seen: Leaderboard, *, start: bool = True) -> Text:
    from rich.text import Text

    cell = Text(text.line(row.label.label), style="bold")
    if len(seen.runs) > 1:
        cell.append(f"\n{text.line(row.name.removesuffix('/' + row.label.label))}", style="not bold cyan")
    if start and (label := start_of(row.label)):
        cell.append(f"\nfrom {text.line(label)}", style="not bold dim")
    if start and row.temperature:
        cell.append(f"\nT {row.temperature}", style="not bold dim")
    return cell


def _measured(row: Row, column: Column, narrow: bool) -> Text:
    from rich.text import Text

    one = row.measured(column)
    if one.value is None:
        return Text(text.NOTHING if row.done else "", style="dim")
    cell = Text(text.number(one.value, column.places))
    between = "\n" if narrow else " "
    cell.append(f"{between}{text.spread(one.value, one.ci95, column.places)}".rstrip(), style="dim")
    return cell


def _verdict(row: Row, narrow: bool) -> Text:
    from rich.text import Text

    if not row.done:
        return Text(f"{row.status}: {text.line(row.reason)}" if row.reason else row.status, style="red")
    if row.verdict is None:
        return Text("")
    style = {"better": "green", "worse": "red"}.get(row.verdict.outcome or "", "dim")
    short = row.verdict.short
    if narrow and row.verdict.against == row.label.start:  # already shown next to the label
        short = short.replace(f" than {row.verdict.against}", "").replace(f" from {row.verdict.against}", "")
    return Text(text.line(short), style=style)
