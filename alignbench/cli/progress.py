"""Progress of a run: bars on a terminal, lines in a log, JSON lines for a program."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.progress import TimeRemainingColumn as TimeLeft

from alignbench.layout import MEASUREMENTS
from alignbench.report.text import duration, line

if TYPE_CHECKING:
    from alignbench.engine.experiment import Progress


WIDE = 110
"""Terminal columns from which elapsed time, a longer bar and a third number are shown."""

SHOWN_FIRST = ("loss", "reward", "objective/scores")
"""Logged numbers that are shown before others."""


def printing_json(echo: Callable[[str], None]) -> Callable[[Progress], None]:
    """Return a function that prints the progress of a run as JSON, one object for each line."""
    begun = time.monotonic()

    def update(progress: Progress) -> None:
        common: dict[str, Any] = {"seconds": round(time.monotonic() - begun, 3), "task": progress.task}
        if progress.event is not None:
            one = progress.event
            event = {"phase": one.phase, "done": one.done, "total": one.total, "numbers": dict(one.numbers)}
            echo(as_line({"event": "progress", **common, **event}))
        if progress.ended is not None:
            echo(
                as_line(
                    {
                        "event": "ended",
                        **common,
                        "status": progress.ended.status,
                        "reason": progress.ended.reason,
                    }
                )
            )

    return update


def as_line(record: Any) -> str:
    """Return a value as one line of JSON; a number that is not finite becomes null."""
    return json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def watching(console: Console | None = None, *, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows the progress of a run, on stderr."""
    console = console or Console(stderr=True, quiet=quiet)
    wide = console.width >= WIDE
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24 if wide else 8),
        MofNCompleteColumn(),
        *([TimeElapsedColumn()] if wide else []),
        TimeLeft(compact=True),
        TextColumn("{task.fields[numbers]}"),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        yield _Watch(console, bars).update


def _name(task: str, phase: str, width: int) -> str:
    """Return cell and phase within this width; a long label is truncated, its seed is kept."""
    text = f"{line(task)}  {line(phase)}"
    label, slash, seed = line(task).partition("/")
    if len(text) > width and slash:
        left = max(4, len(label) - (len(text) - width))
        label = label if len(label) <= left else f"{label[: left - 1]}\N{HORIZONTAL ELLIPSIS}"
        text = f"{label}/{seed}  {line(phase)}"
    return text if len(text) <= width else f"{text[: width - 1]}\N{HORIZONTAL ELLIPSIS}"


class _Watch:
    """Keeps one bar for each running task, and one for all cells."""

    def __init__(self, console: Console, bars: Bars):
        self.console = console
        self.bars = bars
        self.running: dict[str, tuple[TaskID, float, str]] = {}
        self.cells: TaskID | None = None

    def update(self, progress: Progress) -> None:
        if self.cells is None and progress.cells:
            self.cells = self.bars.add_task("cells", total=progress.cells, numbers="")
        if progress.event is not None:
            self._moved(progress)
        if progress.ended is not None:
            self._ended(progress)

    def _moved(self, progress: Progress) -> None:
        event = progress.event
        assert event is not None
        wide = self.console.width >= WIDE
        description = escape(_name(progress.task, event.phase, 40 if wide else 27))
        bar, since, phase = self.running.get(progress.task, (None, time.monotonic(), ""))
        if bar is None or phase != event.phase:
            # A new bar: the total of an old one cannot be reset.
            if bar is not None:
                self.bars.remove_task(bar)
            bar = self.bars.add_task(description, total=event.total, numbers="")
            self.running[progress.task] = (bar, since, event.phase)
        self.bars.update(bar, completed=event.done, total=event.total)
        if event.numbers:
            first = [name for name in SHOWN_FIRST if name in event.numbers]
            names = list(dict.fromkeys([*first, *event.numbers]))[: 3 if wide else 2]
            numbers = (f"{line(name).replace('_', ' ')} {event.numbers[name]:.3g}" for name in names)
            self.bars.update(bar, numbers=escape("  ".join(numbers)))

    def _ended(self, progress: Progress) -> None:
        last = progress.ended
        assert last is not None
        took = "  (already finished)" if last.status == "done" else ""
        if progress.task in self.running:
            bar, since, _ = self.running.pop(progress.task)
            self.bars.remove_task(bar)
            took = f"  {duration(time.monotonic() - since)}"
        if self.cells is not None and progress.cells:
            self.bars.advance(self.cells)
        if last.status == "done" and progress.task.startswith(f"{MEASUREMENTS}/"):
            return  # a line for each cell is enough
        # An error that stops the whole run is printed in full elsewhere.
        printed = last.error is not None and not progress.cells
        reason = f": {line(last.reason)}" if last.reason and not printed else ""
        style = "green" if last.status == "done" else "red"
        self.console.print(
            f"{line(progress.task)}  {last.status}{took}{reason}", style=style, markup=False, highlight=False
        )
