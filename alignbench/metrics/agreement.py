"""Agreement of every two judges of a run on the same two answers, and of a judge with people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
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

    `agreement.person`, where a judge is several raters: how much more often another judge orders two answers as one of
    them does than a second one of them does, on the same answers; a tie of one side alone counts half. 0: the judge
    agrees with people as often as people agree with each other.
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
            *(
                found
                for one, other in combinations(judges, 2)
                for cell in evidence.cells
                for found in _of(evidence, one, other, cell)
            ),
            *_with_people(evidence),
        ]


def alike(x: float, y: float) -> float:
    """Return 1 where two preferences are on the same side of one half, one half where only one of them is a tie."""
    return 1 - abs(int(np.sign(x - 0.5)) - int(np.sign(y - 0.5))) / 2


def _with_people(evidence: Evidence) -> Iterator[Measure]:
    """Each judge that is not people against the first that is: two raters or more who saw the same answers."""
    for cell in evidence.cells:
        base = Cell(BASE, cell.seed)
        if cell == base or base not in evidence.cells:
            continue
        rated = ((name, evidence.by_rater(name, cell, base)) for name in evidence.judges)
        people = next(((name, of) for name, of in rated if any(len(one) > 1 for one in of)), None)
        if people is None:
            continue
        for name, judge in evidence.judges.items():
            if name == people[0] or judge.recorded:
                continue
            values = _more_than_a_second_person(evidence, cell, base, name, people[1])
            if values:
                yield Measure(
                    metric="agreement.person",
                    **cell._asdict(),
                    judge=name,
                    unit="share",
                    span=(-1, 1),
                    higher_is_better=True,
                    values=values,
                    description=f"{name}'s agreement with a rater of {people[0]} less that of another rater",
                )


def _more_than_a_second_person(
    evidence: Evidence, cell: Cell, base: Cell, judge: str, ratings: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """By prompt, the judge's agreement with the raters less that of the raters with each other."""
    ours, theirs = evidence.samples(cell), evidence.samples(base)
    found: list[float | None] = []
    for place, judgment in enumerate(evidence.compare(judge, cell, base)):
        raters = list(ratings[place].values())
        if judgment is None or len(raters) < 2 or ours[place].text == theirs[place].text:
            found.append(None)  # two equal texts are a tie of everybody
            continue
        found.append(
            fmean(alike(judgment, one) for one in raters)
            - fmean(alike(x, y) for x, y in combinations(raters, 2))
        )
    return by_prompt(ours, found)


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
