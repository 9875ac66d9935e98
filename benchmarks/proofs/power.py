"""Power and false positives of the method's verdicts, and coverage of intervals: numbers of docs/metrics.md.

    python benchmarks/proofs/power.py [NAME ...]

With names, of numbers in power.json, only those are measured again.
Seven labels on 400 prompts, one answer each, drawn with the planning deviations (`alignbench.stats.PLANNING`), in one
scene with those of the quickstart's labels, and none between prompts for one label alone. Every verdict is by the
estimates that `alignbench.evaluation.comparison` takes and Holm's correction, of many runs at once (`families.py`).
"by itself": each pair is estimated by itself (`alignbench.stats.method`), and a share by t alone. Writes power.json
next to this file, and fails where a number misses what is asked. About eight minutes on one core.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

import families

from alignbench import stats
from alignbench.metrics import fits

LABELS, PROMPTS, DIFFERENCE = 7, 400, 0.125
SEEDS = (3, 5, 8)
RUNS = 500
"""Of coverage, which many pairs of a run tell."""
MANY = 20_000
"""Of a family-wise error: 95 % of such measurements of .06 are within .0033 of it."""
POWERED = 4_000
AT_ONCE = 50
"""Runs whose arrays fit into a core's cache."""
ASKED = {
    "power": dict(zip(SEEDS, (0.45, 0.85, 0.97), strict=True)),
    "family-wise error": 0.065,
    "coverage": 0.93,
}
SCENES: Mapping[str, tuple[float, float]] = {
    "all labels alike": (1, 1),
    "one label with three times the seeds' deviation": (3, 1),
    "one label with three times the deviation of seeds and answers": (3, 3),
    "one label with three times the deviation of answers": (1, 3),
    "one label without any noise of seeds": (0, 1),
}
"""What one of the labels has, times what the others have: of seeds, of answers."""
BEYOND: Mapping[str, tuple[tuple[float, float], int]] = {
    "one label with five times the seeds' deviation": ((5, 1), 1),
    "one label with five times the deviation of seeds, three of answers": ((5, 3), 1),
    "one label with ten times the seeds' deviation": ((10, 1), 1),
    "two labels with five times the seeds' deviation": ((5, 1), 2),
    "two labels with five times the deviation of seeds, three of answers": ((5, 3), 2),
}
"""Labels less stable than asked, and how many of them: no bound is promised for these."""
RULER = "the labels of the quickstart over five seeds"
"""A scene with the deviations of each label as they were measured (sandbox_ruler.json), on as many prompts."""

LEVELS = (0.05, 0.0065)
"""p values of which it is measured how often they are stated: the usual one, and one after a correction."""

LENGTHS = (
    (0.5, 2, 0.4, 0.0),
    (0.73, 2, 0.4, 0.0),
    (0.88, 0, 0.4, 0.0),
    (0.73, 3, 1.0, 0.0),
    (0.5, 3, 1.0, 0.4),
)
"""Win rate at equal length, its slope over the log ratio of lengths, the mean of that ratio, share of ties."""

EFFECTS = ("equal prompts", "prompts that differ", "prompts that differ by label")
ALIKE = 0.3
"""Correlation of two outcomes of the same prompt, where prompts differ."""

Values = NDArray[np.float64]
Deviations = Sequence[tuple[float, float]]
"""Of each label: of its seeds, and of its answers."""
Pairs = Mapping[stats.Pair, stats.Table]
Estimate = Callable[[families.Differences], families.Estimates]


def with_odd(odd: tuple[float, float], labels: int = LABELS, of: int = 1) -> Deviations:
    """Return the planned deviations, those of the last `of` labels times `odd`."""
    usual = stats.PLANNING.seed, stats.PLANNING.rest
    return [usual] * (labels - of) + [(usual[0] * odd[0], usual[1] * odd[1])] * of


