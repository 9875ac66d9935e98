"""Sections of `report.html`: the headline metric against temperature, distance from base, and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignbench.report import decoding, figures, metrics, text
from alignbench.report import leaderboard as leaderboards
from alignbench.report.leaderboard import Row
from alignbench.report.page import Page
from alignbench.results import Estimate


def frontier(page: Page) -> Mapping[str, Any] | None:
    """The headline metric against the distance from base."""
    return _scatter(
        page,
        "frontier",
        "KL from base, nats per response",
        "{lead} against distance from base",
        "Up and to the left is better: a higher score for less change.",
        lambda row: row.label.metrics.get("kl.base", leaderboards.NOT_RECORDED),
        _trajectories(page),
    )


def _trajectories(page: Page) -> list[figures.Trajectory]:
    """Return each policy's path during training, where there is a learning curve and reward is the headline."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for one in page.results.frontier if metrics.headline(page.results) == "reward" else ():
        if one.step is not None and one.kl.value is not None and one.reward.value is not None:
            found.setdefault((one.label, one.seed), []).append((one.kl.value, one.reward.value))
    return [
        figures.Trajectory(page.colour(label), *zip(*path, strict=True)) for (label, _), path in found.items()
    ]


def price(page: Page) -> Mapping[str, Any] | None:
    """The headline metric against training time and against time for one answer."""
    plots = [
        _scatter(
            page,
            "training",
            "time of the whole chain, seconds",
            "{lead} against training time",
            "Up and to the left is better: a higher score in less time. Base is not trained.",
            lambda row: _seconds(row.label.cost.chain.seconds),
        ),
        _scatter(
            page,
            "answering",
            "time for one answer, seconds",
            "{lead} against time for one answer",
            "The cost of a search while decoding shows here.",
            lambda row: _seconds(row.label.cost.own.answer_seconds),
        ),
    ]
    drawn = [plot for plot in plots if plot is not None]
    return {"plots": drawn} if drawn else None


def temperatures(page: Page) -> Mapping[str, Any] | None:
    """The headline metric against the sampling temperature, where the run has several."""
    lead = metrics.headline(page.results)
    settings = decoding.table(page.results, lead) if lead else {}
    if lead is None or not settings:
        return None
    rows = [row for row in page.leaderboard.rows if any(row.name in labels for labels in settings.values())]
    lines = [
        figures.TemperatureLine(
            row.name,
            page.colour(row.name),
            tuple(at for at in settings if row.name in settings[at]),
            tuple(labels[row.name] for labels in settings.values() if row.name in labels),
            None if row.label.sampling is None else row.label.sampling.temperature,
        )
        for row in rows
    ]
    name = metrics.title(lead)
    title = f"{name[:1].upper()}{name[1:]} against temperature"
    places = text.decimals(one for labels in settings.values() for one in labels.values())
    summary = "; ".join(
        f"{line.label}: "
        + ", ".join(
            f"{text.number(one.value, places)} at {at:g}"
            for at, one in zip(line.temperatures, line.values, strict=True)
        )
        for line in lines
    )
    return {
        "title": title,
        "reading": "Where two lines cross, the temperature decides which label is better.",
        "picture": figures.temperatures(lines, name, name="temperature", alternative=f"{title}. {summary}."),
        "settings": settings,
        "rows": rows,
        "places": places,
        "described": decoding.described,
        "reversals": [str(one) for one in decoding.reversals(page.results, lead)],
    }


def _scatter(
    page: Page,
    name: str,
    x_title: str,
    heading: str,
    reading: str,
    x: Callable[[Row], Estimate],
    trajectories: Sequence[figures.Trajectory] = (),
) -> dict[str, Any] | None:
    """Return a plot of the headline metric against `x`, and which labels are missing from it and why."""
    lead = metrics.headline(page.results)
    if lead is None:
        return None
    points, absent = [], []
    for row in page.leaderboard.rows:
        at, height = x(row), row.label.metrics.get(lead, leaderboards.NOT_RECORDED)
        if at.value is not None and height.value is not None:
            points.append(figures.Point(row.name, page.colour(row.name), at, height))
        elif row.label.label != "base" or name == "frontier":
            lacking = height if height.value is None else at
            absent.append((row.name, row.reason or lacking.missing))
    if not points:
        return None
    title = heading.format(lead=metrics.title(lead))
    title = title[:1].upper() + title[1:]
    places = text.decimals(point.x for point in points), text.decimals(point.y for point in points)
    listed = "; ".join(
        f"{point.label}: {text.estimate(point.y, places[1])} at {text.estimate(point.x, places[0])}"
        for point in points
    )
    if trajectories:
        reading += (
            " A thin line is the policy during training, on the validation prompts of evaluation.curve."
        )
    alternative = f"{title}. {listed}."
    picture = figures.scatter(
        points,
        x_title,
        metrics.title(lead),
        trajectories=trajectories,
        name=name,
        alternative=alternative,
    )
    return {"title": title, "picture": picture, "reading": reading, "absent": absent}


def _seconds(value: float | None) -> Estimate:
    return Estimate(value=value or None, missing="no time was measured")
