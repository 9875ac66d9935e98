"""Gold of every policy of the quickstart at each temperature, and which methods are told apart.

    alignbench run recipes/quickstart.yaml --out runs/ruler --set 'seeds=[0,1,2,3,4]'
    python benchmarks/proofs/sandbox_ruler.py runs/ruler

The sandbox is a long enough ruler if, greedily, base reaches at most 0.55, SFT 0.75 and the best method 0.95, and if at
each temperature at least six of the fifteen pairs of six methods are told apart: by the report's own test of the
methods, Holm at 5 % over all pairs of the report. "deviations" are those of seeds and of answers, each label at the
temperature that it is ranked at. Writes sandbox_ruler.json next to this file, and exits 1 where a bound is missed.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from alignbench import layout, results
from alignbench.sandbox import FINGERPRINT

GREEDY_BOUNDS = {"base": 0.55, "sft": 0.75}
BEST_BOUND, PAIRS_BOUND = 0.95, 6
METHODS = ("sft", "dpo", "orpo", "rlhf", "rlaif", "rain")


def means(setting: results.SettingResult) -> dict[str, float]:
    """Return the mean gold of each label."""
    found = {label: measured["reward"].value for label, measured in setting.labels.items()}
    return {label: round(value, 4) for label, value in found.items() if value is not None}


def told_apart(setting: results.SettingResult) -> dict[str, dict[str, Any]]:
    """Return each pair of METHODS with its difference, its interval and its corrected p value."""
    wanted = {frozenset(pair) for pair in combinations(METHODS, 2)}
    return {
        f"{one.a} - {one.b}": {"difference": one.difference, "ci95": one.ci95, "p_holm": one.p_holm}
        for one in setting.comparisons
        if one.metric == "reward" and one.estimand == "method" and frozenset((one.a, one.b)) in wanted
    }


def deviations(run: Path) -> dict[str, dict[str, float]]:
    """Return the standard deviations of seeds, and of answers about their seed and prompt, by label and pooled."""
    scores = pq.read_table(run / layout.EVALUATION / layout.SCORES).to_pandas()
    found: dict[str, dict[str, float]] = {}
    for label, rows in scores[scores.label != "base"].groupby("label"):
        table = rows.pivot(index="seed", columns="prompt_id", values="score").to_numpy()
        seeds, prompts = table.shape
        rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        of_rest = float((rest**2).sum() / ((seeds - 1) * (prompts - 1)))
        found[str(label)] = {
            "seeds": float(table.mean(1).var(ddof=1)) - of_rest / prompts,
            "answers": of_rest,
        }
    found["all"] = {
        part: float(np.mean([one[part] for one in found.values()])) for part in ("seeds", "answers")
    }
    return {
        label: {part: round(max(value, 0.0) ** 0.5, 4) for part, value in one.items()}
        for label, one in found.items()
    }


def missed(gold: dict[str, dict[str, float]], counts: dict[str, int]) -> list[str]:
    """Return the bounds that do not hold, by the gold of each label and the pairs told apart at each temperature."""
    greedy = gold["0.0"]
    found = [
        f"{label} greedy {greedy[label]:.3f} > {bound}"
        for label, bound in GREEDY_BOUNDS.items()
        if greedy[label] > bound
    ]
    best = max(greedy, key=lambda label: greedy[label])
    if greedy[best] > BEST_BOUND:
        found.append(f"{best} greedy {greedy[best]:.3f} > {BEST_BOUND}")
    return found + [f"{count} pairs at {at}" for at, count in counts.items() if count < PAIRS_BOUND]


def main() -> None:
    record = results.read(Path(sys.argv[1]))
    gold = {str(one.temperature): means(one) for one in record.settings}
    pairs = {str(one.temperature): told_apart(one) for one in record.settings}
    counts = {
        at: sum(one["p_holm"] is not None and one["p_holm"] <= 0.05 for one in found.values())
        for at, found in pairs.items()
    }
    failed = missed(gold, counts)
    summary = {
        "sandbox": FINGERPRINT,
        "versions": record.environment["versions"],
        "seeds": record.recipe["seeds"],
        "prompts": record.recipe["evaluation"]["prompts"],
        "gold": gold,
        "deviations": deviations(Path(sys.argv[1])),
        "pairs told apart": counts,
        "pairs": pairs,
        "missed": failed,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print("| label | " + " | ".join(gold) + " |\n|---|" + "---:|" * len(gold))
    for label in gold["0.0"]:
        print(f"| {label} | " + " | ".join(f"{gold[at][label]:.3f}" for at in gold) + " |")
    print(f"pairs told apart: {counts}; missed: {failed or 'nothing'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
