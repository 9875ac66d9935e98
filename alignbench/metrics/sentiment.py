"""Sentiment of the answers to open questions, and its distance from base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from alignbench.api.metric import Cell, Evidence, Figure, Measure, Metric, Missing, Need, Request, histograms
from alignbench.metrics.open_prompts import OpenPrompts, answers, needs_package
from alignbench.recipe.schema import BASE

NAMES = ("sentiment.mean", "sentiment.variance", "sentiment.distance")
REVIEW = "review"


class Sentiment(Metric):
    """VADER's compound polarity, from -1 to 1 (Hutto and Gilbert 2014), of answers to open questions:
    `sentiment.mean`, `sentiment.variance`, and `sentiment.distance`, the Wasserstein-1 distance to that of base."""

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"generations"})

    class Config(OpenPrompts):
        """The questions and their language. Of the sandbox's families only reviews have a sentiment."""

        language: str = "en"
        """Language of the answers: VADER's lexicon is English."""

    def requests(self, root: Path) -> Sequence[Request]:
        return (self.config.request(),) if self.config.language == "en" else ()

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        reason = ""
        if self.config.language != "en":
            reason = f"VADER's lexicon is English, the answers are '{self.config.language}'"
        else:
            try:
                import vaderSentiment  # noqa: F401  # pyright: ignore[reportMissingTypeStubs]
            except ImportError:
                reason = needs_package("vaderSentiment")
        if reason:
            return [
                Missing(metric=name, **cell._asdict(), reason=reason)
                for cell in evidence.cells
                for name in NAMES
            ]
        request = self.config.request()
        families = {prompt.id: prompt.extra.get("family", REVIEW) for prompt in request.prompts}
        rated = {id for id, family in families.items() if family == REVIEW}
        of = {
            cell: {
                id: polarity(texts) for id, texts in answers(evidence, cell, request).items() if id in rated
            }
            for cell in evidence.cells
        }
        return [found for cell in evidence.cells for found in _of(cell, of, request.samples)]

    def figures(self, evidence: Evidence) -> Sequence[Figure]:
        if not self.requests(evidence.root):
            return ()
        request = self.config.request()
        rated = {prompt.id for prompt in request.prompts if prompt.extra.get("family", REVIEW) == REVIEW}
        found: dict[str, list[float]] = {}
        try:
            for cell in evidence.cells:
                for id, texts in answers(evidence, cell, request).items():
                    if id in rated:
                        found.setdefault(cell.label, []).extend(polarity(texts).tolist())
        except ImportError:  # the columns give the reason
            return ()
        if not found:
            return ()
        edges, shares = histograms(found, (-1.0, 1.0), 20)
        description = (
            "Sentiment of answers to open questions, by VADER: -1 is negative, 1 positive, 0 neutral."
        )
        title = "sentiment, from \u22121 to 1"
        return (Figure(kind="histogram", title=title, description=description, data=shares, edges=edges),)


def polarity(texts: Sequence[str]) -> np.ndarray:
    """Return VADER's compound polarity of each text, in [-1, 1]."""
    from vaderSentiment.vaderSentiment import (  # pyright: ignore[reportMissingTypeStubs]
        SentimentIntensityAnalyzer,
    )

    analyser = SentimentIntensityAnalyzer()
    known = {text: analyser.polarity_scores(text)["compound"] for text in set(texts)}
    return np.array([known[text] for text in texts])


def _of(cell: Cell, of: dict[Cell, dict[str, np.ndarray]], samples: int) -> list[Measure | Missing]:
    from scipy.stats import wasserstein_distance

    base = of.get(Cell(BASE, cell.seed))
    columns: dict[str, dict[str, float]] = {
        "sentiment.mean": {id: float(values.mean()) for id, values in of[cell].items()},
        "sentiment.variance": {id: float(values.var(ddof=1)) for id, values in of[cell].items()},
    }
    if base is not None and cell.label != BASE:
        columns["sentiment.distance"] = {
            id: float(wasserstein_distance(values, base[id])) for id, values in of[cell].items()
        }
    how = f"VADER's polarity of {samples} answers to each of {len(of[cell])} open questions"
    reason = "base is the reference of the comparison" if base is not None else "base has no answers"
    return [
        Measure(metric=name, **cell._asdict(), unit="polarity", values=columns[name], description=how)
        if name in columns
        else Missing(metric=name, **cell._asdict(), reason=reason)
        for name in NAMES
    ]
