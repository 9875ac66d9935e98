"""Gold of every policy of a run under greedy decoding, temperature 0.7 and 1, and which methods are told apart.

    alignbench run recipes/quickstart.yaml --out runs/ruler --set 'seeds=[0,1,2,3,4]'
    python benchmarks/proofs/sandbox_ruler.py runs/ruler

The sandbox is a long enough ruler if base reaches at most 0.55 greedily, SFT 0.75 and the best method 0.95, and
if at each temperature at least six of the fifteen pairs of six methods are told apart with three seeds or more
(difference of the methods, Holm at 5 %). Answers of a decoder, which ignores the temperature, are those of the
run. Writes sandbox_ruler.json beside this file, and exits 1 where a bound is missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from alignbench import results, stats
from alignbench.sandbox import FINGERPRINT, MODEL, gold, measure, rows

TEMPERATURES = (0.0, 0.7, 1.0)
PROMPTS = 200
GREEDY_BOUNDS = {"base": 0.55, "sft": 0.75}
BEST_BOUND, PAIRS_BOUND = 0.95, 6
METHODS = ("sft", "dpo", "orpo", "rlhf", "rlaif", "rain")

Rewards = dict[tuple[str, float], list[list[float]]]
"""(label, temperature) to the rewards of each seed, by prompt."""


def rewards(run: Path) -> tuple[Rewards, list[str], dict[str, Any]]:
    """Return the gold of every label at every temperature, the label of each decoder, and the run's versions."""
    from peft import PeftModel

    record = results.read(run / "results.json" if run.is_dir() else run)
    table = list(rows("test", PROMPTS))
    asked = [row["prompt"] for row in table]
    found: Rewards = {}
    decoders = []
    for label in record.labels:
        cells = sorted((run / "cells" / label.label).glob("seed-*"))
        for seed, cell in enumerate(cells):
            adapter = cell / "policy"
            model, tokenizer = measure.load(MODEL)
            if (adapter / "adapter_config.json").exists():
                PeftModel.from_pretrained(model, adapter).eval()  # puts the adapter into the model itself
            elif label.label != "base":
                decoders = sorted({*decoders, label.label})
                said = of_the_run(cell)
                scored = [gold(row["prompt"], said[row["id"]]).reward for row in table if row["id"] in said]
                for temperature in TEMPERATURES:
                    found.setdefault((label.label, temperature), []).append(scored)
                continue
            for temperature in TEMPERATURES:
                answers = measure.generate(model, tokenizer, asked, temperature=temperature, seed=seed)
                scored = [gold(prompt, answer).reward for prompt, answer in zip(asked, answers, strict=True)]
                found.setdefault((label.label, temperature), []).append(scored)
    return found, decoders, record.environment["versions"]


def of_the_run(cell: Path) -> dict[str, str]:
    """Return a cell's answers by the id of the sandbox's row."""
    import pyarrow.parquet as parquet

    answers = parquet.read_table(cell / "samples.parquet").to_pylist()
    return {str(one["prompt_id"]): str(one["text"]) for one in answers}


def told_apart(found: Mapping[tuple[str, float], list[list[float]]], temperature: float) -> dict[str, Any]:
    """Return each pair of methods with its difference and Holm-corrected p value; {} with fewer than three seeds."""
    present = [name for name in METHODS if (name, temperature) in found]
    tables = {
        (a, b): np.array(found[a, temperature]) - np.array(found[b, temperature])
        for a, b in combinations(present, 2)
    }
    if not tables or next(iter(tables.values())).shape[0] < stats.MIN_SEEDS:
        return {}
    estimates = stats.pooled(tables)
    p_values = stats.holm([one.p_value() for one in estimates.values()])
    return {
        f"{a} - {b}": {"difference": round(one.value, 4), "p_holm": p}
        for ((a, b), one), p in zip(estimates.items(), p_values, strict=True)
    }


def main() -> None:
    found, decoders, versions = rewards(Path(sys.argv[1]))
    labels = list(dict.fromkeys(label for label, _ in found))
    means = {label: {str(t): float(np.mean(found[label, t])) for t in TEMPERATURES} for label in labels}
    pairs = {str(t): told_apart(found, t) for t in TEMPERATURES}
    counts = {t: sum(one["p_holm"] <= 0.05 for one in found.values()) for t, found in pairs.items()}
    failed = [
        f"{label} greedy {means[label]['0.0']:.3f} > {bound}"
        for label, bound in GREEDY_BOUNDS.items()
        if label in means and means[label]["0.0"] > bound
    ]
    best = max(labels, key=lambda label: means[label]["0.0"])
    if means[best]["0.0"] > BEST_BOUND:
        failed.append(f"{best} greedy {means[best]['0.0']:.3f} > {BEST_BOUND}")
    failed += [f"{n} pairs at {t}" for t, n in counts.items() if pairs[t] and n < PAIRS_BOUND]
    told = {
        "sandbox": FINGERPRINT,
        "versions": versions,
        "seeds": len(next(iter(found.values()))),
        "prompts": PROMPTS,
        "gold": means,
        "decoders": decoders,
        "pairs told apart": counts,
        "pairs": pairs,
        "missed": failed,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print("| label | greedy | 0.7 | 1 |\n|---|---:|---:|---:|")
    for label in labels:
        print(f"| {label} | " + " | ".join(f"{means[label][str(t)]:.3f}" for t in TEMPERATURES) + " |")
    print(f"pairs told apart: {counts}; missed: {failed or 'nothing'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
