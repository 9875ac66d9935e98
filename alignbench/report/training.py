"""The section of `report.html` on training: logged numbers, warnings and learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.report import artefacts, figures, text
from alignbench.report.page import Page

CURVES = 6
"""Small multiples for each label."""
COMMON = ("grad_norm", "learning_rate", "seconds")
"""Logged by the trainer for every method: shown after the numbers of the method itself."""
NOT_DRAWN = ("learning_rate", "seconds")
"""Logged, but known before the run."""


def curves(page: Page) -> Mapping[str, Any] | None:
    """What each label logged while it trained, its warnings, and its learning curve."""
    found = {
        row.name: [artefacts.curves(page.folder, cell) for cell in page.results.cells_of(row.name)]
        for row in page.leaderboard.rows
    }
    names = [name for cells in found.values() for curves in cells for name in curves]
    # Numbers that most cells log come first, so that the same numbers line up.
    order = sorted(
        dict.fromkeys(names), key=lambda name: (name != "loss", name in COMMON, -names.count(name))
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
        drawn = [name for name in mine if name not in NOT_DRAWN][:CURVES]
        for name in drawn:
            lines = [curves[name] for curves in cells if name in curves]
            first, last = text.number(lines[0].values[0]), text.number(lines[0].values[-1])
            alternative = f"{name} of {label} over training, from {first} to {last}; seeds: {len(lines)}."
            picture = figures.small_multiple(
                lines, number, name=f"curve-{number}-{len(panels)}", alternative=alternative
            )
            panels.append((_in_words(name), picture))
        warnings = [
            (cell.seed, warning) for cell in page.results.cells_of(label) for warning in cell.warnings
        ]
        curve = _learning_curve(page, label)
        if panels or warnings or values or curve:
            more = [_in_words(name) for name in mine if name not in drawn]
            values = {_in_words(name): value for name, value in values.items()}
            rows.append((label, curve, panels, warnings, values, more))
    return {"rows": rows} if rows else None


def _in_words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _learning_curve(page: Page, label: str) -> Any:
    """Return the plot of the evaluation judge's score over training, below the method's own reward, or None."""
    cells = page.results.cells_of(label)
    judge = next((str(one.get("name", "")) for one in page.results.judges), "")
    panels, summaries = [], []
    for title, which in (("own reward", "proxy"), (f"score by {judge}" if judge else "score", "score")):
        lines, ranges = [], []
        for cell in cells:
            known = [
                (float(one.step), value)
                for one in cell.learning_curve
                if (value := getattr(one, which)) is not None and value.value is not None
            ]
            if len(known) > 1:
                lines.append(figures.CurveLine(*zip(*known, strict=True)))
                peak = max(known, key=lambda one: one[1].value)
                ends = [text.number(value.value) for _, value in (known[0], peak, known[-1])]
                ranges.append(f"from {ends[0]} over {ends[1]} at step {peak[0]:g} to {ends[2]}")
        if lines:
            panels.append((title, lines))
            summaries.append(f"{title}: {', '.join(ranges)}")
    if not panels:
        return None
    number = page.colour(label)
    alternative = f"{label} during training. {'; '.join(summaries)}."
    return figures.learning_curve(panels, number, name=f"learning-{number}", alternative=alternative)
