"""The learning rates of the comparison at equal FLOPs: what each trial reaches on validation prompts.

    alignbench run benchmarks/proofs/equal_flops_tuning.yaml --out runs/equal-flops-tuning --only sft
    python benchmarks/proofs/equal_flops_tuning.py runs/equal-flops-tuning

Writes equal_flops_tuning.json next to this file. `equal_flops.yaml` has the best learning rate of each method.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from alignbench import layout, results
from alignbench.sandbox import FINGERPRINT


def main(folder: Path) -> None:
    record = results.read(folder / layout.SWEEP)
    trials: dict[str, list[dict[str, float]]] = {}
    for label, block in record.recipe["methods"].items():
        measured = next(one for one in record.labels if one.label == label).metrics["reward"]
        trial = {"learning_rate": block["config"]["learning_rate"], "reward": measured.value or 0.0}
        trials.setdefault(label.partition(".")[0], []).append(trial)
    tuned = {name: found for name, found in trials.items() if len(found) > 1}
    summary = {
        "sandbox": FINGERPRINT,
        "seed": record.recipe["seeds"][0],
        "prompts": record.recipe["evaluation"]["prompts"],
        "split": "validation",
        "versions": record.environment["versions"],
        "trials": tuned,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for name, found in tuned.items():
        best = max(found, key=lambda one: one["reward"])
        print(
            f"{name:10} {best['learning_rate']:g}",
            *(f"{one['learning_rate']:g}: {one['reward']:.4f}" for one in found),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
