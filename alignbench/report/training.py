"""The section of `report.html` on training: what was logged, and the yardstick on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.report import artefacts, figures, text
from alignbench.report.page import Page

CURVES = 6
"""Small multiples for each label."""
HOUSEKEEPING = ("grad_norm", "learning_rate", "seconds")
"""What the trainer logs for every method: shown after what a method says of itself."""
UNDRAWN = ("learning_rate", "seconds")
"""Logged, and known beforehand."""


def curves(page: Page) -> Mapping[str, Any] | None:
    """What each label logged while it trained, its alarms, and the yardstick on the way."""
    found = {
        row.name: [artefacts.curves(page.folder, cell) for cell in page.results.cells_of(row.name)]
        for row in page.board.rows
    }
    names = [name for cells in found.values() for curves in cells for name in curves]
    # What most cells log comes first, so that equal numbers stand below each other.
    order = sorted(
        dict.fromkeys(names), key=lambda name: (name != "loss", name in HOUSEKEEPING, -names.count(name))
    )
    rows = []
    for label, cells in found.items():
        number = page.colour(label)
        mine = [name for name in order if any(name in curves for curves in cells)]
        panels = []
        single = [name for name in mine if all(len(set(c[name].values)) < 2 for c in cells if name in c)]
        mine = [name for name in mine if name not in single]
        values = {
            name: ", ".join(text.number(c[name].values[-1]) for c in cells if name in c) for name in single
        }
        drawn = [name for name in mine if name not in UNDRAWN][:CURVES]
        for name in drawn:
            lines = [curves[name] for curves in cells if name in curves]
            first, last = text.number(lines[0].values[0]), text.number(lines[0].values[-1])
            said = f"{name} of {label} over training, from {first} to {last}; seeds: {len(lines)}."
            picture = figures.small(lines, number, name=f"curve-{number}-{len(panels)}", alternative=said)
            panels.append((_in_words(name), picture))
        alarms = [(cell.seed, alarm) for cell in page.results.cells_of(label) for alarm in cell.alarms]
        followed = _followed(page, label)
        if panels or alarms or values or followed:
            more = [_in_words(name) for name in mine if name not in drawn]
            values = {_in_words(name): value for name, value in values.items()}
            rows.append((label, followed, panels, alarms, values, more))
    return {"rows": rows} if rows else None


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _followed(page: Page, label: str) -> Any:
    """Return the picture of the yardstick over a label's training, under what it learned from; None without."""
    cells = page.results.cells_of(label)
    judge = next((str(one.get("name", "")) for one in page.results.judges), "")
    panels, said = [], []
    for title, which in (("own reward", "proxy"), (f"yardstick {judge}".strip(), "yardstick")):
        lines, told = [], []
        for cell in cells:
            known = [
                (float(one.step), value)
                for one in cell.checkpoints
                if (value := getattr(one, which)) is not None and value.value is not None
            ]
            if len(known) > 1:
                lines.append(figures.Followed(*zip(*known, strict=True)))
                peak = max(known, key=lambda one: one[1].value)
                ends = [text.number(value.value) for _, value in (known[0], peak, known[-1])]
                told.append(f"from {ends[0]} over {ends[1]} at step {peak[0]:g} to {ends[2]}")
        if lines:
            panels.append((title, lines))
            said.append(f"{title}: {', '.join(told)}")
    if not panels:
        return None
    number = page.colour(label)
    alternative = f"{label} on its way. {'; '.join(said)}."
    return figures.on_its_way(panels, number, name=f"way-{number}", alternative=alternative)
