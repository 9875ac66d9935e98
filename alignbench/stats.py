"""How sure a mean over seeds and prompts is: two estimands, never mixed, and verdicts a sceptic can check.

Everything works on a table of shape [seeds, prompts]: the values of one label, or the differences between
two labels on the same prompt at the same seed. The two questions one may ask of it:

`policies`  Do *these trained policies* differ? Seeds are fixed; prompts are a sample. A value per prompt
            (its mean over the seeds), Student's t over the prompts. All that one seed can speak of.
`method`    Would the methods differ if trained again? Seeds and prompts are both samples, crossed:
            y[s, p] = mean + seed[s] + prompt[p] + rest[s, p]. Needs three seeds or more.

Two labels that share no seed are no pairs: a table of shape [seeds of a, seeds of b, prompts] holds their
differences, every seed of the one against every seed of the other (`unpaired`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Estimand = Literal["policies", "method"]
Verdict = Literal["better", "worse", "not distinguishable"]
Table = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8
MIN_SEEDS = 3
EXACT = 12
RESAMPLES = 4999


class NotEstimableError(ValueError):
    """A table that says too little; the message is the reason to print in the cell."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its uncertainty: (mean - truth) / se follows Student's t with `df` degrees of freedom."""

    estimand: Estimand
    value: float
    se: float
    df: float
    prompts: int
    seeds: int
    tail: float | None = None
    """Degrees of freedom beyond the 95% level, where `df` is itself estimated: see `method`."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided confidence interval."""
        half = self._critical(1 - level) * self.se
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """The two-sided p value of a true mean of zero.

        Where no two values differ, t is undefined and a sign test takes its place: `n` equal signs out of
        `n` are as unlikely as 2^(1 - n), with n the prompts (policies) or the seeds (method).
        """
        from scipy.special import stdtr

        if self.value == 0:
            return 1.0
        if self.se == 0:
            return 2.0 ** (1 - (self.prompts if self.estimand == "policies" else self.seeds))
        distance = abs(self.value) / self.se
        p = float(2 * stdtr(self.df, -distance))
        if self.tail is None or p >= 1 - LEVEL:
            return p
        return float(2 * stdtr(self.tail, -distance * self._stretch(self.tail)))

    def smallest_detectable(self, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
        """The true difference that a two-sided test at `alpha` would have found with probability `power`."""
        from scipy.special import nctdtrinc

        return float(nctdtrinc(self.df, 1 - power, self._critical(alpha))) * self.se

    def _critical(self, alpha: float) -> float:
        """The distance from zero, in standard errors, that chance exceeds with probability `alpha`."""
        if self.tail is None or alpha >= 1 - LEVEL:
            return _quantile(self.df, 1 - alpha / 2)
        return _quantile(self.tail, 1 - alpha / 2) / self._stretch(self.tail)

    def _stretch(self, tail: float) -> float:
        """What makes both distributions agree at the 95% level."""
        return _quantile(tail, (1 + LEVEL) / 2) / _quantile(self.df, (1 + LEVEL) / 2)


def policies(table: Table) -> Estimate:
    """Estimate the mean of these trained policies. Raises NotEstimableError for fewer than two prompts.

    `table` is float [seeds, prompts] and complete.
    """
    seeds, prompts = table.shape
    if prompts < 2:
        raise NotEstimableError(f"an interval needs two prompts or more (got {prompts})")
    per_prompt = table.mean(axis=0)
    se = float(per_prompt.std(ddof=1)) / math.sqrt(prompts)
    return Estimate("policies", float(per_prompt.mean()), se, prompts - 1, prompts, seeds)


def method(table: Table) -> Estimate:
    """Estimate the mean over all seeds the method might have been trained with.

    `table` is float [seeds, prompts] and complete. With the mean squares of the crossed two-way layout,
    Var(mean) = (MS_seed + MS_prompt - MS_rest) / (S P). MS_prompt - MS_rest estimates a variance component
    and is cut at zero; MS_seed is never replaced by a smaller MS_rest.

    Degrees of freedom: with r = MS_seed's share of Var(mean), Satterthwaite gives
    1/df = r^2/(S-1) + (1-r)^2/(P-1). It takes r as known; but r rests on S-1 degrees of freedom, and is small
    just when the seeds happen to agree, so that with three seeds 95% intervals cover as little as 92%.
    Weighing by r instead of its square, 1/df = r/(S-1) + (1-r)/(P-1), covers 94-97% at every ratio of the
    variance components from three seeds on (`tests/stats/test_coverage.py`).

    Far out, where Holm's correction looks, an estimated df is too bold: at p = 0.05/15 chance was up to three
    times as common as it said. Beyond the 95% level the tail is that of df^(1/4) (S-1)^(3/4) degrees of
    freedom, scaled to agree at 95%: the power that keeps families of fifteen comparisons below 6.5%.

    Raises NotEstimableError for fewer than three seeds or two prompts.
    """
    seeds, prompts = table.shape
    if seeds < MIN_SEEDS:
        raise NotEstimableError(f"the method needs {MIN_SEEDS} seeds or more (got {seeds})")
    if prompts < 2:
        raise NotEstimableError(f"an interval needs two prompts or more (got {prompts})")
    mean = table.mean()
    of_seed, of_prompt = table.mean(axis=1), table.mean(axis=0)
    rest = table - of_seed[:, None] - of_prompt[None, :] + mean
    ms_seed = prompts * float(of_seed.var(ddof=1))
    ms_prompt = seeds * float(of_prompt.var(ddof=1))
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1))
    from_prompts = max(0.0, ms_prompt - ms_rest)
    total = ms_seed + from_prompts
    share = ms_seed / total if total else 1.0
    df = 1 / (share / (seeds - 1) + (1 - share) / (prompts - 1))
    tail = df**0.25 * (seeds - 1) ** 0.75
    return Estimate("method", float(mean), math.sqrt(total / (seeds * prompts)), df, prompts, seeds, tail)


