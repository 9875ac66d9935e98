"""Win rate: how often a judge prefers one label's answer to another's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

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
from alignbench.recipe.schema import BASE


class WinRate(Metric):
    """The share of prompts on which a judge prefers the label's answer to that of base; a tie counts half.

    Two labels are compared directly, answer against answer, not through base: their difference is the win
    rate of the first against the second, minus one half.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "comparisons"})

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        if not evidence.judges:
            return [Missing(metric="win_rate", **cell._asdict(), reason=NO_JUDGE) for cell in evidence.cells]
        return [
            self._against_base(evidence, judge, cell) for judge in evidence.judges for cell in evidence.cells
        ]

    def differences(
        self, evidence: Evidence, measures: Iterable[Measure | Missing], a: str, b: str
    ) -> list[Difference]:
        return [
            Difference(
                metric="win_rate",
                a=a,
                b=b,
                seed=seed,
                against=against,
                judge=judge,
                unit="share",
                higher_is_better=True,
                span=(-0.5, 0.5),
                values={id: share - 0.5 for id, share in _wins(evidence, judge, one, other).items()},
                by_rater={
                    id: {rater: share - 0.5 for rater, share in of.items()}
                    for id, of in _by_rater(evidence, judge, one, other).items()
                },
            )
            for judge in evidence.judges
            for seed, against in matches(evidence.cells, a, b)
            for one, other in [(Cell(a, seed), Cell(b, seed if against is None else against))]
        ]

    def _against_base(self, evidence: Evidence, judge: str, cell: Cell) -> Measure | Missing:
        base, wins = Cell(BASE, cell.seed), {}
        if cell == base:
            reason = "base is the reference of the comparison"
        elif base not in evidence.cells:
            reason = "base has no samples at this seed"
        else:
            reason, wins = f"{judge} abstained on every prompt", _wins(evidence, judge, cell, base)
        if not wins:
            return Missing(metric="win_rate", **cell._asdict(), judge=judge, reason=reason)
        return Measure(
            metric="win_rate",
            **cell._asdict(),
            judge=judge,
            unit="share",
            span=(0, 1),
            higher_is_better=True,
            values=wins,
            by_rater=_by_rater(evidence, judge, cell, base),
            description=f"how often {judge} prefers the answer to that of base; ties count half",
        )


def _wins(evidence: Evidence, judge: str, a: Cell, b: Cell) -> dict[str, float]:
    return by_prompt(evidence.samples(a), evidence.compare(judge, a, b))


def _by_rater(evidence: Evidence, judge: str, a: Cell, b: Cell) -> ByRater:
    return by_prompt_and_rater(evidence.samples(a), evidence.by_rater(judge, a, b))
