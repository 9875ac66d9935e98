"""The metrics of a run as a reader meets them: order, titles, which one ranks the labels and whether it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alignbench.report import text
from alignbench.results import MetricInfo, Results

NEAR_CHANCE = 0.6
"""A judge whose agreement with people may be lower than this is near chance, though it may rank: of ten comparisons
that it decides, people decide four or more otherwise."""


def headline(results: Results) -> str | None:
    """Return the metric that verdicts are about: `reward`, else the first that rests on a judge."""
    measured = {
        name for label in results.labels for name, one in label.metrics.items() if one.value is not None
    }
    ranked = ["reward", *(name for name, info in results.metrics.items() if info.judge), "win_rate"]
    return next((name for name in ranked if name in measured), None)


def metric_infos(results: Results) -> dict[str, MetricInfo]:
    """Return every metric of the run in the order in which to show it."""
    seen = {name for label in results.labels for name in label.metrics}
    described = {name: info for name, info in results.metrics.items() if name in seen}
    return described | {name: MetricInfo() for name in sorted(seen - set(described))}


def unfit(results: Results, metric: str) -> str:
    """Return why a metric's judge cannot rank, or nothing where it can."""
    for judge, quality in _judges(results, metric):
        if quality.get("fit") is False:
            reasons = "; ".join(text.line(str(reason)) for reason in quality.get("reasons", ()))
            return f"the judge {judge} fails its controls ({reasons})"
    return ""


def agreement(results: Results, metric: str) -> str:
    """Return how far a metric's judge agrees with people, or nothing where that was not measured.

    Gold is excepted: by definition it is right, and how far people agree with it is a quality of theirs.
    """
    for judge, quality in _judges(results, metric):
        people = quality.get("people") or {}
        if judge != "gold" and people.get("accuracy") is not None and people.get("ci95"):
            low, high = people["ci95"]
            return (
                f"the judge {judge} agrees with people on {people['accuracy']:.0%} of {people['n']} held-out pairs "
                f"(95% interval {low:.0%} to {high:.0%}{', near chance' if low < NEAR_CHANCE else ''})"
            )
    return ""


def _judges(results: Results, metric: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the judge of a metric, where it has one, with what was measured of it."""
    info = metric_infos(results).get(metric)
    for judge in results.judges if info and info.judge else ():
        if info and judge.get("name") == info.judge:
            yield text.line(str(info.judge)), judge.get("quality") or {}


def title(metric: str) -> str:
    """Return a metric's name as a heading: `win rate`, `KL from base`."""
    name, *judges = metric.split("@")
    known = {
        "win_rate": "win rate",
        "kl": "KL",
        "kl.base": "KL from base",
        "kl.base.k3": "KL from base (k3)",
        "kl.start": "KL from start",
        "kl.start.k3": "KL from start (k3)",
        "length.tokens": "length",
        "logp.chosen": "log p(chosen)",
        "logp.rejected": "log p(rejected)",
    }
    found = known.get(name, text.line(name.replace("_", " ").replace(".", ": ")))
    return f"{found} ({', '.join(map(text.line, judges))})" if judges else found
