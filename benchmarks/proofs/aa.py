"""A/A: one method under two labels with seeds of their own. How often is a difference found that is none?

    alignbench run recipes/claims/aa.yaml --out runs/aa
    python benchmarks/proofs/aa.py runs/aa

Reads that run, takes from gold's scores how much seeds, prompts and the rest vary at each sampling temperature
and with each other, draws 1,000 tables of results with that variance, and counts those in which any comparison
is called better or worse after Holm's correction. Over the grid each label first chooses its temperature by
validation prompts of its own (`alignbench.stats.best_settings`), as a run does: equal labels may then be ranked at
different temperatures. "highest mean" is what each label's highest mean alone would do. Writes aa.json next to this
file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alignbench import layout, results, stats
from alignbench.sandbox import FINGERPRINT, gold

TABLES = 1000
LIMIT = 0.065
VALIDATION = 100
"""Prompts that choose the temperature, as many as `evaluation.tuning_prompts` has by default."""

PROMPTS = 200
"""Prompts that rank, as many as `evaluation.prompts` has by default."""

SCENES = {
    "two labels, seeds of their own": (2, 3, True),
    "six labels, seeds of their own": (6, 3, True),
    "six labels, equal seeds": (6, 3, False),
    "seven labels, equal seeds": (7, 3, False),
    "seven equal policies, one seed": (7, 1, False),
}
"""Name -> labels, seeds, and whether they have seeds of their own. With one seed: of these policies."""

GAPS: Mapping[str, tuple[float, ...] | None] = {
    "one temperature": (0.0,),
    "the means that were measured": None,
    "all temperatures alike": (0.0, 0.0, 0.0),
    "the best two 0.02 apart": (0.02, 0.0, -0.2),
    "the best two 0.05 apart": (0.05, 0.0, -0.2),
}
"""Means at the temperatures of the grid: where two are close, equal labels choose different ones most often."""

CLOSE = "the best two 0.05 apart"
"""Where the highest mean alone finds most differences that are none."""

Array = NDArray[np.float64]
Choose = Callable[[Mapping[str, Mapping[float, Array]]], dict[str, float]]


def observed(run: Path) -> dict[float, Array]:
    """Return gold's scores [seeds, prompts] at each temperature, of both labels: six seeds of one method."""
    asked = {}
    for line in (run / layout.EVALUATION / layout.PROMPTS).read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        asked[one["id"]] = one["prompt"]
    found: dict[float, list[list[float]]] = {}
    for file in sorted(run.glob(f"{layout.CELLS}/*/*/{layout.SAMPLES}")):
        if file.parts[-3] == "base":
            continue
        rows = pq.read_table(file, columns=["temperature", "prompt_id", "text"]).to_pylist()
        for temperature in sorted({row["temperature"] for row in rows}):
            scores = {
                row["prompt_id"]: gold(asked[row["prompt_id"]], row["text"]).reward
                for row in rows
                if row["temperature"] == temperature
            }
            found.setdefault(temperature, []).append([scores[id] for id in asked])
    return {temperature: np.array(tables) for temperature, tables in found.items()}


def covariances(tables: Mapping[float, Array]) -> dict[str, Array]:
    """Return the covariances [temperatures, temperatures] of seeds, prompts and the rest, without negative parts."""
    values = np.stack(list(tables.values()))
    count, seeds, prompts = values.shape
    of_seed, of_prompt = values.mean(2), values.mean(1)
    mean = values.mean((1, 2))
    rest = values - of_seed[:, :, None] - of_prompt[:, None, :] + mean[:, None, None]
    of_rest = np.einsum("asp,bsp->ab", rest, rest) / ((seeds - 1) * (prompts - 1))
    parts = {
        "seed": np.cov(of_seed).reshape(count, count) - of_rest / prompts,
        "prompt": np.cov(of_prompt).reshape(count, count) - of_rest / seeds,
        "rest": of_rest,
    }
    return {name: positive(part) for name, part in parts.items()}


