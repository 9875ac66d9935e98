"""A/A: one method under two labels with seeds of their own. How often is a difference found that is none?

    alignbench run recipes/claims/aa.yaml --out runs/aa
    python benchmarks/proofs/aa.py runs/aa

Reads that run, takes from gold's scores how much seeds, prompts and the rest vary, draws 2,000 tables of
results with that variance, and counts those in which any comparison of the method is called better or worse
after Holm's correction. Writes aa.json beside this file.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alignbench import results, stats
from alignbench.api.metric import Difference
from alignbench.metrics.comparison import comparisons
from alignbench.sandbox import FINGERPRINT

TABLES = 2000
LIMIT = 0.065
SCENES = {
    "two labels, seeds of their own": (2, True),
    "six labels, seeds of their own": (6, True),
    "six labels, equal seeds": (6, False),
}
"""Name -> labels, and whether they have seeds of their own."""


def observed(run: Path) -> NDArray[np.float64]:
    """Return gold's scores [seeds, prompts] of both labels, which are six seeds of one method."""
    rows = pq.read_table(run / "evaluation/judgements.parquet").to_pylist()
    rows = [row for row in rows if row["judge"] == "gold" and row["label"] != "base"]
    seeds, prompts = (sorted({row[name] for row in rows}) for name in ("seed", "prompt_id"))
    table = np.empty((len(seeds), len(prompts)))
    for row in rows:
        table[seeds.index(row["seed"]), prompts.index(row["prompt_id"])] = row["score"]
    return table


def deviations(table: NDArray[np.float64]) -> dict[str, float]:
    """Return the standard deviations of seeds, prompts and the rest."""
    found = stats.components(table)
    seed = max(0.0, found.seed_means - found.rest / table.shape[1])
    return {
        "seed": float(np.sqrt(seed)),
        "prompt": float(np.sqrt(found.prompt)),
        "rest": float(np.sqrt(found.rest)),
    }


def false_positives(sd: dict[str, float], prompts: int, labels: int, disjoint: bool) -> float:
    """Return the share of TABLES tables with a verdict, where every label is the same method.

    What a prompt does to all seeds cancels in every difference, but is drawn like the rest.
    """
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(TABLES):
        values = (
            rng.normal(0, sd["prompt"], prompts)
            + rng.normal(0, sd["seed"], (labels, stats.MIN_SEEDS, 1))
            + rng.normal(0, sd["rest"], (labels, stats.MIN_SEEDS, prompts))
        )
        found += any(verdicts(values, disjoint))
    return found / TABLES


def verdicts(values: NDArray[np.float64], disjoint: bool) -> list[bool]:
    """Return, for each pair of labels, whether alignbench tells them apart: by its own code."""
    labels, seeds, prompts = values.shape
    asked = [str(prompt) for prompt in range(prompts)]
    differences = [
        Difference(
            metric="reward",
            a=str(a),
            b=str(b),
            seed=one,
            against=other if disjoint else None,
            values=dict(zip(asked, (values[a, one] - values[b, other]).tolist(), strict=True)),
            higher_is_better=True,
        )
        for a, b in combinations(range(labels), 2)
        for one in range(seeds)
        for other in (range(seeds) if disjoint else [one])
    ]
    found = [one for one in comparisons(differences, ["gold"]) if one.estimand == "method"]
    return [one.verdict in ("better", "worse") for one in found]


def measured(run: Path) -> dict[str, Any]:
    """Return the verdicts of the run itself on its two equal labels, and the rate of false positives."""
    record = results.read(run)
    table = observed(run)
    sd = deviations(table)
    own = [one for one in record.comparisons if {one.a, one.b} == {"first", "second"}]
    return {
        "sandbox": FINGERPRINT,
        "seeds": table.shape[0],
        "prompts": table.shape[1],
        "standard deviations": sd,
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
        "family-wise false positives": {
            scene: false_positives(sd, table.shape[1], *how) for scene, how in SCENES.items()
        },
    }


if __name__ == "__main__":
    text = json.dumps(measured(Path(sys.argv[1])), indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
