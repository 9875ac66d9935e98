"""How sure a mean over seeds and prompts is: two estimands, never mixed, with intervals, tests and power.

Everything works on a table of shape [seeds, prompts]: the values of one label, or the differences between
two labels on the same prompt at the same seed. The two questions one may ask of it:

`policies`  Do *these trained policies* differ? Seeds are fixed; prompts are a sample. A value per prompt
            (its mean over the seeds), Student's t over the prompts. All that one seed supports.
`method`    Would the methods differ if trained again? Seeds and prompts are both samples, crossed:
            y[s, p] = mean + seed[s] + prompt[p] + rest[s, p]. Needs three seeds or more. Where several
            labels were trained, the seeds' variance is estimated from all of them (`pooled`).

Two labels that share no seed are not pairs: a table of shape [seeds of a, seeds of b, prompts] holds their
differences, every seed of the one against every seed of the other (`unpaired`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Estimand = Literal["policies", "method"]
Verdict = Literal["better", "worse", "equivalent", "not told apart"]
Table = NDArray[np.float64]
Pair = tuple[str, str]

LEVEL = 0.95
POWER = 0.8
MIN_SEEDS = 3
EXACT = 12
RESAMPLES = 4999
MOST = 100_000
"""Seeds, or prompts, beyond which `Estimate.needed` asks for none."""
UNLIKE = 0.001
"""Nominal probability that a label which varies like the others is kept out of the pool: see `alike`."""
APART = 2.0
"""Standard errors by which a label's own best setting must lead the one that is best for most: see `best_settings`."""


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

        None where not even MOST would. Degrees of freedom are taken to grow with seeds (or prompts).
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
    _check(MIN_SEEDS, prompts)
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
    _check(*table.shape)
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
    of the others, five seeds then state p = .0065 for what chance does in .016 of all cases; with this tail in .010
    (`benchmarks/proofs/power.py`). Who decides far out needs it; at the 95% level it changes nothing.
    """
    if one.tail is not None or one.estimand != "method":
        return one
    return replace(one, tail=far_tail(one.df, one.seeds - 1))


def pooled(tables: Mapping[Pair, Table], alpha: float = UNLIKE) -> dict[Pair, Estimate]:
    """Estimate the differences of several methods, with the seeds' variance pooled over the labels that vary alike.

    `tables` holds, for each pair of labels, the differences [seeds, prompts], complete. Three seeds say
    little about how much seeds vary, seven labels with three seeds each say a lot. The variance of a pair's
    seed means is the sum of those of its two labels, so that all pairs together give one variance w for each
    label by least squares (Grubbs 1948). Its part `rest / prompts` is well known; what is left over is the
    seeds' own, and its mean over the labels, cut at zero, is the pool. A label counts with the pool's
    variance, or with its own where that is larger: the guard for a label that is somewhat less stable than the
    others. Var(mean) = (w_a + w_b)/S + prompt/P.

    Labels that vary far more than the others would hide their differences behind their own variance. They leave
    the pool (`alike`), and their pairs are estimated by themselves, as `method` does. With an `alpha` of 0 none does.

    Degrees of freedom: the parts of Var(mean) weigh as in `method`, by their shares: the pool's has
    (L-1)(S-1), rest (S-1)(P-1), the prompts' P-1. What a label varies beyond the pool rests on its own S-1
    and weighs by the square of its share, as Satterthwaite has it. `benchmarks/proofs/power.py` measures
    power and false positives.

    Where the pairs do not determine a variance for each label (two labels, or one against all others only),
    each pair is estimated by itself too. Raises NotEstimableError for a table with fewer than three seeds or two
    prompts.
    """
    for table in tables.values():
        _check(*table.shape)
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
    freedom: int

    def estimate(self, pair: Pair, table: Table) -> Estimate:
        """Return the estimate of one pair's difference."""
        count, asked = table.shape
        of_rest = sum(self.rest[label] for label in pair) / count
        excess = sum(max(0.0, self.own[one] - self.rest[one] - self.seeds) for one in pair) / count
        of_pool, of_prompts = 2 * self.seeds / count, components(table).prompt / asked
        total = of_pool + of_rest + excess + of_prompts
        df = _freedom(total, count, asked, pool=(of_pool, self.freedom), rest=of_rest, beyond=excess)
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
    return _Pool(
        dict(zip(labels, own.tolist(), strict=True)),
        dict(zip(labels, rest.tolist(), strict=True)),
        max(0.0, float((own - rest).mean())),
        (len(labels) - 1) * (int(seeds.min()) - 1),
    )


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
    _check(min(sides), prompts)
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
    each = round(2 / (span[1] - span[0]))
    ends = np.repeat(np.array(span), each)
    return np.concatenate([table, np.broadcast_to(ends, (*table.shape[:-1], 2 * each))], axis=-1)