def of_the_ruler() -> tuple[Deviations, int]:
    """Return the deviations of each label of the quickstart as they were measured, and the prompts."""
    ruler = json.loads(Path(__file__).with_name("sandbox_ruler.json").read_text(encoding="utf-8"))
    known = [one for label, one in ruler["deviations"].items() if label != "all"]
    return [(one["seeds"], one["answers"]) for one in known], ruler["prompts"]


def drawn(rng: np.random.Generator, runs: int, seeds: int, prompts: int, deviations: Deviations) -> Values:
    """Return the values [runs, labels, seeds, prompts] of equal labels."""
    of_seeds, of_rest = np.array(deviations).T[:, :, None, None]
    shape = (runs, len(deviations), seeds)
    return of_seeds * rng.standard_normal((*shape, 1)) + of_rest * rng.standard_normal((*shape, prompts))


def estimated(
    seeds: int,
    deviations: Deviations,
    runs: int,
    prompts: int = PROMPTS,
    estimate: Estimate = families.pooled,
    difference: float = 0.0,
) -> Iterator[families.Estimates]:
    """Yield the estimates of many runs, AT_ONCE at a time: of equal labels, but for a first one that lies above."""
    rng = np.random.default_rng(seeds)
    for begun in range(0, runs, AT_ONCE):
        values = drawn(rng, min(AT_ONCE, runs - begun), seeds, prompts, deviations)
        values[:, 0] += difference
        yield estimate(families.differences(values))


def pairs(values: Values) -> dict[stats.Pair, stats.Table]:
    """Return the differences [seeds, prompts] of every two labels of one run, in the order of `combinations`."""
    return {(str(a), str(b)): values[a] - values[b] for a, b in combinations(range(len(values)), 2)}


def found(
    seeds: int,
    difference: float = DIFFERENCE,
    runs: int = POWERED,
    estimate: Estimate = families.pooled,
    odd: tuple[float, float] = (1, 1),
) -> float:
    """Return the share of pairs with a true difference that a run finds: one label above others that are equal. Pairs
    of the `odd` label, where its deviations are others, do not count."""
    others = LABELS - 1 if odd == (1, 1) else LABELS - 2
    hits = sum(
        int((families.holm(one.p_values())[:, :others] <= 1 - stats.LEVEL).sum())
        for one in estimated(seeds, with_odd(odd), runs, estimate=estimate, difference=difference)
    )
    return round(hits / runs / others, 4)


def promised(seeds: int, runs: int = POWERED) -> float:
    """Return the share of pairs with the difference that a plan finds with 80 %, by the correction's strictest step."""
    difference = stats.detectable(stats.PLANNING, "method", seeds=seeds, prompts=PROMPTS, labels=LABELS)
    step = (1 - stats.LEVEL) / math.comb(LABELS, 2)
    hits = sum(
        int((one.p_values()[:, : LABELS - 1] <= step).sum())
        for one in estimated(seeds, with_odd((1, 1)), runs, difference=difference)
    )
    return round(hits / runs / (LABELS - 1), 4)


def false_positives(
    seeds: int,
    deviations: Deviations,
    prompts: int = PROMPTS,
    runs: int = MANY,
    estimate: Estimate = families.pooled,
) -> float:
    """Return the share of runs with any verdict among equal labels."""
    hits = sum(
        int((families.holm(one.p_values()).min(1) <= 1 - stats.LEVEL).sum())
        for one in estimated(seeds, deviations, runs, prompts, estimate)
    )
    return round(hits / runs, 5)


def far_out(seeds: int, odd: tuple[float, float] = (3, 1), runs: int = MANY) -> dict[str, dict[str, float]]:
    """Return how often p is at most a level for pairs of the odd label and an equal one: pooled, and `cautious`."""
    of_odd = [place for place, pair in enumerate(combinations(range(LABELS), 2)) if LABELS - 1 in pair]
    stated: dict[str, list[Values]] = {"pooled": [], "cautious": []}
    for one in estimated(seeds, with_odd(odd), runs):
        stated["pooled"].append(one.p_values()[:, of_odd])
        stated["cautious"].append(one.cautious(seeds).p_values()[:, of_odd])
    return {
        name: {str(level): round(float((np.concatenate(p) <= level).mean()), 4) for level in LEVELS}
        for name, p in stated.items()
    }


