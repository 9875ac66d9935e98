"""Sections of `report.html`: pairs of labels, the quality of the judges, answers side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignbench.report import metrics, text
from alignbench.report.disagreement import most_disputed
from alignbench.report.page import Page, tables_of
from alignbench.results import Comparison, Estimate

QUESTIONS = 10
"""Prompts whose answers are shown side by side."""

CONTROLS = {
    "fit": ("may rank", ""),
    "people": ("agrees with people", "share"),
    "null": ("empty answer wins", "share"),
    "longer": ("gain by repetition", "share"),
    "injected": ("gain by prompt injection", "share"),
    "position": ("position bias", "share"),
    "mass": ("probability of the options", "share"),
    "steady": ("consistency when repeated", "share"),
    "pairs": ("pairs", ""),
    "reasons": ("", ""),
}
"""A judge's controls, each with its column heading and unit."""

NAMES = {
    "ci95": "95% interval",
    "n": "pairs",
    "calibration": "calibration error",
    "length_accuracy": "accuracy of length alone",
    "quality": "on held-out rows",
    "recorded": "recorded",
    "mass": "probability of the options",
    "people": "against people's labels",
    "labels": "how it was labelled",
    "chosen": "prompts",
    "overlap": "share of prompts that all rank",
    "repeats": "share of prompts ranked twice",
    "alpha": "Krippendorff's alpha",
    "left_out": "raters left out",
    "unmeasured": "kept without a measurement",
    "thresholds": "raters are kept with",
    "first": "prefers what comes first",
    "checks": "known answers",
    "consistency": "agreement with itself",
    "as_a_rater": "orders two answers as one rater does",
}
"""Names of a judge's numbers in the report."""


def pairs(page: Page) -> Mapping[str, Any] | None:
    """Every label against every other, on the headline metric and by win rate."""
    if not page.results.comparisons:
        return None
    lead = metrics.headline(page.results)
    known = {one.metric for one in page.results.comparisons}
    squares = [metric for metric in dict.fromkeys((lead or "", "win_rate")) if metric in known]
    labels = [row.name for row in page.leaderboard.rows if row.done]
    found = {
        metric: {(a, b): page.results.decisive(a, b, metric) for a in labels for b in labels if a != b}
        for metric in squares
    }
    return {
        "labels": labels,
        "squares": found,
        "places": {metric: _pair_places(page, metric) for metric in squares},
    }


def _pair_places(page: Page, metric: str) -> int:
    known: list[Comparison] = [one for one in page.results.comparisons if one.metric == metric]
    return text.decimals(Estimate(value=one.difference, ci95=one.ci95) for one in known)


def judges(page: Page) -> Mapping[str, Any] | None:
    """Each judge's controls, and its agreement with people and with other judges."""
    named = [(str(judge.get("name", "a judge")), judge) for judge in page.results.judges]
    named += [
        (f"{judge.get('name', 'a judge')} of {cell.label}, seed {cell.seed}", judge)
        for cell in page.results.cells
        for judge in cell.judges
    ]
    controlled, details = [], []
    for name, judge in named:
        quality, more = judge.get("quality"), {key: one for key, one in judge.items() if key != "name"}
        if isinstance(quality, Mapping) and "steady" in quality:
            controlled.append((name, *_controls(quality)))
            people = quality.get("people")
            rest = {key: one for key, one in quality.items() if key not in CONTROLS}
            if isinstance(people, Mapping):
                rest["people"] = {key: one for key, one in people.items() if key not in ("accuracy", "ci95")}
            more["quality"] = rest
        details.append((name, _groups(more)))
    alike = [name for name in metrics.metric_infos(page.results) if name.startswith("agreement")]
    first = named[0][0] if named else ""
    agreed = tables_of(
        page,
        (
            "How often two judges give the same judgment on answers against base, and kappa, the agreement "
            f"beyond chance: the judge in brackets with {first}, or the two in brackets with each other",
            alike,
        ),
    )
    known = {"controlled": controlled, "judges": [one for one in details if one[1]], "heads": CONTROLS}
    return {"tables": [], "rows": [], **(agreed or {}), **known} if details else None


def _controls(quality: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return the cells of a judge's row in the table of controls, and why it may not rank."""
    cells = []
    for key in CONTROLS:
        value = quality.get(key)
        if key == "fit":
            cells.append("yes" if value else "no")
        elif key == "people":
            found = value if isinstance(value, Mapping) else {}
            whole = Estimate(value=found.get("accuracy"), ci95=found.get("ci95"))
            cells.append(text.estimate(whole, 2))
        elif key != "reasons":
            share = isinstance(value, float)
            cells.append(
                text.number(value, 2 if share else 0) if share or isinstance(value, int) else text.NOTHING
            )
    return cells, "; ".join(text.line(str(reason)) for reason in quality.get("reasons") or ())


def _groups(value: Mapping[str, Any], name: str = "") -> dict[str, Mapping[str, Any]]:
    """Return nested mappings as groups of leaves, rounded; a leaf without a value is left out."""
    own: dict[str, Any] = {}
    found: dict[str, Mapping[str, Any]] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _groups(item, f"{name} {key}" if name not in ("", "quality") else key)
        elif isinstance(item, (list, tuple)):
            between = " to " if key == "ci95" else ", "
            own[key] = between.join(_short(one) for one in item) or None
        else:
            own[key] = _short(item) if isinstance(item, float) else item
    own = {NAMES.get(key, key): item for key, item in own.items() if item is not None}
    return ({NAMES.get(name or "recorded", name): own} if own else {}) | found


def _short(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.line(value)


def samples(page: Page) -> Mapping[str, Any] | None:
    """The prompts at which the labels differ most, with their answers."""
    if not any(cell.samples for cell in page.results.cells):
        return None
    questions = most_disputed(page.folder, page.results, QUESTIONS)
    seeds = [answer.seed for question in questions for answer in question.answers]
    if all(question.gap is not None for question in questions):
        by = "score: the best minus the worst"
    elif all(question.split is not None for question in questions):
        by = "the comparisons that their answers win"
    else:
        by = "the words of their answers"
    judges = [one.judge for question in questions for one in question.answers[0].judgments]
    return {
        "questions": questions,
        "by": by,
        "seed": max(seeds, key=seeds.count, default=None),
        "judges": list(dict.fromkeys(judges)),
    }
