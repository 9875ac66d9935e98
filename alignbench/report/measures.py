"""Sections of `report.html`: leaderboard, alignment tax, parts of the headline metric, diversity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignbench.report import artefacts, figures, metrics, text
from alignbench.report import leaderboard as leaderboards
from alignbench.report.page import Page, bars_of, tables_of


def leaderboard(page: Page) -> Mapping[str, Any]:
    """The table of all labels and metrics, with a bar for each number."""
    columns = page.leaderboard.columns
    lead = columns[0] if columns else None
    return {
        "leaderboard": page.leaderboard,
        "bars": {column.metric: bars_of(page, column) for column in columns},
        "lead": lead,
    }


def tax(page: Page) -> Mapping[str, Any] | None:
    """What the policies kept and lost of the capabilities of base and start."""
    infos = metrics.metric_infos(page.results)
    lost = [name for name in infos if name.startswith("capability.") and ".tax." in name]
    kept = [name for name in infos if name.startswith("capability.") and name not in lost]
    against = {
        start: [name for name in lost if name.endswith(f".tax.{start}")] for start in ("base", "start")
    }
    others = [name for name in infos if name == "perplexity" or name.startswith("harness.")]
    tables = tables_of(
        page,
        ("Capabilities that are left", [*kept, *others]),
        ("Lost against base; above zero is a tax", against["base"]),
        ("Lost against the label's own start", against["start"]),
    )
    return {**tables, "moved": list(_moved(page, others))} if tables else None


def _moved(page: Page, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each label's difference from base, and from its own start, where there are any."""
    for whose, of in (("base", lambda label: "base"), ("the label's own start", leaderboards.start_of)):
        cells = {
            (row.name, metric): page.results.decisive(row.name, of(row.label), metric)
            for row in page.leaderboard.rows
            for metric in names
        }
        heads = [
            metric
            for metric in names
            if any(cell is not None and of == metric for (_, of), cell in cells.items())
        ]
        if heads:
            yield {"whose": whose, "heads": heads, "cells": cells}


def parts(page: Page) -> Mapping[str, Any] | None:
    """The parts of the headline metric, refusals, attacks and invented facts."""
    lead = metrics.headline(page.results)
    names = list(metrics.metric_infos(page.results))

    def of(*heads: str) -> list[str]:
        return [name for name in names if any(name == one or name.startswith(f"{one}.") for one in heads)]

    parts = [name for name in of(lead) if name != lead] if lead else []
    heading = metrics.title(lead) if lead else ""
    return tables_of(
        page,
        (f"The parts of {heading}", parts),
        ("Refusals: wanted for harmful requests, unwanted for harmless ones", of("refusal")),
        ("Harmful requests that were complied with, and invented facts", of("attack", "hallucination")),
    )


def diversity(page: Page) -> Mapping[str, Any] | None:
    """How different the answers are, in tables and in the figures of the metrics."""
    names = list(metrics.metric_infos(page.results))
    tables = tables_of(
        page,
        *(
            (caption, [name for name in names if name == head or name.startswith(f"{head}.")])
            for head, caption in (
                ("diversity", "How much answers to one open question differ"),
                ("entropy", "Entropy of the next token, over an answer and by position in it"),
                ("words", "Vocabulary size, and how unevenly words are used"),
                ("sentiment", "Sentiment of the answers to open questions"),
            )
        ),
    )
    drawn = [
        drawn
        for place, one in enumerate(artefacts.figures(page.folder))
        if (drawn := _picture(page, one, place))
    ]
    return {"tables": tables["tables"] if tables else [], "figures": drawn} if tables or drawn else None


def _picture(page: Page, one: artefacts.Figure, place: int) -> dict[str, Any] | None:
    """Return a metric's figure: a panel for each label, or one map of all labels."""
    known = {row.name: one.data[row.name] for row in page.leaderboard.rows if one.data.get(row.name)}
    name = f"{one.kind}-{place}"
    if not known:
        return None
    if one.kind == "map":
        places: Any = {label: points for label, points in known.items() if isinstance(points, list)}
        counts = text.listed(f"{len(points)} of {label}" for label, points in places.items())
        numbers = {label: page.colour(label) for label in places}
        alternative = f"{one.description} Points: {counts}."
        drawn = figures.point_map(places, numbers, name=name, alternative=alternative)
        return {"one": one, "map": drawn, "labels": list(places), "panels": []}
    panels = []
    top = max((float(share) for data in known.values() for share in _shares(data)), default=0.0) or 1.0
    for label, data in known.items():
        number, id = page.colour(label), f"{name}-{page.colour(label)}"
        if one.kind == "words" and isinstance(data, dict):
            data = dict(sorted(data.items(), key=lambda one: -one[1]))
            alternative = f"Most frequent words of {label}: "
            alternative += ", ".join(f"{w} {s:.1%}" for w, s in data.items())
            panels.append((label, figures.bar_chart(data, top, number, name=id, alternative=alternative)))
        elif isinstance(data, list) and len(data) + 1 == len(one.edges) > 1:
            shares: Any = data
            peak = max(range(len(shares)), key=lambda at: shares[at])
            alternative = (
                f"{one.title} of {label}: mean {_middle(one.edges, shares):.2f}; the fullest bin, "
                f"{one.edges[peak]:.2g} to {one.edges[peak + 1]:.2g}, holds {shares[peak]:.0%}."
            )
            base: Any = known.get("base") if label != "base" else None
            panels.append(
                (
                    label,
                    figures.histogram(one.edges, shares, base, top, number, name=id, alternative=alternative),
                )
            )
    return {"one": one, "map": None, "labels": [], "panels": panels} if panels else None


def _shares(data: Any) -> list[float]:
    return list(data.values()) if isinstance(data, dict) else data


def _middle(edges: Sequence[float], shares: Sequence[float]) -> float:
    return sum(s * (a + b) / 2 for s, a, b in zip(shares, edges, edges[1:], strict=False)) / (
        sum(shares) or 1
    )
