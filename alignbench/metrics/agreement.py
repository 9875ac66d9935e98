"""Agreement of every two judges of a run on the same two answers."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar

import numpy as np

from alignbench.api.metric import Cell, Evidence, Measure, Metric, Missing, Need, by_prompt
from alignbench.evaluation.comparison import column
from alignbench.metrics.fits import NoFitError, kappa
from alignbench.recipe.schema import BASE


class Agreement(Metric):
    """`agreement`: the share of prompts on which two judges give the same judgment (better, equal or worse) on
    the label's answer against that of base. `agreement.kappa`: agreement beyond chance,
    (p_o - p_e) / (1 - p_e) (Cohen 1960).

    Every two judges have their columns: `agreement@b` is judge b with the first one, `agreement@b@c` c with b.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "judge"})

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        judges = list(evidence.judges)
        if len(judges) < 2:
            reason = "the recipe names fewer than two judges"
            return [
                Missing(metric=name, **cell._asdict(), reason=reason)
                for cell in evidence.cells
                for name in ("agreement", "agreement.kappa")
            ]
        return [
            found
            for one, other in combinations(judges, 2)
            for cell in evidence.cells
            for found in _of(evidence, one, other, cell)
        ]


def _of(evidence: Evidence, one: str, other: str, cell: Cell) -> list[Measure | Missing]:
    base = Cell(BASE, cell.seed)
    columns: dict[str, dict[str, float] | str] = {}
    if cell == base:
        columns = dict.fromkeys(("agreement", "agreement.kappa"), "base is the reference of the comparison")
    elif base not in evidence.cells:
        columns = dict.fromkeys(("agreement", "agreement.kappa"), "base has no samples at this seed")
    else:
        preferences = [
            by_prompt(evidence.samples(cell), evidence.compare(judge, cell, base)) for judge in (one, other)
        ]
        both = [prompt for prompt in preferences[0] if prompt in preferences[1]]
        a, b = (np.sign(np.array([by[prompt] - 0.5 for prompt in both])) for by in preferences)
        columns["agreement"] = dict(zip(both, (a == b).astype(float).tolist(), strict=True))
        try:
            if not both:
                raise NoFitError("one of the two always abstains")
            columns["agreement.kappa"] = dict(zip(both, kappa(a, b).tolist(), strict=True))
        except NoFitError as reason:
            columns["agreement.kappa"] = str(reason)
    judges = list(evidence.judges)
    return [
        Missing(
            metric=column(name, one, judges),
            **cell._asdict(),
            judge=other,
            reason=str(values or "no common judgment"),
        )
        if isinstance(values, str) or not values
        else Measure(
            metric=column(name, one, judges),
            **cell._asdict(),
            judge=other,
            unit="share" if name == "agreement" else "kappa",
            span=(0, 1) if name == "agreement" else None,
            higher_is_better=True,
            values=values,
            description=f"agreement of {other} and {one} on the label's answers against those of base",
        )
        for name, values in columns.items()
    ]
