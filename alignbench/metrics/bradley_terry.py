"""Bradley-Terry strengths of the labels from all pairwise comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log
from typing import ClassVar

import numpy as np

from alignbench.api.metric import (
    NO_JUDGE,
    Cell,
    Evidence,
    Measure,
    Metric,
    Missing,
    Need,
    by_prompt,
    by_prompt_and_rater,
)
from alignbench.metrics.fits import NoFitError, keyed, strengths

ELO = 400 / log(10)
"""Elo points of one unit of log odds."""


class BradleyTerry(Metric):
    """`elo`: Bradley-Terry strengths by maximum likelihood over the wins of every pair of labels at one seed,
    in Elo points, base at 0. 100 points are a win rate of 64%, 400 points one of 91%.

    A strength is fitted to all prompts at once; its interval is the sandwich variance of the fit, each
    prompt with all its comparisons one cluster, as a bootstrap over prompts would resample them.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "comparisons"})

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        if not evidence.judges:
            return [Missing(metric="elo", **cell._asdict(), reason=NO_JUDGE) for cell in evidence.cells]
        seeds = list(dict.fromkeys(cell.seed for cell in evidence.cells))
        return [
            found
            for judge in evidence.judges
            for seed in seeds
            for found in _at(evidence, judge, [cell for cell in evidence.cells if cell.seed == seed])
        ]


def _at(evidence: Evidence, judge: str, cells: Sequence[Cell]) -> list[Measure | Missing]:
    """Return the strengths of the labels at one seed."""
    prompts = {prompt.id: place for place, prompt in enumerate(evidence.prompts)}
    wins = np.full((len(prompts), len(cells), len(cells)), np.nan)
    alone: dict[str, np.ndarray] = {}
    for (i, a), (j, b) in combinations(enumerate(cells), 2):
        for prompt, share in by_prompt(evidence.samples(a), evidence.compare(judge, a, b)).items():
            wins[prompts[prompt], i, j], wins[prompts[prompt], j, i] = share, 1 - share
        ratings = by_prompt_and_rater(evidence.samples(a), evidence.by_rater(judge, a, b))
        for prompt, of in ratings.items():
            for rater, share in of.items():
                one = alone.setdefault(rater, np.full_like(wins, np.nan))
                one[prompts[prompt], i, j], one[prompts[prompt], j, i] = share, 1 - share
    met = [bool(np.isfinite(of_one).any()) for of_one in wins]
    try:
        if len(cells) < 2 or not any(met):
            raise NoFitError("there is no other label to compare with")
        by_rater = np.stack(list(alone.values()))[:, met] if alone else None
        fitted, by_rater = (ELO * one for one in strengths(wins[met], by_rater))
    except NoFitError as reason:
        return [Missing(metric="elo", **cell._asdict(), judge=judge, reason=str(reason)) for cell in cells]
    ids = [prompt for prompt, place in prompts.items() if met[place]]
    return [
        Measure(
            metric="elo",
            **cell._asdict(),
            judge=judge,
            unit="Elo points",
            higher_is_better=True,
            values=dict(zip(ids, fitted[:, place].tolist(), strict=True)),
            by_rater=keyed(ids, list(alone), by_rater[..., place]) if alone else {},
            description=f"Bradley-Terry strength from all comparisons by {judge}; {cells[0].label} is 0",
        )
        for place, cell in enumerate(cells)
    ]
