"""Sections of `report.html`: what leads the board against what it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignbench.report import figures, text
from alignbench.report import leaderboard as boards
from alignbench.report.leaderboard import Row
from alignbench.report.page import Page
from alignbench.results import Estimate


def frontier(page: Page) -> Mapping[str, Any] | None:
    """The headline metric against the distance from base."""
    return _plane(
        page,
        "frontier",
        "KL from base, nats per response",
        "{lead} against distance from base",
        "Up and to the left is better: more for less change.",
        lambda row: row.label.metrics.get("kl.base", boards.NOT_RECORDED),
        _ways(page),
    )


def _ways(page: Page) -> list[figures.Way]:
    """Return where each policy was while it trained, where the recipe follows it and reward leads the board."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for one in page.results.frontier if boards.headline(page.results) == "reward" else ():
        if one.step is not None and one.kl.value is not None and one.reward.value is not None:
            found.setdefault((one.label, one.seed), []).append((one.kl.value, one.reward.value))
    return [
        figures.Way(page.colour(label), *zip(*places, strict=True)) for (label, _), places in found.items()
    ]


def price(page: Page) -> Mapping[str, Any] | None:
    """The headline metric against training time and against time for one answer."""
    planes = [
        _plane(
            page,
            "training",
            "training time with the whole chain, seconds",
            "{lead} against training time",
            "Up and to the left is better: more for less time. Base is not trained.",
            lambda row: _seconds(row.label.cost.chain.train_seconds),
        ),
        _plane(
            page,
            "answering",
            "time for one answer, seconds",
            "{lead} against time for one answer",
            "What a search while decoding costs shows here.",
            lambda row: _seconds(row.label.cost.own.answer_seconds),
        ),
    ]
    drawn = [plane for plane in planes if plane is not None]
    return {"planes": drawn} if drawn else None


def _plane(
    page: Page,
    name: str,
    x_title: str,
    heading: str,
    reading: str,
    x: Callable[[Row], Estimate],
    ways: Sequence[figures.Way] = (),
) -> dict[str, Any] | None:
    """Return a picture of the headline metric against `x`, and who is missing from it and why."""
    lead = boards.headline(page.results)
    if lead is None:
        return None
    points, absent = [], []
    for row in page.board.rows:
        at, height = x(row), row.label.metrics.get(lead, boards.NOT_RECORDED)
        if at.value is not None and height.value is not None:
            points.append(figures.Point(row.name, page.colour(row.name), at, height))
        elif row.label.label != "base" or name == "frontier":
            lacking = height if height.value is None else at
            absent.append((row.name, row.reason or lacking.missing))
    if not points:
        return None
    title = heading.format(lead=boards.title(lead))
    title = title[:1].upper() + title[1:]
    places = text.decimals(point.x for point in points), text.decimals(point.y for point in points)
    said = "; ".join(
        f"{point.label}: {text.estimate(point.y, places[1])} at {text.estimate(point.x, places[0])}"
        for point in points
    )
    if ways:
        reading += " A thin line is the way there, on the validation prompts of evaluation.curve."
    alternative = f"{title}. {said}."
    picture = figures.plane(
        points, x_title, boards.title(lead), ways=ways, name=name, alternative=alternative
    )
    return {"title": title, "picture": picture, "reading": reading, "absent": absent}


def _seconds(value: float | None) -> Estimate:
    return Estimate(value=value or None, missing="no time was measured")
