"""The mean of a table of seeds and prompts with its uncertainty, under either estimand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Estimand = Literal["policies", "method"]
Table = NDArray[np.float64]
Pair = tuple[str, str]

LEVEL = 0.95
POWER = 0.8
MIN_SEEDS = 3
EXACT = 12
RESAMPLES = 4999
MOST = 100_000
"""Seeds, or prompts, beyond which `Estimate.needed` asks for none."""
_FEW_PROMPTS = "an interval needs two prompts or more (got {})"


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
    centre: float | None = None
    """The middle of the interval, where it is not `value`: see `with_prior`."""
    span: tuple[float, float] = (-math.inf, math.inf)
    """The least and the greatest mean there can be; the interval ends there."""
    of_seeds: float = 0.0
    """The part of se squared that more seeds reduce and more prompts do not."""
    of_prompts: float = 0.0
    """The part of se squared that more prompts reduce and more seeds do not; both reduce what is left."""

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided confidence interval."""
        half = self._critical(1 - level) * self.se
        return max(self.span[0], self._middle - half), min(self.span[1], self._middle + half)

    def p_value(self) -> float:
        """The two-sided p value of a true mean of zero.

        Where no two values differ, t is undefined and a sign test takes its place: `n` equal signs out of
        `n` are as unlikely as 2^(1 - n), with n the prompts (policies) or the seeds (method).
        """
        if self.value == 0:
            return 1.0
        return self._two_sided(abs(self._middle))

    def p_above(self, bound: float = 0.0) -> float:
        """The p value of the one-sided test of a true mean at or below `bound`."""
        distance = self._middle - bound
        tail = self._two_sided(abs(distance)) / 2
        return tail if distance > 0 else 1 - tail

    def p_below(self, bound: float = 0.0) -> float:
        """The p value of the one-sided test of a true mean at or above `bound`."""
        distance = bound - self._middle
        tail = self._two_sided(abs(distance)) / 2
        return tail if distance > 0 else 1 - tail

    def p_equivalence(self, margin: float) -> float:
        """The p value of two one-sided tests (TOST) of a true mean outside -margin to margin.

        Source: Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15(6).
        """
        distance = margin - abs(self._middle)
        if self.se == 0:
            return self._two_sided(distance) if distance > 0 else 1.0
        one_sided = self._two_sided(abs(distance)) / 2
        return one_sided if distance > 0 else 1 - one_sided

    def smallest_detectable(self, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
        """The true difference that a two-sided test at `alpha` finds with probability `power`."""
        from scipy.special import nctdtrinc

        return float(nctdtrinc(self.df, 1 - power, self._critical(alpha))) * self.se

    def needed(self, distance: float, alpha: float, power: float = POWER) -> tuple[int | None, int | None]:
        """Return how many seeds on the same prompts, and how many prompts at the same seeds, tell a truth
        `distance` away from a bound with probability `power` in a one-sided test at `alpha`.

        None where not even MOST would. Degrees of freedom are taken to grow with seeds, and to stay with more prompts:
        of the method, whose seeds are the scarce sample.
        """
        both = max(0.0, self.se**2 - self.of_seeds - self.of_prompts)

        def decides(seeds: int, prompts: int) -> bool:
            fewer, shorter = self.seeds / seeds, self.prompts / prompts
            variance = self.of_seeds * fewer + self.of_prompts * shorter + both * fewer * shorter
            df = self.df * (seeds - 1) / max(1, self.seeds - 1)
            tail = None if self.tail is None else far_tail(df, seeds - 1)
            planned = replace(self, se=math.sqrt(variance), df=df, tail=tail)
            return planned.smallest_detectable(2 * alpha, power) <= distance

        def least(enough: Callable[[int], bool], low: int) -> int | None:
            if not enough(MOST):
                return None
            high = MOST
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if enough(middle) else (middle + 1, high)
            return low

        return (
            least(lambda seeds: decides(seeds, self.prompts), self.seeds),
            least(lambda prompts: decides(self.seeds, prompts), self.prompts),
        )

    @property
    def _middle(self) -> float:
        return self.value if self.centre is None else self.centre

    def _two_sided(self, distance: float) -> float:
        """How often chance alone exceeds `distance`, in either direction."""
        from scipy.special import stdtr

        if self.se == 0:
            return 2.0 ** (1 - (self.prompts if self.estimand == "policies" else self.seeds))
        p = float(2 * stdtr(self.df, -distance / self.se))
        if self.tail is None or p >= 1 - LEVEL:
            return p
        return float(2 * stdtr(self.tail, -distance / self.se * self._stretch(self.tail)))

    def _critical(self, alpha: float) -> float:
        """The distance from zero, in standard errors, that chance exceeds with probability `alpha`."""
        if self.tail is None or alpha >= 1 - LEVEL:
            return _quantile(self.df, 1 - alpha / 2)
        return _quantile(self.tail, 1 - alpha / 2) / self._stretch(self.tail)

    def _stretch(self, tail: float) -> float:
        """What makes both distributions agree at the 95% level."""
        return _quantile(tail, (1 + LEVEL) / 2) / _quantile(self.df, (1 + LEVEL) / 2)


class Components(NamedTuple):
    """The variances of a table by the mean squares of the crossed two-way layout."""

    seed_means: float
    """Of the seeds' means: that of the seeds themselves, plus `rest` over the prompts."""
    prompt: float
    """Of the prompts themselves, cut at zero: (MS_prompt - MS_rest) / S."""
    rest: float
    """MS_rest: of one answer, once its seed and its prompt are taken out."""


def components(table: Table) -> Components:
    """Return the components of variance of `table`, float [seeds, prompts], two or more of each."""
    seeds, prompts = table.shape
    of_seed, of_prompt = table.mean(axis=1), table.mean(axis=0)
    rest = table - of_seed[:, None] - of_prompt[None, :] + table.mean()
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1))
    return Components(
        seed_means=float(of_seed.var(ddof=1)),
        prompt=max(0.0, float(of_prompt.var(ddof=1)) - ms_rest / seeds),
        rest=ms_rest,
    )


