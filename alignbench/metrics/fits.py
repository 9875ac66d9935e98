"""Fits to all prompts at once (ratio, logistic regression, Bradley-Terry) as values per prompt whose mean is the fit.

A fit's influence function says how far each prompt moves it. Fit plus influence is a value per prompt whose
mean is the fit and whose spread is the fit's sandwich variance, so that the two estimands of
`alignbench.stats` hold for a fit as they hold for a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class NoFitError(ValueError):
    """A fit that has no finite solution; the message is the reason to print in the cell."""


def ratio(numerators: Array, denominators: Array) -> Array:
    """Return values [N] whose mean is sum(numerators) / sum(denominators)."""
    whole = numerators.sum() / denominators.sum()
    return whole + (numerators - whole * denominators) / denominators.mean()


def share_at_equal_length(wins: Array, lengths: Array, by_rater: Array | None = None) -> tuple[Array, Array]:
    """Return values [N] whose mean is the win rate that a logistic regression gives at equal length.

    `by_rater` [R, N] holds the wins by each rater, nan where there are none, whose means `wins` are; the
    second result, [R, N], is what each rater's wins make of the values.

    `wins` [N] are shares in [0, 1], `lengths` [N] a measure of how much longer the first answer is: 0 where
    equal, and of opposite sign where the answers change places. Law: where all lengths are 0 the values are
    `wins`. Raises NoFitError where length alone decides who wins.

    Few prompts, or lengths far from zero, make the sandwich variance too small just where the fit nears 0
    or 1. The intercept's variance is therefore at least the model's (times the share of what is no tie), and
    its way to the share takes the steeper of the secants two standard errors up and down, which is the
    derivative where there are many prompts. Where one side always wins the fit is Firth's (1993), which is
    finite.
    """
    if not lengths.any():
        return wins.astype(np.float64), np.zeros((0, len(wins))) if by_rater is None else by_rater
    design = np.stack([np.ones_like(lengths), lengths], axis=1)
    one_sided = wins.sum() in (0, len(wins))
    weights, residuals, information = _newton(design, wins, "length alone decides who wins", firth=one_sided)
    covariance = np.linalg.inv(information)
    influence = len(wins) * (covariance @ (design * residuals[:, None]).T)[0]
    spread = np.sqrt((influence**2).mean() / len(wins))
    least = np.sqrt(4 * ((wins - 0.5) ** 2).mean() * covariance[0, 0])
    stretch = max(1.0, least / spread) if spread else 1.0
    step = 2 * max(spread, least)
    low, share, high = 1 / (1 + np.exp(-weights[0] + np.array([step, 0.0, -step])))
    slope = max(high - share, share - low) / step if step else share * (1 - share)
    values = share + slope * stretch * influence
    if by_rater is None:
        return values, np.zeros((0, len(wins)))
    moved = len(wins) * (covariance @ design.T)[0] * (by_rater - wins)
    return values, values + slope * stretch * moved


def strengths(wins: Array, by_rater: Array | None = None) -> tuple[Array, Array]:
    """Return Bradley-Terry strengths [N, K] of K players, the first at 0; their mean over N is the fit.

    `wins` [N, K, K] holds the share of wins of player i over player j at prompt n, nan where they did not
    meet. `by_rater` [R, N, K, K] holds the same by each rater, whose means `wins` are; the second result,
    [R, N, K], is then what each rater's judgments on a prompt make of its strengths, nan where the rater gave
    none: the mean over a prompt's raters is its row of the first. Maximises the sum of
    wins_ij log sigma(s_i - s_j). Raises NoFitError where some players never lose to the others: their strength
    has no bound (Ford 1957).
    """
    from scipy.sparse.csgraph import connected_components

    count, players, _ = wins.shape
    total = np.nansum(wins, axis=0)
    if connected_components(total > 0, directed=True, connection="strong")[0] > 1:
        raise NoFitError("some label wins every time: its strength has no bound")
    rows, columns = np.tril_indices(players, -1)
    place, pair = np.nonzero(np.isfinite(wins[:, rows, columns]))
    one, other = rows[pair], columns[pair]
    design = np.zeros((len(place), players))
    design[np.arange(len(place)), one] = 1
    design[np.arange(len(place)), other] = -1
    design = design[:, 1:]
    weights, residuals, information = _newton(design, wins[place, one, other], "")

    def influence(of_pair: Array) -> Array:
        scores = np.zeros((count, players - 1))
        np.add.at(scores, place, design * of_pair[:, None])
        found = np.zeros((count, players))
        found[:, 1:] = weights + count * np.linalg.solve(information, scores.T).T
        return found

    alone = []
    if by_rater is not None:
        ratings = by_rater[:, place, one, other]  # [R, comparisons]
        there = np.asarray(np.isfinite(by_rater).any(axis=(2, 3)))  # [R, N]
        # A rater who did not see these two is not counted for them; those who did are counted for all at the prompt.
        share = there.sum(axis=0)[place] / np.isfinite(ratings).sum(axis=0)
        expected = wins[place, one, other] - residuals
        alone = [influence(np.nan_to_num((of - expected) * share)) for of in ratings]
        for found, seen in zip(alone, there, strict=True):
            found[~seen] = np.nan
    return influence(residuals), np.array(alone)


def keyed(prompts: Sequence[str], raters: Sequence[str], values: Array) -> dict[str, dict[str, float]]:
    """Return `values` [R, N] by prompt and rater, without nan; empty without raters."""
    return {
        prompt: {rater: float(values[r, n]) for r, rater in enumerate(raters) if np.isfinite(values[r, n])}
        for n, prompt in enumerate(prompts if raters else ())
    }


def kappa(a: Array, b: Array) -> Array:
    """Return values [N] whose mean is Cohen's kappa of two raters' classes `a` and `b`, each [N].

    Raises NoFitError where both always say the same one thing: chance alone would agree.
    """
    classes = np.union1d(a, b)
    mine, theirs = (side[:, None] == classes for side in (a, b))
    p, q = mine.mean(axis=0), theirs.mean(axis=0)
    equal, chance = a == b, float(p @ q)
    if chance == 1:
        raise NoFitError("both always say the same")
    moved = mine @ q + theirs @ p - 2 * chance
    rate = equal.mean()
    value = 1 - (1 - rate) / (1 - chance)
    return value + (equal - rate) / (1 - chance) - (1 - rate) / (1 - chance) ** 2 * moved


def _newton(
    design: Array, shares: Array, unbounded: str, *, firth: bool = False
) -> tuple[Array, Array, Array]:
    """Fit a logistic regression of `shares` in [0, 1]; return weights, residuals and Fisher information.

    `firth`: with Jeffreys' prior, under which the residuals are those that its score sums.
    """
    weights = np.zeros(design.shape[1])
    for _ in range(100):
        expected = 1 / (1 + np.exp(-design @ weights))
        residuals = shares - expected
        variance = expected * (1 - expected)
        information = (design * variance[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            break
        if firth:
            leverage = variance * np.einsum("ni,ni->n", design @ np.linalg.inv(information), design)
            residuals = residuals + leverage * (0.5 - expected)
        step = np.linalg.solve(information, design.T @ residuals)
        weights = weights + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < (1e-9 if firth else 1e-12):  # Firth's steps shrink linearly
            return weights, residuals, information
    raise NoFitError(unbounded or "the fit does not converge")