def left_out(seeds: int, labels: int, runs: int = MANY) -> float:
    """Return the share of runs of equal labels in which any of them leaves the pool."""
    rng, hits = np.random.default_rng(seeds), 0
    for begun in range(0, runs, AT_ONCE):
        values = drawn(rng, min(AT_ONCE, runs - begun), seeds, 50, with_odd((1, 1), labels))
        inside = families.alike(families.differences(values), stats.UNLIKE)
        hits += int((~inside).any(1).sum())
    return hits / runs


def held(seeds: int, odd: tuple[float, float], runs: int = POWERED) -> dict[str, float]:
    """Return how often the intervals of pairs hold the truth, with and without the odd label."""
    of_odd = np.array([LABELS - 1 in pair for pair in combinations(range(LABELS), 2)])
    holds = np.concatenate([np.abs(one.value) <= one.half() for one in estimated(seeds, with_odd(odd), runs)])
    return {
        "pairs of the odd label": round(float(holds[:, of_odd].mean()), 4),
        "other pairs": round(float(holds[:, ~of_odd].mean()), 4),
    }


def covered_at_equal_length(
    prompts: int, at_equal_length: float, slope: float, mean_length: float, ties: float, runs: int = 1000
) -> dict[str, float]:
    """Return how often the interval of the length-controlled win rate holds the truth, and the mean rate, where there
    is one; and how often there is none, since length alone decides who wins."""
    rng, holds, rates = np.random.default_rng(0), [], []
    for _ in range(runs):
        lengths = rng.normal(mean_length, 0.6, prompts)
        chance = 1 / (1 + np.exp(-np.log(at_equal_length / (1 - at_equal_length)) - slope * lengths))
        wins = (rng.random(prompts) < chance).astype(float)
        wins[rng.random(prompts) < ties] = 0.5
        try:
            values, _ = fits.share_at_equal_length(wins, lengths)
        except fits.NoFitError:
            continue
        low, high = stats.with_prior((0, 1), stats.policies, values[None]).interval()
        holds.append(low <= at_equal_length <= high)
        rates.append(values.mean())
    return {
        "coverage": float(np.mean(holds)),
        "mean": float(np.mean(rates)),
        "n/a": round(1 - len(holds) / runs, 3),
    }


def covered(
    p: float,
    prompts: int,
    seeds: int,
    *,
    pair: bool,
    estimand: stats.Estimand,
    runs: int = 2000,
    prior: bool = True,
) -> float:
    """Return how often the interval of a share, or of the difference of two equal ones, holds the truth; without
    `prior` that of t alone."""
    rng = np.random.default_rng(0)
    outcomes = (rng.random((2, runs, seeds, prompts)) < p).astype(float)
    tables, span, truth = (outcomes[0] - outcomes[1], (-1, 1), 0.0) if pair else (outcomes[0], (0, 1), p)
    holds = 0
    for table in tables:
        low, high = stats.with_prior(span if prior else None, stats.ESTIMATORS[estimand], table).interval()
        holds += low <= truth <= high
    return holds / runs


def shares(
    ps: Sequence[float] = (0.02, 0.05, 0.95, 0.98), sizes: Sequence[int] = (20, 50), prior: bool = True
) -> dict[str, float]:
    """Return the coverage of every setting."""
    settings: list[tuple[int, stats.Estimand]] = [(1, "policies"), (3, "policies"), (3, "method")]
    return {
        f"{'difference, both' if pair else 'share,'} p = {p}, n = {n}, {seeds} seeds, {estimand}": covered(
            p, n, seeds, pair=pair, estimand=estimand, prior=prior
        )
        for pair in (False, True)
        for p in ps
        for n in sizes
        for seeds, estimand in settings
    }


