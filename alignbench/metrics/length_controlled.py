"""Length-controlled win rate: how often a judge prefers one label's answer at equal length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from alignbench.api.metric import (
    NO_JUDGE,
    ByRater,
    Cell,
    Difference,
    Evidence,
    Measure,
    Metric,
    Missing,
    Need,
    by_prompt,
    by_prompt_and_rater,
    matches,
)
from alignbench.metrics.fits import NoFitError, keyed, share_at_equal_length
from alignbench.recipe.schema import BASE

NAME = "win_rate.length_controlled"


class LengthControlled(Metric):
    """`win_rate.length_controlled`: a logistic regression of the wins on the log ratio of both lengths in
    characters, evaluated at a ratio of one (after Lee et al. 2023, appendix J, and Dubois et al. 2024).

    Equal to the win rate where all answers are equally long.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "comparisons"})

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        if not evidence.judges:
            return [Missing(metric=NAME, **cell._asdict(), reason=NO_JUDGE) for cell in evidence.cells]
        return [
            self._against_base(evidence, judge, cell) for judge in evidence.judges for cell in evidence.cells
        ]

    def differences(
        self, evidence: Evidence, measures: Iterable[Measure | Missing], a: str, b: str
    ) -> list[Difference]:
        found = []
        for judge in evidence.judges:
            for seed, against in matches(evidence.cells, a, b):
                other = Cell(b, seed if against is None else against)
                values, by_rater, missing = _controlled(evidence, judge, Cell(a, seed), other)
                found.append(
                    Difference(
                        metric=NAME,
                        a=a,
                        b=b,
                        seed=seed,
                        against=against,
                        judge=judge,
                        unit="share",
                        higher_is_better=True,
                        span=(-0.5, 0.5),
                        values={id: share - 0.5 for id, share in values.items()},
                        by_rater={
                            id: {rater: share - 0.5 for rater, share in of.items()}
                            for id, of in by_rater.items()
                        },
                        missing=missing,
                    )
                )
        return found

    def _against_base(self, evidence: Evidence, judge: str, cell: Cell) -> Measure | Missing:
        base = Cell(BASE, cell.seed)
        values: dict[str, float] = {}
        by_rater: ByRater = {}
        if cell == base:
            reason = "base is the reference of the comparison"
        elif base not in evidence.cells:
            reason = "base has no samples at this seed"
        else:
            values, by_rater, reason = _controlled(evidence, judge, cell, base)
        if not values:
            return Missing(metric=NAME, **cell._asdict(), judge=judge, reason=reason)
        return Measure(
            metric=NAME,
            **cell._asdict(),
            judge=judge,
            unit="share",
            span=(0, 1),
            higher_is_better=True,
            values=values,
            by_rater=by_rater,
            description=f"how often {judge} would prefer the answer to that of base at equal length",
        )


def _controlled(evidence: Evidence, judge: str, a: Cell, b: Cell) -> tuple[dict[str, float], ByRater, str]:
    """Return values per prompt and what each rater gave it, or none and the reason."""
    ours, theirs = evidence.samples(a), evidence.samples(b)
    ratios = [
        math.log((1 + len(one.text)) / (1 + len(two.text))) for one, two in zip(ours, theirs, strict=True)
    ]
    judged = evidence.compare(judge, a, b)
    wins = by_prompt(ours, judged)
    longer = by_prompt(ours, [r if w is not None else None for r, w in zip(ratios, judged, strict=True)])
    if not wins:
        return {}, {}, f"{judge} abstained on every prompt"
    ratings = by_prompt_and_rater(ours, evidence.by_rater(judge, a, b))
    names = sorted({rater for of in ratings.values() for rater in of})
    alone = np.array([[ratings.get(prompt, {}).get(rater, math.nan) for prompt in wins] for rater in names])
    try:
        values, by_rater = share_at_equal_length(
            np.array(list(wins.values())),
            np.array([longer[prompt] for prompt in wins]),
            alone if names else None,
        )
    except NoFitError as reason:
        return {}, {}, str(reason)
    return (
        dict(zip(wins, values.tolist(), strict=True)),
        keyed(list(wins), names, by_rater),
        "",
    )
