"""What each setting of each method reaches on validation prompts, and which is chosen.

    alignbench run benchmarks/proofs/tuning.yaml --out runs/tuning
    python benchmarks/proofs/tuning.py runs/tuning

Every method has three settings and three seeds. A setting counts with its best temperature: decoding is tuned as well.
Writes tuning.json next to this file.

    alignbench run benchmarks/proofs/tuning_beyond.yaml --out runs/tuning-beyond
    python benchmarks/proofs/tuning.py --beyond runs/tuning-beyond

adds one setting of each method beyond those: none of them is chosen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT


def trials_of(record: results.Results) -> dict[str, dict[str, Any]]:
    """Return the settings of each method, each with what it reaches at each temperature."""
    methods: dict[str, dict[str, Any]] = {}
    for label, block in record.recipe["methods"].items():
        gold = {
            str(setting.temperature): setting.labels[label]["reward"].value or 0.0
            for setting in record.settings
        }
        at = max(gold, key=lambda one: gold[one])
        trial = {"config": block["config"], "gold": gold, "best temperature": float(at)}
        methods.setdefault(block["method"], {})[label] = trial
    return methods


def beyond(record: results.Results) -> None:
    """Add the settings of a further run to tuning.json."""
    file = Path(__file__).with_suffix(".json")
    summary = json.loads(file.read_text(encoding="utf-8"))
    known = [label for trials in summary["trials"].values() for label in trials]
    summary["beyond"] = {
        method: {label: trial for label, trial in trials.items() if label not in known}
        for method, trials in trials_of(record).items()
    }
    file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def main(record: results.Results) -> None:
    methods = trials_of(record)
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
    *options, run = sys.argv[1:]
    (beyond if options == ["--beyond"] else main)(results.read(Path(run)))
