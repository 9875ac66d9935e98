"""Bradley-Terry strengths of the labels from all pairwise comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log
from typing import ClassVar

import numpy as np

from alignbench.api.metric import NO_JUDGE, Cell, Evidence, Measure, Metric, Missing, Need, by_prompt
from alignbench.metrics.fits import NoFitError, strengths

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
    for (i, a), (j, b) in combinations(enumerate(cells), 2):
        for prompt, share in by_prompt(evidence.samples(a), evidence.compare(judge, a, b)).items():
            wins[prompts[prompt], i, j], wins[prompts[prompt], j, i] = share, 1 - share
    met = [bool(np.isfinite(of_one).any()) for of_one in wins]
    try:
        if len(cells) < 2 or not any(met):
            raise NoFitError("there is no other label to compare with")
        fitted = ELO * strengths(wins[met])
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
            values=dict(zip(ids, column.tolist(), strict=True)),
            description=f"Bradley-Terry strength from all comparisons by {judge}; {cells[0].label} is 0",
        )
        for cell, column in zip(cells, fitted.T, strict=True)
    ]
