"""Raters as a source of variance: what an interval is wider by when other raters could have been asked.

A prompt's value is the mean over its raters. With y[p, r] = mean + prompt[p] + rater[r] + rest[p, r], the spread
of the prompts' values holds what prompts and the rest vary, and not what every prompt has in common: that
these raters, and no others, were asked. Not every rater sees every prompt; the variances are found by the
method of moments from differences within prompts, within raters and over all (Gao and Owen 2017, Electronic
Journal of Statistics 11(1)).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from alignbench.api.metric import ByRater
from alignbench.results import MIN_RATERS
from alignbench.stats import Estimate, far_tail

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Raters:
    """How the raters of a mean over prompts add to its variance."""

    count: int
    added: float
    """What they add to the variance that the prompts' values show."""
    share: float
    """Variance of the mean that rests on them: their own, and that of the rest."""
    df: float
    """Degrees of freedom of their own variance: one less than as many raters with equal weights."""

    @property
    def vary(self) -> bool:
        """Whether they are a sample of raters; with fewer than three the mean is about these alone."""
        return self.count >= MIN_RATERS


def raters_of(per_seed: Sequence[ByRater], clusters: Mapping[str, str] | None = None) -> Raters | None:
    """Return what raters are to the mean over the prompts that every seed has; None where there are none.

    Several seeds count with each rater's mean over them. Prompts with an equal value in `clusters` are one
    prompt to the variances (`alignbench.stats.tabulate`).
    """
    common = set.intersection(*map(set, per_seed)) if per_seed else set()
    order = [id for id in (per_seed[0] if per_seed else ()) if id in common]
    names = sorted({rater for of in per_seed for id in order for rater in of[id]})
    if not names:
        return None
    place = {rater: number for number, rater in enumerate(names)}
    weights = np.zeros((len(order), len(names)))
    cells: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row, id in enumerate(order):
        for of in per_seed:
            for rater, value in of[id].items():
                weights[row, place[rater]] += 1 / (len(of[id]) * len(per_seed))
                cells[(clusters or {}).get(id, id), place[rater]].append(value)
    prompts = len(order)
    squares = float((weights.mean(axis=0) ** 2).sum())
    df = max(1.0, 1 / squares - 1)
    if len(names) < MIN_RATERS or prompts < 2:
        return Raters(len(names), 0.0, 0.0, df)
    each = float((weights**2).sum())
    seen = (each - prompts * squares) / (prompts * (prompts - 1))  # of `rater` in the prompts' own spread
    ids = {id: row for row, id in enumerate(dict.fromkeys(id for id, _ in cells))}
    rater, rest = _components(
        np.array([fmean(ones) for ones in cells.values()]),
        np.array([ids[id] for id, _ in cells]),
        np.array([number for _, number in cells]),
    )
    added = rater * max(0.0, squares - seen)
    return Raters(len(names), added, rater * squares + rest * each / prompts**2, df)


def with_raters(one: Estimate, raters: Raters | None) -> Estimate:
    """Return an estimate whose interval holds for other raters too; as it is where the raters are not a sample.

    Satterthwaite's degrees of freedom take the raters' share of the variance as it is, not its square, and the
    tail is heavier beyond the 95% level, as `alignbench.stats.method` has both for seeds: the share rests on
    few raters and is too often small by chance.
    """
    if raters is None or not raters.vary or one.se**2 + raters.added == 0:
        return one
    total = one.se**2 + raters.added
    share = min(1.0, raters.share / total)
    df = 1 / (share / raters.df + (1 - share) / one.df)
    tail = far_tail(df, min(raters.df, one.tail or one.df))
    return replace(one, se=math.sqrt(total), df=df, tail=tail)


def _components(y: Array, row: NDArray[np.int64], column: NDArray[np.int64]) -> tuple[float, float]:
    """The variances of raters (`column`) and of the rest, none below zero.

    Where the design cannot tell two of the three apart, as with one rater for each prompt, they share what
    was found of both.
    """
    y = y - y.mean()
    n = len(y)
    per_row, per_column = np.bincount(row), np.bincount(column)

    def within(group: NDArray[np.int64], sizes: NDArray[np.int64]) -> float:
        sums = np.bincount(group, y, minlength=len(sizes))
        return float((y**2).sum() - (sums**2 / sizes).sum())

    # E[within prompts] = (rater + rest)(n - P), E[within raters] = (prompt + rest)(n - R), and over all pairs
    # E = prompt (n^2 - sum n_p^2) + rater (n^2 - sum n_r^2) + rest (n^2 - n); each divided by its n or n^2.
    system = np.array(
        [
            [1 - len(per_row) / n, 0.0, 1 - len(per_row) / n],
            [0.0, 1 - len(per_column) / n, 1 - len(per_column) / n],
            [1 - (per_column**2).sum() / n**2, 1 - (per_row**2).sum() / n**2, 1 - 1 / n],
        ]
    )
    found = [within(row, per_row) / n, within(column, per_column) / n, float((y**2).sum()) / n]
    rater, _, rest = np.linalg.lstsq(system, np.array(found), rcond=1e-9)[0]
    return max(0.0, float(rater)), max(0.0, float(rest))
