"""RAIN on the sandbox, three seeds: gains in harmlessness by evaluator and by checkpoint, and their cost.

    python benchmarks/proofs/rain_search.py runs/rain runs/rain-early runs/rain-middle

Reads the records of the runs that rain_search.yaml names and writes rain_search.json next to this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT

METRICS = ("reward.harmless", "reward.helpful", "reward")
COSTS = ("answer_tokens", "answer_forwards", "answer_seconds", "seconds")
DECODING = ("cached_forwards", "cached_tokens", "cached_seconds", "uncached_tokens", "uncached_seconds")
PAIRS = (
    ("rain", "sft"),
    ("oracle", "sft"),
    ("oracle", "rain"),
    ("best-of-n", "sft"),
    ("rain", "best-of-n"),
    ("rain-sft", "sft"),
    ("rain-sft", "rain"),
)


def figures(record: results.Results) -> dict[str, Any]:
    """Return each label's rewards, cost and self-evaluation, and the differences that the claims name."""
    summary: dict[str, Any] = {"model": record.recipe["model"]["id"], "labels": {}, "differences": {}}
    for label in record.labels:
        summary["labels"][label.label] = {
            **{name: label.metrics[name].value for name in METRICS if name in label.metrics},
            **{name: getattr(label.cost.own, name) for name in COSTS},
        }
        if label.decoding is not None:
            summary["labels"][label.label] |= {
                f"times plain, {name}": getattr(label.decoding, name) for name in DECODING
            }
        quality = [
            judge["quality"]
            for cell in record.cells_of(label.label)
            for judge in cell.judges
            if judge["name"].startswith("self-evaluation")
        ]
        for name in sorted({name for one in quality for name in one}):
            summary["labels"][label.label][name] = fmean(one[name] for one in quality if name in one)
    for a, b in PAIRS:
        for metric in METRICS:
            for estimand in ("policies", "method"):
                found = record.comparison(a, b, metric, estimand)
                if found is not None:
                    summary["differences"][f"{a} - {b}, {metric}, {estimand}"] = {
                        "difference": found.difference,
                        "ci95": found.ci95,
                        "p_holm": found.p_holm,
                    }
    gains = summary["differences"]
    kept = gains.get("rain-sft - sft, reward.harmless, policies")
    if kept is not None:
        whole = gains["rain - sft, reward.harmless, policies"]["difference"]
        summary["share of rain's gain that rain-sft keeps"] = kept["difference"] / whole
    return summary


def main() -> None:
    summary = {"sandbox": FINGERPRINT, "runs": [figures(results.read(Path(run))) for run in sys.argv[1:]]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for run in summary["runs"]:
        print(run["model"])
        for name, label in run["labels"].items():
            print(
                f"  {name:10}",
                *(f"{what} {number:.3f}" for what, number in label.items() if number is not None),
            )
        for name, one in run["differences"].items():
            print(f"  {name:48} {one['difference']:+.3f} [{one['ci95'][0]:+.3f}, {one['ci95'][1]:+.3f}]")
        print("  kept by rain-sft:", run.get("share of rain's gain that rain-sft keeps"))


if __name__ == "__main__":
    main()
