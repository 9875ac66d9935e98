"""The seeds' variance of several labels: pooled over those that vary alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignbench.stats.estimates import Components, Estimate, Pair, Table, check, components, method

UNLIKE = 0.001
"""Nominal probability that a label which varies like the others is kept out of the pool: see `alike`."""


def pooled(tables: Mapping[Pair, Table], alpha: float = UNLIKE) -> dict[Pair, Estimate]:
    """Estimate the differences of several methods, with the seeds' variance pooled over the labels that vary alike.

    `tables` holds, for each pair of labels, the differences [seeds, prompts], complete. Three seeds say
    little about how much seeds vary, seven labels with three seeds each say a lot. The variance of a pair's
    seed means is the sum of those of its two labels, so that all pairs together give one variance w for each
    label by least squares (Grubbs 1948). Its part `rest / prompts` is well known; what is left over is the
    seeds' own, and its mean over the labels, cut at zero, is the pool. A label weighs in it by how well its own
    is known, which its answers' noise hides: a label with three times the deviation of answers would lower the
    pool by chance, and half as many runs again found a difference among equal labels. A label counts with the pool's
    variance, or with its own where that is larger: the guard for a label that is somewhat less stable than the
    others. Var(mean) = (w_a + w_b)/S + prompt/P.

    Labels that vary far more than the others would hide their differences behind their own variance. They leave
    the pool (`alike`), and their pairs are estimated by themselves, as `method` does. With an `alpha` of 0 none does.

    Degrees of freedom: the parts of Var(mean) weigh as in `method`, by their shares: the pool's has
    (L-1)(S-1) for L labels of equal weight (else L is 1 / the sum of their squares), rest (S-1)(P-1), the
    prompts' P-1. What a label varies beyond the pool rests on its own S-1 and weighs by the square of its
    share, as Satterthwaite has it.
    `benchmarks/proofs/power.py` measures power and false positives.

    Where the pairs do not determine a variance for each label (two labels, or one against all others only),
    each pair is estimated by itself too. Raises NotEstimableError for a table with fewer than three seeds or two
    prompts.
    """
    for table in tables.values():
        check(*table.shape)
    found = {pair: _side(table) for pair, table in tables.items()}
    pool = _pool(same := _alike(found, alpha))
    return {
        pair: method(table) if pool is None or pair not in same else pool.estimate(pair, table)
        for pair, table in tables.items()
    }


def alike(tables: Mapping[Pair, Table]) -> dict[Pair, Table]:
    """Return the tables of labels whose seeds vary alike: those of the pool.

    Left out are labels whose variance is beyond what chance makes of equal ones (`outlier`): of at most half of the
    labels the largest number such that the last of them still is, among all that vary less. Several unstable labels
    then do not hide one another. It is done again with what is left.
    """
    return {
        pair: tables[pair] for pair in _alike({pair: _side(table) for pair, table in tables.items()}, UNLIKE)
    }


class _Side(NamedTuple):
    """What is known of one pair's table."""

    seeds: int
    prompts: int
    found: Components


def _side(table: Table) -> _Side:
    seeds, prompts = table.shape
    return _Side(seeds, prompts, components(table))


def _alike(sides: Mapping[Pair, _Side], alpha: float) -> dict[Pair, _Side]:
    same = dict(sides)
    while (pool := _pool(same)) is not None and (odd := _outliers(same, pool.own, alpha)):
        same = _without(same, odd)
    return same


