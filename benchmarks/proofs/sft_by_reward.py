"""C1 on the sandbox: over sixteen epochs, the validation loss against what a reward model, and gold, say.

    alignbench run benchmarks/proofs/sft_by_reward.yaml --out runs/epochs
    python benchmarks/proofs/sft_by_reward.py runs/epochs

Reads the curves of that run and writes sft_by_reward.json next to this file: for each epoch the mean negative
log-likelihood of a token of the validation demonstrations, the reward model's mean score of answers to the
validation prompts, and gold's of the same policy's answers to the same prompts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.report import artefacts
from alignbench.sandbox import FINGERPRINT


def figures(run: Path, record: results.Results) -> dict[str, Any]:
    """Return the three curves, and where each is best."""
    summary: dict[str, Any] = {"sandbox": FINGERPRINT}
    for cell in record.cells_of("sft"):
        curves = artefacts.curves(run, cell)
        nll, score = curves["validation_nll"], curves["validation_score"]
        gold = {one.step: one.score for one in cell.learning_curve}
        rows = [
            {
                "epoch": number,
                "validation_nll": loss,
                "reward_model": worth,
                "gold": (at := gold[int(step)]) and [at.value, *(at.ci95 or ())],
            }
            for number, (step, loss, worth) in enumerate(
                zip(nll.steps, nll.values, score.values, strict=True), 1
            )
        ]
        summary[f"seed {cell.seed}"] = {
            "lowest validation_nll at epoch": min(rows, key=lambda row: row["validation_nll"])["epoch"],
            "highest reward_model at epoch": max(rows, key=lambda row: row["reward_model"])["epoch"],
            "gold on test prompts": cell.metrics["reward"].value,
            "epochs": rows,
        }
    return summary


def main() -> None:
    run = Path(sys.argv[1])
    summary = figures(run, results.read(run))
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
