"""The verdicts of many runs at once, for simulations: `alignbench.stats.pooled` and `method` on arrays of runs.

A run is an array [labels, seeds, prompts] of complete values; here are [runs, labels, seeds, prompts]. The numbers are
those of `alignbench.stats` (`tests/stats/test_power.py` compares them), some hundred times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, stdtr, stdtrit

from alignbench import stats

Values = NDArray[np.float64]
Members = NDArray[np.bool_]


@dataclass(frozen=True)
class Differences:
    """What is known of every two labels of each run: arrays [runs, pairs], pairs in the order of `combinations`."""

    value: Values
    seed_means: Values
    prompt: Values
    rest: Values
    labels: int
    seeds: int
    prompts: int


@dataclass(frozen=True)
class Estimates:
    """`alignbench.stats.Estimate` of every two labels of each run: arrays [runs, pairs]."""

    value: Values
    se: Values
    df: Values
    tail: Values
    """NaN where there is none."""

    def p_values(self) -> Values:
        """The two-sided p value of a true difference of zero."""
        distance = np.abs(self.value) / self.se
        p = 2 * stdtr(self.df, -distance)
        edge = (1 + stats.LEVEL) / 2
        tail = np.where(np.isnan(self.tail), self.df, self.tail)
        stretch = stdtrit(tail, edge) / stdtrit(self.df, edge)
        return np.where(p >= 1 - stats.LEVEL, p, 2 * stdtr(tail, -distance * stretch))

    def half(self) -> Values:
        """Half of the 95 % interval."""
        return stdtrit(self.df, (1 + stats.LEVEL) / 2) * self.se

    def cautious(self, seeds: int) -> Estimates:
        """The same with the far tail of `alignbench.stats.cautious`."""
        tail = np.where(np.isnan(self.tail), far_tail(self.df, seeds), self.tail)
        return Estimates(self.value, self.se, self.df, tail)


def differences(values: Values) -> Differences:
    """Return the mean and the components of variance of every two labels' difference.

    A label's seeds, prompts and what is left are orthogonal, so that sums of products between labels are all it takes.
    """
    _, labels, seeds, prompts = values.shape
    first, second = np.array(list(combinations(range(labels), 2))).T
    mean = values.mean((2, 3))
    of_seed, of_prompt = values.mean(3) - mean[..., None], values.mean(2) - mean[..., None]
    rest = values - mean[..., None, None] - of_seed[..., None] - of_prompt[:, :, None]

    def squared(parts: Values) -> Values:
        """The sum of squares of each two labels' difference."""
        flat = parts.reshape(*parts.shape[:2], -1)
        products = flat @ flat.transpose(0, 2, 1)
        own = products.diagonal(axis1=1, axis2=2)
        return own[:, first] + own[:, second] - 2 * products[:, first, second]

    left = squared(rest) / ((seeds - 1) * (prompts - 1))
    return Differences(
        value=mean[:, first] - mean[:, second],
        seed_means=squared(of_seed) / (seeds - 1),
        prompt=np.maximum(0, squared(of_prompt) / (prompts - 1) - left / seeds),
        rest=left,
        labels=labels,
        seeds=seeds,
        prompts=prompts,
    )


def by_itself(found: Differences) -> Estimates:
    """Return every pair's estimate by itself: `alignbench.stats.method`."""
    seeds, prompts = found.seeds, found.prompts
    of_seeds, of_prompts = found.seed_means / seeds, found.prompt / prompts
    total = of_seeds + of_prompts
    share = of_seeds / total
    df = 1 / (share / (seeds - 1) + (1 - share) / (prompts - 1))
    return Estimates(found.value, np.sqrt(total), df, far_tail(df, seeds))


def far_tail(df: Values, seeds: int) -> Values:
    """See `alignbench.stats.far_tail`."""
    return np.minimum(df, df**0.25 * (seeds - 1) ** 0.75)