def outcomes(
    rng: np.random.Generator, p: float, labels: int, seeds: int, prompts: int, effect: str
) -> Values:
    """Return outcomes [labels, seeds, prompts], zero or one, of equal labels that succeed with probability `p`.

    `effect`: whether prompts differ, equally for all labels or for each label in its own way. The probability of a
    prompt is then drawn from a beta distribution, so that two outcomes of it correlate with ALIKE.
    """
    size = (labels if effect == EFFECTS[2] else 1, 1, prompts)
    spread = 1 / ALIKE - 1
    chance = p if effect == EFFECTS[0] else rng.beta(p * spread, (1 - p) * spread, size)
    return (rng.random((labels, seeds, prompts)) < chance).astype(float)


def covered_pooled(p: float, prompts: int, labels: int, seeds: int, effect: str, runs: int = RUNS) -> float:
    """Return how often the intervals of the differences of equal shares hold zero, estimated as comparisons are: the
    seeds pooled over all labels."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(runs):
        tables = pairs(outcomes(rng, p, labels, seeds, prompts, effect))
        found = stats.pooled({pair: stats.padded(table, (-1, 1)) for pair, table in tables.items()})
        for pair, one in found.items():
            low, high = stats.unpadded(one, tables[pair], (-1, 1)).interval()
            hits += low <= 0 <= high
    return hits / runs / (labels * (labels - 1) / 2)


def covered_by_method(p: float, prompts: int, seeds: int, effect: str, runs: int = 2000) -> float:
    """Return how often the interval of one label's share over seeds holds the truth."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(runs):
        (table,) = outcomes(rng, p, 1, seeds, prompts, effect)
        low, high = stats.with_prior((0, 1), stats.method, table).interval()
        hits += low <= p <= high
    return hits / runs


def shares_of_methods() -> dict[str, float]:
    """Return the coverage of shares over three and five seeds, where prompts differ and where they do not.

    Differences at p and at 1 - p are equally distributed.
    """
    found: dict[str, float] = {}
    for p in (0.02, 0.05):
        for n in (20, 50):
            for seeds in (3, 5):
                for effect in EFFECTS:
                    setting = f"p = {p}, n = {n}, {seeds} seeds, {effect}"
                    if effect != EFFECTS[2]:
                        found[f"share, {setting}"] = covered_by_method(p, n, seeds, effect)
                    for labels in (3, LABELS):
                        found[f"difference of {labels} labels, {setting}"] = covered_pooled(
                            p, n, labels, seeds, effect
                        )
    return found


def scenes() -> Iterator[tuple[str, Deviations, Sequence[int]]]:
    """Yield every scene of equal labels: its name, deviations, and numbers of prompts."""
    yield from ((scene, with_odd(odd), (100, PROMPTS)) for scene, odd in SCENES.items())
    deviations, prompts = of_the_ruler()
    yield RULER, deviations, (prompts,)


def missed(numbers: Mapping[str, Any]) -> list[str]:
    """Return what is not as asked: power or coverage that is too low, an error that may be above its bound.

    An error is measured with chance: the upper end of its 95 % interval counts.
    """
    asked = numbers["asked"]
    most = asked["family-wise error"]
    chance = 1.96 * math.sqrt(most * (1 - most) / numbers["runs"]["family-wise error"])
    return [
        *(
            f"power, {n} seeds: {numbers['power'][n]}"
            for n, one in asked["power"].items()
            if numbers["power"][n] < one
        ),
        *(
            f"family-wise error, {scene}, {seeds} seeds: {rate}"
            for scene, of in numbers["family-wise error"].items()
            for seeds, rate in of.items()
            if rate + chance > most
        ),
        *(
            f"{kind}, {name}: {rate}"
            for kind in ("coverage", "coverage of shares over seeds")
            for name, rate in numbers[kind].items()
            if rate < asked["coverage"]
        ),
    ]