def _outliers(sides: Mapping[Pair, _Side], own: Mapping[str, float], alpha: float) -> list[str]:
    ranked = sorted(own, key=own.__getitem__, reverse=True)
    for count in range((len(ranked) - 1) // 2, 0, -1):
        larger = ranked[: count - 1]
        # Estimated again without the larger ones, whose noise is in every variance that is estimated with them.
        pool = _pool(rest := _without(sides, larger))
        if pool is not None:
            last = outlier(pool.own, min(one.seeds for one in rest.values()) - 1, alpha)
            if last is not None:
                return [*larger, last]
    return []


def _without(sides: Mapping[Pair, _Side], labels: Sequence[str]) -> dict[Pair, _Side]:
    return {pair: one for pair, one in sides.items() if not set(pair) & set(labels)}


@dataclass(frozen=True, slots=True)
class _Pool:
    """The seeds' variance of several labels."""

    own: Mapping[str, float]
    """Of a label's seed means, `rest` included."""
    rest: Mapping[str, float]
    """What the answers leave in it."""
    seeds: float
    """Of the seeds themselves: a mean over the labels."""
    freedom: float

    def estimate(self, pair: Pair, table: Table) -> Estimate:
        """Return the estimate of one pair's difference."""
        count, asked = table.shape
        of_rest = sum(self.rest[label] for label in pair) / count
        excess = sum(max(0.0, self.own[one] - self.rest[one] - self.seeds) for one in pair) / count
        of_pool, of_prompts = 2 * self.seeds / count, components(table).prompt / asked
        total = of_pool + of_rest + excess + of_prompts
        df = freedom(total, count, asked, pool=(of_pool, self.freedom), rest=of_rest, beyond=excess)
        return Estimate(
            "method",
            float(table.mean()),
            math.sqrt(total),
            df,
            asked,
            count,
            of_seeds=of_pool + excess,
            of_prompts=of_prompts,
        )


def _pool(sides: Mapping[Pair, _Side]) -> _Pool | None:
    """Return the pool of all labels; None where the pairs do not determine a variance for each."""
    labels = list(dict.fromkeys(label for pair in sides for label in pair))
    design = np.array([[float(label in pair) for label in labels] for pair in sides])
    if len(labels) < 3 or np.linalg.matrix_rank(design) < len(labels):
        return None
    seeds, prompts = (np.array(column) for column in zip(*(one[:2] for one in sides.values()), strict=True))
    found = [one.found for one in sides.values()]
    weights = np.sqrt(seeds - 1)[:, None]
    values = np.stack([[one.seed_means for one in found], [one.rest for one in found] / prompts], axis=1)
    solved = np.linalg.lstsq(design * weights, values * weights, rcond=None)[0]
    own, rest = solved[:, 0], np.maximum(0.0, solved[:, 1])
    weight = precision(own, rest)
    return _Pool(
        dict(zip(labels, own.tolist(), strict=True)),
        dict(zip(labels, rest.tolist(), strict=True)),
        max(0.0, float(weight @ (own - rest))),
        max(1.0, 1 / float(weight @ weight) - 1) * (int(seeds.min()) - 1),
    )


def precision(own: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weight of each label [L] in the pool of the seeds' variance; they add up to one.

    It is the inverse of what a label's seed means are expected to vary: by its `rest`, and by the mean of what is `own`
    beyond it. Were the seeds' variance certain to be equal, the square of that would be best; but a label with little
    noise of answers may vary less between seeds as well, and would then speak for all. No label weighs more than a
    thousand times another.
    """
    expected = rest + max(0.0, float((own - rest).mean()))
    if not expected.max() > 0:
        return np.full(len(own), 1 / len(own))
    weight = 1 / np.maximum(expected, expected.max() / 1000)
    return weight / weight.sum()


def outlier(variances: Mapping[str, float], df: int, alpha: float = UNLIKE) -> str | None:
    """Return the label whose variance is larger than chance makes the largest of equal ones; None if there is none.

    Each rests on `df` degrees of freedom. By the largest share of their sum, with probability `alpha` of a false
    outlier where they are independent (Cochran 1941, Annals of Eugenics 11). Those of `pooled` are estimated together;
    `benchmarks/proofs/power.py` measures how often a label leaves the pool.
    """
    from scipy.special import fdtri

    total, count = sum(max(0.0, one) for one in variances.values()), len(variances)
    odd = max(variances, key=variances.__getitem__)
    if total <= 0 or alpha == 0:
        return None
    bound = float(fdtri(df, (count - 1) * df, 1 - alpha / count))
    return odd if variances[odd] / total > bound / (bound + count - 1) else None


def freedom(
    total: float, seeds: int, prompts: int, *, pool: tuple[float, float], rest: float, beyond: float
) -> float:
    """The degrees of freedom of a variance `total`, of which `pool` (with its own), `rest` and `beyond` are
    parts and the remainder is the prompts'."""
    if total == 0:
        return seeds - 1.0
    of_prompts = total - pool[0] - rest - beyond
    by_share = pool[0] / pool[1] + rest / ((seeds - 1) * (prompts - 1)) + of_prompts / (prompts - 1)
    return 1 / (by_share / total + (beyond / total) ** 2 / (seeds - 1))