def policies(table: Table) -> Estimate:
    """Estimate the mean of these trained policies. Raises NotEstimableError for fewer than two prompts.

    `table` is float [seeds, prompts] and complete.
    """
    seeds, prompts = table.shape
    check(MIN_SEEDS, prompts)
    per_prompt = table.mean(axis=0)
    se = float(per_prompt.std(ddof=1)) / math.sqrt(prompts)
    return Estimate("policies", float(per_prompt.mean()), se, prompts - 1, prompts, seeds, of_prompts=se**2)


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
    times as common as stated. Beyond the 95% level the tail is that of df^(1/4) (S-1)^(3/4) degrees of
    freedom, scaled to agree at 95%: the power that keeps families of fifteen comparisons below 6.5%.

    Raises NotEstimableError for fewer than three seeds or two prompts.
    """
    check(*table.shape)
    seeds, prompts = table.shape
    found = components(table)
    from_seeds, from_prompts = found.seed_means / seeds, found.prompt / prompts
    total = from_seeds + from_prompts
    share = from_seeds / total if total else 1.0
    df = 1 / (share / (seeds - 1) + (1 - share) / (prompts - 1))
    return Estimate(
        "method",
        float(table.mean()),
        math.sqrt(total),
        df,
        prompts,
        seeds,
        far_tail(df, seeds - 1),
        of_seeds=max(0.0, found.seed_means - found.rest / prompts) / seeds,
        of_prompts=from_prompts,
    )


def far_tail(df: float, weakest: float) -> float:
    """Return the degrees of freedom beyond the 95% level: df^(1/4) weakest^(3/4), and never more than `df`.

    `weakest` are those of the part of the variance that is known worst, such as that of few seeds. See `method`.
    """
    return min(df, df**0.25 * weakest**0.75)


def cautious(one: Estimate) -> Estimate:
    """Return an estimate with the far tail that its seeds alone would give it, where it has none.

    An estimate of `pooled` takes the seeds' variance of all labels together. Of a label with three times the deviation
    of the others, five seeds then state p = .0065 for what chance does in .017 of all cases; with this tail in .009
    (`benchmarks/proofs/power.py`). Who decides far out needs it; at the 95% level it changes nothing.
    """
    if one.tail is not None or one.estimand != "method":
        return one
    return replace(one, tail=far_tail(one.df, one.seeds - 1))


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
    check(min(sides), prompts)
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
    of_prompts = parts[-1][0]
    return Estimate(
        "method",
        float(table.mean()),
        math.sqrt(total),
        df,
        prompts,
        min(sides),
        of_seeds=max(0.0, total - of_prompts - rest),
        of_prompts=of_prompts,
    )


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


def with_prior(
    span: tuple[float, float] | None, estimator: Callable[[Table], Estimate], table: Table
) -> Estimate:
    """Estimate a mean of values that end at `span`: a share, or a difference of shares. None: no such ends.

    Where all answers agree, their spread is zero and t has no interval. Prompts at both ends are therefore
    added before the estimate: two each for a share (Agresti and Coull 1998), one each for a difference of
    two shares on the same prompts (Bonett and Price 2012), which is half as many for twice the range. The
    value stays that of the data.
    """
    if span is None:
        return estimator(table)
    one = estimator(padded(table, span))
    return unpadded(one, table, span)


def padded(table: Table, span: tuple[float, float]) -> Table:
    """Return `table` [..., prompts] with the prompts of `with_prior` added."""
    ends = np.repeat(np.array(span), added(span) // 2)
    return np.concatenate([table, np.broadcast_to(ends, (*table.shape[:-1], len(ends)))], axis=-1)


def added(span: tuple[float, float]) -> int:
    """Return how many prompts the prior of `with_prior` adds, half of them at either end."""
    return 2 * round(2 / (span[1] - span[0]))


def unpadded(one: Estimate, table: Table, span: tuple[float, float]) -> Estimate:
    """Return the estimate of a padded table with the value and the number of prompts of `table` itself."""
    if table.shape[-1] < 2:
        raise NotEstimableError(_FEW_PROMPTS.format(table.shape[-1]))
    return replace(one, value=float(table.mean()), centre=one.value, prompts=table.shape[-1], span=span)


def check(seeds: int, prompts: int) -> None:
    """Raise NotEstimableError where there are too few seeds, or prompts, for an estimate of the method."""
    if seeds < MIN_SEEDS:
        raise NotEstimableError(f"the method needs {MIN_SEEDS} seeds or more (got {seeds})")
    if prompts < 2:
        raise NotEstimableError(_FEW_PROMPTS.format(prompts))


def _quantile(df: float, probability: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))