def positive(matrix: Array) -> Array:
    """Return a symmetric matrix without its negative parts."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(0, values)) @ vectors.T


def normal(rng: np.random.Generator, covariance: Array, shape: tuple[int, ...]) -> Array:
    """Return normal draws [temperatures, *shape] with a covariance over the temperatures."""
    values, vectors = np.linalg.eigh(covariance)
    return np.tensordot(vectors * np.sqrt(np.maximum(0, values)), rng.normal(size=(len(values), *shape)), 1)


def false_positives(
    parts: Mapping[str, Array],
    means: Array,
    prompts: int,
    labels: int,
    seeds: int,
    disjoint: bool,
    choose: Choose = stats.best_settings,
) -> dict[str, float]:
    """Return the shares of TABLES tables with a verdict, and with different temperatures, of one method or policy."""
    rng, wrong, differing = np.random.default_rng(0), 0, 0
    for _ in range(TABLES):
        one = labels, seeds
        of_seed = normal(rng, parts["seed"], (*one, 1)) if seeds > 1 else 0.0
        test, tuning = (
            means[:, None, None, None]
            + of_seed
            + normal(rng, parts["prompt"], (1, 1, count))
            + normal(rng, parts["rest"], (*one, count))
            for count in (prompts, VALIDATION)
        )
        given = {str(label): {at: tuning[at, label] for at in range(len(means))} for label in range(labels)}
        chosen = [int(at) for at in choose(given).values()]
        values = np.stack([test[at, label] for label, at in enumerate(chosen)])
        wrong += min(adjusted(values, disjoint)) <= 1 - stats.LEVEL
        differing += len(set(chosen)) > 1
    return {"any verdict": wrong / TABLES, "different temperatures": differing / TABLES}


def highest_means(tables: Mapping[str, Mapping[float, Array]]) -> dict[str, float]:
    """Return the setting of each label's highest mean."""
    return {label: max(of, key=lambda at: float(of[at].mean())) for label, of in tables.items()}


def adjusted(values: Array, disjoint: bool) -> list[float]:
    """Return each pair's p value after Holm's correction, by the estimates of `alignbench.evaluation.comparison`."""
    pairs = list(combinations(range(len(values)), 2))
    if disjoint:
        found = [stats.unpaired(values[a][:, None] - values[b][None]) for a, b in pairs]
    else:
        tables = {(str(a), str(b)): values[a] - values[b] for a, b in pairs}
        many = values.shape[1] >= stats.MIN_SEEDS
        found = (
            list(stats.pooled(tables).values()) if many else [stats.policies(one) for one in tables.values()]
        )
    return stats.holm(one.p_value() for one in found)


def measured(run: Path) -> dict[str, Any]:
    """Return the verdicts of the run itself on its two equal labels, and the rates of false positives."""
    record = results.read(run)
    tables = observed(run)
    parts, means = covariances(tables), np.array([table.mean() for table in tables.values()])
    seeds, prompts = next(iter(tables.values())).shape
    own = [one for one in record.comparisons if {one.a, one.b} == {"first", "second"}]

    def rates(gaps: tuple[float, ...] | None, choose: Choose = stats.best_settings) -> dict[str, Any]:
        at = np.arange(len(means)) if gaps is None or len(gaps) > 1 else np.array([len(means) - 1])
        chosen = {name: part[np.ix_(at, at)] for name, part in parts.items()}
        given = means if gaps is None else np.array(gaps)
        return {scene: false_positives(chosen, given, PROMPTS, *how, choose) for scene, how in SCENES.items()}

    return {
        "sandbox": FINGERPRINT,
        "seeds": seeds,
        "prompts": prompts,
        "validation prompts": VALIDATION,
        "prompts of a table": PROMPTS,
        "temperatures": list(tables),
        "means": means.tolist(),
        "standard deviations": {name: np.sqrt(np.diag(part)).tolist() for name, part in parts.items()},
        "verdicts of the run": {
            f"{one.metric}, {one.estimand}": {
                "difference": one.difference,
                "ci95": one.ci95,
                "p_holm": one.p_holm,
                "verdict": one.verdict,
            }
            for one in own
            if one.difference is not None
        },
        "tables": TABLES,
        "limit": LIMIT,
        "family-wise false positives": {name: rates(gaps) for name, gaps in GAPS.items()},
        "family-wise false positives, highest mean": {
            name: rates(GAPS[name], highest_means) for name in (CLOSE,)
        },
    }


if __name__ == "__main__":
    text = json.dumps(measured(Path(sys.argv[1])), indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
