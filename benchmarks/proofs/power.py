"""Power and false positives of the method's verdicts, and coverage of intervals near the ends of a share.

    python benchmarks/proofs/power.py

Seven labels on 400 prompts, one answer each, drawn with the standard deviations of the sandbox's quickstart
(`alignbench.stats.PLANNING`); every verdict by `alignbench.metrics.comparison`'s own estimates and Holm's
correction. Writes power.json beside this file. About two minutes on one core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench import stats

LABELS, PROMPTS, DIFFERENCE = 7, 400, 0.125
SEEDS = (3, 5, 8)
RUNS = 500
ASKED = {
    "power": dict(zip(SEEDS, (0.45, 0.85, 0.97), strict=True)),
    "family-wise error": 0.065,
    "coverage": 0.93,
}
BEFORE = {
    "power": dict(zip(SEEDS, (0.06, 0.42, 0.93), strict=True)),
    "family-wise error at 3 seeds": "0.04 to 0.06",
    "coverage": "0.33 to 1.00",
}
"""By the same simulation, where each pair is estimated by itself (`alignbench.stats.method`) and a share by t."""

SCENES: Mapping[str, tuple[float, float]] = {
    "all labels alike": (1, 1),
    "one label with three times the seeds' deviation": (3, 1),
    "one label with three times the deviation of seeds and answers": (3, 3),
    "one label without any noise of seeds": (0, 1),
}
"""What one of the labels has, times what the others have: of seeds, of answers."""

Values = NDArray[np.float64]


def drawn(
    rng: np.random.Generator, seeds: int, prompts: int = PROMPTS, *, odd: tuple[float, float] = (1, 1)
) -> Values:
    """Return the values [labels, seeds, prompts] of equal labels; the last one's deviations are times `odd`."""
    of_seed = rng.normal(0, stats.PLANNING.seed, (LABELS, seeds, 1))
    rest = rng.normal(0, stats.PLANNING.rest, (LABELS, seeds, prompts))
    of_seed[-1] *= odd[0]
    rest[-1] *= odd[1]
    return of_seed + rest


def adjusted(values: Values) -> list[float]:
    """Return each pair's p value after Holm's correction, in the order of `combinations`."""
    tables = {(str(a), str(b)): values[a] - values[b] for a, b in combinations(range(len(values)), 2)}
    return stats.holm(one.p_value() for one in stats.pooled(tables).values())


def found(seeds: int, difference: float = DIFFERENCE, runs: int = RUNS) -> float:
    """Return the share of pairs with a true difference that a run finds: one label above six equal ones."""
    rng, hits = np.random.default_rng(seeds), 0
    for _ in range(runs):
        values = drawn(rng, seeds)
        values[0] += difference
        hits += sum(p <= 1 - stats.LEVEL for p in adjusted(values)[: LABELS - 1])
    return hits / runs / (LABELS - 1)


def false_positives(seeds: int, odd: tuple[float, float], prompts: int = PROMPTS, runs: int = RUNS) -> float:
    """Return the share of runs with any verdict among equal labels."""
    rng = np.random.default_rng(seeds)
    return (
        sum(min(adjusted(drawn(rng, seeds, prompts, odd=odd))) <= 1 - stats.LEVEL for _ in range(runs)) / runs
    )


def covered(
    p: float, prompts: int, seeds: int, *, pair: bool, estimand: stats.Estimand, runs: int = 2000
) -> float:
    """Return how often the interval of a share, or of the difference of two equal ones, holds the truth."""
    rng = np.random.default_rng(0)
    outcomes = (rng.random((2, runs, seeds, prompts)) < p).astype(float)
    tables, span, truth = (outcomes[0] - outcomes[1], (-1, 1), 0.0) if pair else (outcomes[0], (0, 1), p)
    held = 0
    for table in tables:
        low, high = stats.with_prior(span, stats.ESTIMATORS[estimand], table).interval()
        held += low <= truth <= high
    return held / runs


def shares(
    ps: Sequence[float] = (0.02, 0.05, 0.95, 0.98), sizes: Sequence[int] = (20, 50)
) -> dict[str, float]:
    """Return the coverage of every setting."""
    settings: list[tuple[int, stats.Estimand]] = [(1, "policies"), (3, "policies"), (3, "method")]
    return {
        f"{'difference, both' if pair else 'share,'} p = {p}, n = {n}, {seeds} seeds, {estimand}": covered(
            p, n, seeds, pair=pair, estimand=estimand
        )
        for pair in (False, True)
        for p in ps
        for n in sizes
        for seeds, estimand in settings
    }


def measured() -> dict[str, Any]:
    """Return every number beside what was asked and what was before."""
    return {
        "labels": LABELS,
        "prompts": PROMPTS,
        "difference": DIFFERENCE,
        "standard deviations": {"seeds": stats.PLANNING.seed, "answers": stats.PLANNING.rest},
        "runs": RUNS,
        "asked": ASKED,
        "before": BEFORE,
        "power": {seeds: found(seeds) for seeds in SEEDS},
        "found with 80 % power, planned": {
            seeds: stats.detectable(stats.PLANNING, "method", seeds=seeds, prompts=PROMPTS, labels=LABELS)
            for seeds in SEEDS
        },
        "family-wise error": {
            f"{scene}, {prompts} prompts": {
                seeds: false_positives(seeds, odd, prompts, 3000 if seeds == 3 else RUNS) for seeds in SEEDS
            }
            for scene, odd in SCENES.items()
            for prompts in (100, PROMPTS)
        },
        "coverage": shares(),
    }


if __name__ == "__main__":
    said = json.dumps(measured(), indent=1)
    Path(__file__).with_suffix(".json").write_text(said + "\n", encoding="utf-8")
    print(said)