def unpaired(table: Table) -> Estimate:
    """Estimate the difference of two methods that were trained with seeds of their own, on the same prompts.

    `table` is float [seeds of a, seeds of b, prompts] and complete. The seeds of each side vary by
    themselves, the prompts are crossed with both:
    Var(mean) = Var(seed means of a)/A + Var(seed means of b)/B + (Var(prompt means) - Var(rest))/P.
    With two sides that estimate it, the seeds' variance is rarely small by chance on both, so that
    Satterthwaite's own degrees of freedom cover 94-97%.

    Raises NotEstimableError where a side has fewer than three seeds, or for fewer than two prompts.
    """
    *sides, prompts = table.shape
    if min(sides) < MIN_SEEDS:
        raise NotEstimableError(f"the method needs {MIN_SEEDS} seeds or more (got {min(sides)})")
    if prompts < 2:
        raise NotEstimableError(f"an interval needs two prompts or more (got {prompts})")
    of_prompt = table.mean(axis=(0, 1))
    parts, rest = [], 0.0
    for side, seeds in enumerate(sides):
        own = table.mean(axis=1 - side)
        of_seed = own.mean(axis=1)
        noise = own - of_seed[:, None] - of_prompt[None, :] + own.mean()
        parts.append((float(of_seed.var(ddof=1)) / seeds, seeds - 1))
        rest += float((noise**2).sum()) / ((seeds - 1) * (prompts - 1)) / (seeds * prompts)
    parts.append((max(0.0, float(of_prompt.var(ddof=1)) / prompts - rest), prompts - 1))
    total = sum(part for part, _ in parts)
    df = total**2 / sum(part**2 / freedom for part, freedom in parts) if total else min(sides) - 1
    return Estimate("method", float(table.mean()), math.sqrt(total), df, prompts, min(sides))


def permutation(table: Table) -> float:
    """Return the two-sided p value of a paired permutation test over prompts: which label is which is as
    likely one way as the other, prompt by prompt.

    `table` is float [seeds, prompts], differences; a prompt's seeds change sign together. Up to 12 prompts
    every pattern of signs is tried, from there on RESAMPLES drawn ones, the same in every call.
    """
    per_prompt = table.mean(axis=0)
    count, limit = len(per_prompt), abs(float(per_prompt.sum())) * (1 - 1e-12)
    extreme = int((np.abs(_signs(count) @ per_prompt) >= limit).sum())
    return extreme / 2**count if count <= EXACT else (1 + extreme) / (1 + RESAMPLES)


@lru_cache(maxsize=4)
def _signs(count: int) -> Table:
    if count <= EXACT:
        flips = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        flips = np.random.default_rng(0).integers(0, 2, (RESAMPLES, count))
    return (1 - 2 * flips).astype(np.float64)


ESTIMATORS: Mapping[Estimand, Callable[[Table], Estimate]] = {"policies": policies, "method": method}


def tabulate(per_seed: Sequence[Mapping[str, float]]) -> Table:
    """Return the table [seeds, prompts] of the prompts that every seed has, in the order of the first seed.

    Raises NotEstimableError where no prompt has a value at every seed, or a value is not finite.
    """
    common = set.intersection(*map(set, per_seed)) if per_seed else set()
    if not common:
        raise NotEstimableError("no prompt has a value at every seed")
    order = [id for id in per_seed[0] if id in common]
    table = np.array([[values[id] for id in order] for values in per_seed], dtype=np.float64)
    if odd := table.size - int(np.isfinite(table).sum()):
        raise NotEstimableError(f"{odd} of {table.size} values are not finite")
    return table


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjust p values so that the chance of one false verdict among them is at most alpha (Holm 1979)."""
    p = np.asarray(list(p_values), dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted.tolist()


def verdict(difference: float, p_adjusted: float, higher_is_better: bool | None) -> Verdict | None:
    """Say whether a difference is real, and in whose favour; None where neither direction is better."""
    if higher_is_better is None:
        return None
    if difference != 0 and p_adjusted <= 1 - LEVEL:
        return "better" if (difference > 0) == higher_is_better else "worse"
    return "not distinguishable"


def _quantile(df: float, probability: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))
