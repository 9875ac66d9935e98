"""C4 on the sandbox: reward against KL over beta, and whether a proxy is over-optimised without a penalty.

    alignbench run benchmarks/proofs/rlhf_frontier.yaml --out runs/frontier
    alignbench run benchmarks/proofs/rlhf_frontier.yaml --out runs/frontier-long --only rlhf-0 \\
        --set training.schedule=constant --set budget.rows=4096
    python benchmarks/proofs/rlhf_frontier.py runs/frontier runs/frontier-long

Reads the records of those runs: each policy's gold reward and distance from base, and on the way there, on 64
validation prompts, what gold and what its own reward model gave it. Writes rlhf_frontier.json next to this file,
and a table to the terminal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT


def figures(record: results.Results) -> dict[str, Any]:
    """Return the frontier of one run, and the way of each of its policies."""
    summary: dict[str, Any] = {
        "rounds": record.recipe["budget"]["rows"] / 128,
        "schedule": record.recipe["training"]["schedule"],
        "seeds": record.recipe["seeds"],
    }
    for cell in record.cells:
        versus = record.comparison(cell.label, "sft", "reward")
        summary[f"{cell.label}/{cell.seed}"] = {
            "gold": cell.metrics["reward"].value,
            "gold - sft": versus and [versus.difference, versus.ci95],
            "kl.base": cell.metrics["kl.base"].value,
            "warnings": cell.warnings,
            "way": [
                {"step": one.step, "gold": _value(one.score), "proxy": _value(one.proxy)}
                for one in cell.learning_curve
            ],
        }
    return summary


def _value(estimate: results.Estimate | None) -> list[float | None] | None:
    if estimate is None or estimate.ci95 is None:
        return None
    return [estimate.value, *estimate.ci95]


def main() -> None:
    summary: dict[str, Any] = {"sandbox": FINGERPRINT}
    for run in map(Path, sys.argv[1:]):
        summary[run.name] = figures(results.read(run))
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for run, found in summary.items():
        for name, one in found.items() if isinstance(found, dict) else ():
            if isinstance(one, dict):
                print(
                    f"{run:14} {name:12} gold {one['gold']:.3f}  KL {one['kl.base']:6.2f}", *one["warnings"]
                )


if __name__ == "__main__":
    main()