def measured(names: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every number with its name and the target, or those that are named."""
    parts: dict[str, Callable[[], Any]] = {
        "labels": lambda: LABELS,
        "prompts": lambda: PROMPTS,
        "difference": lambda: DIFFERENCE,
        "standard deviations": lambda: {"seeds": stats.PLANNING.seed, "answers": stats.PLANNING.rest},
        "runs": lambda: {"family-wise error": MANY, "power": POWERED, "coverage": RUNS},
        "asked": lambda: ASKED,
        "power": lambda: {seeds: found(seeds) for seeds in SEEDS},
        "power, each pair by itself": lambda: {
            seeds: found(seeds, estimate=families.by_itself) for seeds in SEEDS
        },
        "power beside a label of ten times the seeds' deviation": lambda: {
            seeds: found(seeds, odd=(10, 1)) for seeds in SEEDS
        },
        "the same with that label in the pool": lambda: {
            seeds: found(seeds, odd=(10, 1), estimate=partial(families.pooled, alpha=0.0)) for seeds in SEEDS
        },
        "a label of equal ones leaves the pool": lambda: {
            f"{labels} labels": {seeds: left_out(seeds, labels) for seeds in SEEDS}
            for labels in (3, 4, LABELS)
        },
        "found with 80 % power, planned": lambda: {
            seeds: stats.detectable(stats.PLANNING, "method", seeds=seeds, prompts=PROMPTS, labels=LABELS)
            for seeds in SEEDS
        },
        "found of what a plan finds with 80 %": lambda: {seeds: promised(seeds) for seeds in SEEDS},
        "family-wise error": lambda: {
            f"{scene}, {prompts} prompts": {
                seeds: false_positives(seeds, deviations, prompts) for seeds in SEEDS
            }
            for scene, deviations, sizes in scenes()
            for prompts in sizes
        },
        "family-wise error beyond threefold noise, 400 prompts": lambda: {
            scene: {seeds: false_positives(seeds, with_odd(odd, of=of)) for seeds in SEEDS}
            for scene, (odd, of) in BEYOND.items()
        },
        "family-wise error, each pair by itself, 400 prompts": lambda: {
            scene: {
                seeds: false_positives(seeds, with_odd(odd), runs=POWERED, estimate=families.by_itself)
                for seeds in SEEDS
            }
            for scene, odd in SCENES.items()
        },
        "p of pairs with a label of three times the seeds' deviation, far out": lambda: {
            seeds: far_out(seeds) for seeds in SEEDS
        },
        "coverage of intervals": lambda: {
            scene: {seeds: held(seeds, odd) for seeds in SEEDS} for scene, odd in SCENES.items()
        },
        "coverage": lambda: shares(),
        "coverage of shares over seeds": lambda: shares_of_methods(),
        "coverage by t alone": lambda: shares(prior=False),
        "the length-controlled rate": lambda: {
            f"{setting}, n = {prompts}": covered_at_equal_length(prompts, *setting)
            for setting in LENGTHS
            for prompts in (20, 50, 200)
        },
    }
    if unknown := [name for name in names if name not in parts]:
        raise SystemExit(f"{', '.join(unknown)}: not in power.json, which has {', '.join(parts)}")
    yield from ((name, part()) for name, part in parts.items() if not names or name in names)


if __name__ == "__main__":
    file = Path(__file__).with_suffix(".json")
    numbers = json.loads(file.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for name, found_now in measured(sys.argv[1:]):
        numbers[name] = found_now
        file.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        print(json.dumps({name: found_now}, indent=1), flush=True)
    if off := missed(json.loads(file.read_text(encoding="utf-8"))):
        raise SystemExit("\n".join(off))
