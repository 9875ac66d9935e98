"""What difference a run can find: before it is made, and afterwards from the variance of a whole column."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from alignbench.stats.estimates import (
    LEVEL,
    MIN_SEEDS,
    POWER,
    Components,
    Estimand,
    Estimate,
    Table,
    check,
    components,
)
from alignbench.stats.pool import freedom

QUANTILES = 16
"""Parts, of equal probability, of each distribution that `detectable` takes the mean over."""


@dataclass(frozen=True, slots=True)
class Planning:
    """Standard deviations of one label on one metric, from which a run's power follows before it is made."""

    seed: float
    """Of a training run's mean over very many prompts."""
    rest: float
    """Of one answer about its run's mean, once what its prompt does is taken out."""
    prompt: float = 0.0
    """Of what a prompt does to this label at every seed, and to no other label."""


PLANNING = Planning(seed=0.03, rest=0.42)
"""Of a score from 0 to 1. The labels of the quickstart have .023 and .18 (`benchmarks/proofs/sandbox_ruler.json`); a
short training on 256 rows has up to .06 between seeds (`aa.json`)."""


def detectable(
    planning: Planning,
    estimand: Estimand,
    *,
    seeds: int,
    prompts: int,
    labels: int,
    pairs: int | None = None,
    power: float = POWER,
) -> float:
    """Return the true difference of two labels that a planned run finds with probability `power`, after the
    correction for `pairs`, all of `labels` if None: its strictest step, as if no other pair differed.

    Raises NotEstimableError for fewer than three seeds (method) or two prompts.
    """
    check(seeds if estimand == "method" else MIN_SEEDS, prompts)
    alpha = (1 - LEVEL) / (pairs or math.comb(labels, 2))
    if estimand == "method" and labels > 2:
        return _of_a_pool(planning, seeds, prompts, labels, alpha, power)
    rest, prompt = 2 * planning.rest**2 / (seeds * prompts), 2 * planning.prompt**2 / prompts
    total, df = rest + prompt, prompts - 1.0
    if estimand == "method":
        total += (of_seeds := 2 * planning.seed**2 / seeds)
        df = freedom(total, seeds, prompts, pool=(of_seeds + rest, seeds - 1), rest=0.0, beyond=0.0)
    return Estimate(estimand, 0.0, math.sqrt(total), df, prompts, seeds).smallest_detectable(alpha, power)


@lru_cache(maxsize=256)
def _of_a_pool(
    planning: Planning, seeds: int, prompts: int, labels: int, alpha: float, power: float
) -> float:
    """Return what `detectable` does where the seeds are pooled over several labels.

    What a run states of its own variance varies, most with few seeds: the pool's, and that of each of the two labels,
    which counts where it is larger. The probability of a find is therefore a mean over their distributions; one of the
    mean variance would promise 80 % where three seeds find 73 %.
    """
    from scipy.special import chdtri, ndtr, stdtrit

    rest, of_prompts = planning.rest**2 / prompts, 2 * planning.prompt**2 / prompts
    own = planning.seed**2 + rest
    truth = math.sqrt(2 * own / seeds + of_prompts)
    if truth == 0:
        return 0.0
    degrees, others = seeds - 1, (labels - 1) * (seeds - 1)
    upper = (np.arange(QUANTILES) + 0.5) / QUANTILES
    of_pool, first, second = np.meshgrid(*(chdtri(df, upper) / df for df in (others, degrees, degrees)))
    pool = np.maximum(0, own * of_pool - rest)
    beyond = sum(np.maximum(0, own * one - rest - pool) for one in (first, second)) / seeds
    total = 2 * (pool + rest) / seeds + beyond + of_prompts
    by_share = (
        2 * pool / seeds / others + 2 * rest / seeds / (degrees * (prompts - 1)) + of_prompts / (prompts - 1)
    )
    df = 1 / (by_share / total + (beyond / total) ** 2 / degrees)
    needed = stdtrit(df, 1 - alpha / 2) * np.sqrt(total)

    def finds(difference: float) -> float:
        return float((ndtr((difference - needed) / truth) + ndtr((-difference - needed) / truth)).mean())

    low, high = 0.0, truth
    while finds(high) < power:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if finds(middle) >= power else (middle, high)
    return high


def planned(tables: Iterable[Table]) -> Planning:
    """Return the planning deviations that the differences [seeds, prompts] of a whole column speak for.

    They are means over all pairs, so that they do not follow the pair whose difference is in question. The
    seeds' is never below PLANNING's share of the rest: few seeds that happen to agree promise no power. One
    seed cannot tell what is the prompt's: all is `rest`.
    """
    found = [
        (components(table), table.shape[1])
        if len(table) > 1
        else (Components(0.0, 0.0, float(table.var(ddof=1))), table.shape[1])
        for table in tables
    ]
    seed, rest, prompt = np.mean(
        [(one.seed_means - one.rest / count, one.rest, one.prompt) for one, count in found], axis=0
    )
    least = rest * (PLANNING.seed / PLANNING.rest) ** 2
    return Planning(*(math.sqrt(variance / 2) for variance in (max(seed, least), rest, prompt)))