def unpadded(one: Estimate, table: Table, span: tuple[float, float]) -> Estimate:
    """Return the estimate of a padded table with the value and the number of prompts of `table` itself."""
    if table.shape[-1] < 2:
        raise NotEstimableError(_FEW_PROMPTS.format(table.shape[-1]))
    return replace(one, value=float(table.mean()), centre=one.value, prompts=table.shape[-1], span=span)


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
    _check(seeds if estimand == "method" else MIN_SEEDS, prompts)
    rest, prompt = 2 * planning.rest**2 / (seeds * prompts), 2 * planning.prompt**2 / prompts
    total, df = rest + prompt, prompts - 1.0
    if estimand == "method":
        of_seeds = 2 * planning.seed**2 / seeds
        beyond = (of_seeds + rest) * _guard(seeds - 1) if labels > 2 else 0.0
        total += of_seeds + beyond
        pool = (of_seeds, (labels - 1) * (seeds - 1)) if labels > 2 else (of_seeds + rest, seeds - 1)
        df = _freedom(total, seeds, prompts, pool=pool, rest=rest if labels > 2 else 0.0, beyond=beyond)
    one = Estimate(estimand, 0.0, math.sqrt(total), df, prompts, seeds)
    return one.smallest_detectable((1 - LEVEL) / (pairs or math.comb(labels, 2)), power)


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


def best_settings(tables: Mapping[str, Mapping[float, Table]]) -> dict[str, float]:
    """Return the setting of each label that its scores choose.

    `tables` holds each label's scores [seeds, prompts] at each setting, on prompts that nothing is reported on.
    A label has its own best setting where its prompts tell it from the setting that is best for most labels (of
    equally many, by the sum of their means) by APART standard errors, else that one; the lowest of equal ones.
    The best by the highest mean alone would rank equal labels at different settings by chance, and find
    differences between them too often (`benchmarks/proofs/aa.py`); the sum alone would let one label that fails
    at a setting decide for all others.
    """
    means = {label: {one: float(table.mean()) for one, table in of.items()} for label, of in tables.items()}
    settings = sorted({one for of in tables.values() for one in of})
    best = {label: max(sorted(of), key=of.__getitem__) for label, of in means.items()}
    votes = Counter(best.values())
    shared = max(settings, key=lambda one: (votes[one], sum(of.get(one, -math.inf) for of in means.values())))
    chosen = {}
    for label, of in tables.items():
        own = best[label]
        gain = None if own == shared else policies(of[own] - of[shared])
        chosen[label] = own if gain is not None and gain.value > APART * gain.se else shared
    return chosen


def tabulate(per_seed: Sequence[Mapping[str, float]], clusters: Mapping[str, str] | None = None) -> Table:
    """Return the table [seeds, prompts] of the prompts that every seed has, in the order of the first seed.

    Prompts with an equal value in `clusters` count as one, since they are not an independent sample: their
    column is the mean plus the sum of their distances from it, scaled so that the columns' mean is that of
    the prompts, and their spread the cluster-robust one (Liang and Zeger 1986).

    Raises NotEstimableError where no prompt has a value at every seed, or a value is not finite.
    """
    common = set.intersection(*map(set, per_seed)) if per_seed else set()
    if not common:
        raise NotEstimableError("no prompt has a value at every seed")
    order = [id for id in per_seed[0] if id in common]
    table = np.array([[values[id] for id in order] for values in per_seed], dtype=np.float64)
    if odd := table.size - int(np.isfinite(table).sum()):
        raise NotEstimableError(f"{odd} of {table.size} values are not finite")
    of = [(clusters or {}).get(id, id) for id in order]
    names = {name: place for place, name in enumerate(dict.fromkeys(of))}
    if len(names) == len(of):
        return table
    mean, columns = table.mean(), np.zeros((len(names), len(table)))
    np.add.at(columns, [names[name] for name in of], (table - mean).T)
    return mean + columns.T * len(names) / len(of)


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjust p values so that the chance of one false verdict among them is at most alpha (Holm 1979)."""
    p = np.asarray(list(p_values), dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted.tolist()


def verdict(
    difference: float, p_adjusted: float, higher_is_better: bool | None, p_equivalence: float | None = None
) -> Verdict | None:
    """Say whether a difference is real, and in whose favour; None where neither direction is better.

    `equivalent` where it is smaller than a margin that was named before, by `p_equivalence`, adjusted too.
    """
    if higher_is_better is None:
        return None
    if difference != 0 and p_adjusted <= 1 - LEVEL:
        return "better" if (difference > 0) == higher_is_better else "worse"
    return "equivalent" if p_equivalence is not None and p_equivalence <= 1 - LEVEL else "not told apart"


_FEW_PROMPTS = "an interval needs two prompts or more (got {})"


def _check(seeds: int, prompts: int) -> None:
    if seeds < MIN_SEEDS:
        raise NotEstimableError(f"the method needs {MIN_SEEDS} seeds or more (got {seeds})")
    if prompts < 2:
        raise NotEstimableError(_FEW_PROMPTS.format(prompts))


def _freedom(
    total: float, seeds: int, prompts: int, *, pool: tuple[float, int], rest: float, beyond: float
) -> float:
    """The degrees of freedom of a variance `total`, of which `pool` (with its own), `rest` and `beyond` are
    parts and the remainder is the prompts'."""
    if total == 0:
        return seeds - 1.0
    of_prompts = total - pool[0] - rest - beyond
    by_share = pool[0] / pool[1] + rest / ((seeds - 1) * (prompts - 1)) + of_prompts / (prompts - 1)
    return 1 / (by_share / total + (beyond / total) ** 2 / (seeds - 1))


def _guard(df: int) -> float:
    """How far a label's variance lies beyond the pool's on average where all vary alike, in units of the
    pool's: the mean of max(0, chi2 / df - 1)."""
    from scipy.special import chdtr, chdtrc

    return float(chdtr(df, df) + chdtrc(df + 2, df)) - 1


def _quantile(df: float, probability: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))