def pooled(found: Differences, alpha: float = stats.UNLIKE) -> Estimates:
    """Return every pair's estimate with the seeds pooled over the labels: `alignbench.stats.pooled`."""
    seeds, prompts = found.seeds, found.prompts
    inside = alike(found, alpha)
    first, second = np.array(list(combinations(range(found.labels), 2))).T
    own = of_labels(found.seed_means, inside)
    rest = np.maximum(0, of_labels(found.rest / prompts, inside))
    count = inside.sum(1)[:, None]
    weight = precision(own, rest, inside)
    of_seeds = np.maximum(0, np.where(inside, weight * (own - rest), 0).sum(1, keepdims=True))
    freedom = np.maximum(1, 1 / (weight**2).sum(1, keepdims=True) - 1) * (seeds - 1)
    beyond = np.maximum(0, own - rest - of_seeds)
    of_pool = np.broadcast_to(2 * of_seeds / seeds, found.value.shape)
    of_rest, excess = ((one[:, first] + one[:, second]) / seeds for one in (rest, beyond))
    of_prompts = found.prompt / prompts
    total = of_pool + of_rest + excess + of_prompts
    by_share = of_pool / freedom + of_rest / ((seeds - 1) * (prompts - 1)) + of_prompts / (prompts - 1)
    df = 1 / (by_share / total + (excess / total) ** 2 / (seeds - 1))
    alone = by_itself(found)
    both = inside[:, first] & inside[:, second] & (count >= 3)
    return Estimates(
        found.value,
        np.where(both, np.sqrt(total), alone.se),
        np.where(both, df, alone.df),
        np.where(both, np.nan, alone.tail),
    )


def precision(own: Values, rest: Values, inside: Members) -> Values:
    """Return the weight of each label [runs, labels] in the pool: `alignbench.stats.pool.precision`."""
    count = inside.sum(1, keepdims=True)
    mean = np.where(inside, own - rest, 0).sum(1, keepdims=True) / count
    expected = np.where(inside, rest, 0) + np.maximum(0, mean)
    weight = np.where(inside, 1 / np.maximum(expected, expected.max(1, keepdims=True) / 1000), 0)
    return weight / weight.sum(1, keepdims=True)


def of_labels(of_pairs: Values, inside: Members) -> Values:
    """Return the variance of each label [runs, labels] of which those of the pairs are sums, by least squares.

    Of the labels `inside` alone; NaN for the others, and where fewer than three are.
    """
    labels = inside.shape[1]
    first, second = np.array(list(combinations(range(labels), 2))).T
    square = np.zeros((len(inside), labels, labels))
    square[:, first, second] = square[:, second, first] = of_pairs
    square *= inside[:, :, None] & inside[:, None]
    count, of_label = inside.sum(1)[:, None], square.sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (of_label - of_label.sum(1, keepdims=True) / 2 / (count - 1)) / (count - 2)
    return np.where(inside & (count >= 3), found, np.nan)


def alike(found: Differences, alpha: float) -> Members:
    """Return which labels [runs, labels] vary alike, by their seeds: `alignbench.stats.alike`."""
    inside = np.ones((len(found.value), found.labels), bool)
    open_ = np.arange(len(inside)) if alpha else np.arange(0)
    while len(open_):
        odd = _outliers(found.seed_means[open_], inside[open_], found.seeds - 1, alpha)
        inside[open_] &= ~odd
        open_ = open_[odd.any(1)]
    return inside


def _outliers(seed_means: Values, inside: Members, df: int, alpha: float) -> Members:
    """Return the labels that leave: of at most half, the largest number such that the last of them is an outlier."""
    own = np.nan_to_num(of_labels(seed_means, inside), nan=-np.inf)
    order = np.argsort(-own, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    labels, known = inside.sum(1), np.zeros(len(inside), bool)
    odd = np.zeros_like(inside)
    for count in range((inside.shape[1] - 1) // 2, 0, -1):
        among = inside & (ranks >= count - 1)
        some = of_labels(seed_means, among)
        last, out = _outlier(some, among.sum(1), df, alpha)
        leaves = out & ~known & (count <= (labels - 1) // 2) & (among.sum(1) >= 3)
        odd[leaves] = (inside & (ranks < count - 1))[leaves]
        odd[leaves, last[leaves]] = True
        known |= leaves
    return odd


def _outlier(variances: Values, count: Any, df: int, alpha: float) -> tuple[NDArray[np.intp], Members]:
    """Return the label with the largest variance of each run, and whether it is an outlier: `alignbench.stats`."""
    total = np.where(np.isnan(variances), 0, np.maximum(0, variances)).sum(1)
    largest = np.nan_to_num(variances, nan=-np.inf).argmax(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = fdtri(df, (count - 1) * df, 1 - alpha / count)
        share = variances[np.arange(len(variances)), largest] / total
        return largest, (total > 0) & (share > bound / (bound + count - 1))


def holm(p: Values) -> Values:
    """Return p values [runs, pairs] after the correction over a run's pairs: `alignbench.stats.holm`."""
    order = np.argsort(p, axis=1, kind="stable")
    stepped = np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(stepped, axis=1)), 1)
    return adjusted
