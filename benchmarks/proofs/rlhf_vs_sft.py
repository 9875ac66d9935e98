"""RLHF against SFT on the sandbox, three seeds, gold reward: both rows of the quickstart and what is behind.

    alignbench run benchmarks/proofs/rlhf_ptx.yaml --out runs/ptx
    python benchmarks/proofs/rlhf_vs_sft.py runs/ptx

Reads the record of that run, whose rows `sft` and `rlhf` are the quickstart's, and writes rlhf_vs_sft.json next to
this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT


def figures(record: results.Results) -> dict[str, Any]:
    """Return the comparison under both estimands, and each seed's reward, judge, warnings and cost."""
    summary: dict[str, Any] = {"sandbox": FINGERPRINT, "recipe": record.recipe["methods"]["rlhf"]["config"]}
    for estimand in ("policies", "method"):
        found = record.comparison("rlhf", "sft", "reward", estimand)
        if found is not None:
            summary[
                f"rlhf - sft, these {estimand}" if estimand == "policies" else "rlhf - sft, the method"
            ] = {
                "difference": found.difference,
                "ci95": found.ci95,
                "p_holm": found.p_holm,
            }
    for label in ("base", "sft", "rlhf"):
        summary[label] = {
            f"seed {cell.seed}": {
                "gold": cell.metrics["reward"].value,
                "kl.start": cell.metrics["kl.start"].value if "kl.start" in cell.metrics else None,
                "train_tokens": cell.cost.train_tokens,
                "comparisons": cell.cost.comparisons,
                **({"warnings": cell.warnings, "judges": cell.judges} if label == "rlhf" else {}),
            }
            for cell in record.cells_of(label)
        }
    return summary


if __name__ == "__main__":
    text = json.dumps(figures(results.read(Path(sys.argv[1]))), indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
