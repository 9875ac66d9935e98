"""Stored runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from alignbench.errors import RecipeError
from alignbench.report.leaderboard import Leaderboard, leaderboard
from alignbench.report.tables import leaderboard_csv, leaderboard_markdown, numbers
from alignbench.report.terminal import draw
from alignbench.results import Results, read

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["table", "markdown", "csv", "json"]


def compare(folders: Sequence[Path | str], format: Format = "table", console: Console | None = None) -> None:
    """Print the runs in `folders` side by side, equal labels next to each other as `run/label`.

    Names the fields in which their fairness contracts differ. Raises what `results.read` raises, and
    RecipeError for an unknown format.
    """
    from rich.console import Console

    console = console or Console()
    seen = leaderboard(*(_read(folder) for folder in folders))
    if format == "table":
        draw(seen, console)
        return
    if format not in _WRITERS:
        raise RecipeError(f"there is no format {format!r}", f"choose one of {', '.join(get_args(Format))}")
    console.file.write(_WRITERS[format](seen))  # written unchanged: no wrapping, no markup


def leaderboard_json(seen: Leaderboard) -> str:
    """Return a leaderboard as JSON: the fields in which the runs differ, and the long table of numbers."""
    record = {"schema": 1, "runs": list(seen.runs), "differences": [asdict(one) for one in seen.differences]}
    return json.dumps({**record, "numbers": list(numbers(seen))}, indent=1) + "\n"


def _read(folder: Path | str) -> Results:
    results = read(folder)
    place = Path(folder).resolve()
    return (
        results
        if results.run
        else results.model_copy(update={"run": (place if place.is_dir() else place.parent).name})
    )


_WRITERS: dict[str, Callable[[Leaderboard], str]] = {
    "markdown": leaderboard_markdown,
    "csv": leaderboard_csv,
    "json": leaderboard_json,
}
