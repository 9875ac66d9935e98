"""What each setting of each method reaches on validation prompts, and which is chosen.

    alignbench run benchmarks/proofs/tuning.yaml --out runs/tuning
    python benchmarks/proofs/tuning.py runs/tuning

Every method has three settings and three seeds. A setting counts with its best temperature: decoding is tuned as well.
Writes tuning.json next to this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT


def main() -> None:
    record = results.read(Path(sys.argv[1]))
    methods: dict[str, dict[str, Any]] = {}
    for label, block in record.recipe["methods"].items():
        gold = {
            str(setting.temperature): setting.labels[label]["reward"].value or 0.0
            for setting in record.settings
        }
        at = max(gold, key=lambda one: gold[one])
        trial = {"config": block["config"], "gold": gold, "best temperature": float(at)}
        methods.setdefault(block["method"], {})[label] = trial
    chosen = {
        method: max(trials, key=lambda label: max(trials[label]["gold"].values()))
        for method, trials in methods.items()
    }
    summary = {
        "sandbox": FINGERPRINT,
        "versions": record.environment["versions"],
        "seeds": record.recipe["seeds"],
        "prompts": record.recipe["evaluation"]["prompts"],
        "chosen": chosen,
        "trials": methods,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for trials in methods.values():
        for label, trial in trials.items():
            numbers = "  ".join(f"{at}: {value:.3f}" for at, value in trial["gold"].items())
            print(f"{'*' if label in chosen.values() else ' '} {label:8} {numbers}")


if __name__ == "__main__":
    main()
