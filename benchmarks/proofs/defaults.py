"""KTO, GRPO, RLOO and online DPO against their start, by gold, five seeds, with every default but the learning rate.

    alignbench run benchmarks/proofs/defaults.yaml --out runs/defaults
    alignbench run benchmarks/proofs/defaults_tuning.yaml --out runs/defaults-tuning
    python benchmarks/proofs/defaults.py runs/defaults runs/defaults-tuning

Reads the records of both runs and writes defaults.json next to this file: rewards, the differences of the methods
(seeds and prompts are samples), and the trials of the learning rates, each at the temperature where it is best. Exits 1
where a method is not above its start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quickstart_seeds import conclude, figures

from alignbench import results

METHODS = ("kto", "grpo", "rloo", "online-dpo")


def trials(record: results.Results) -> dict[str, list[dict[str, Any]]]:
    """Return what each learning rate reached, by method."""
    found: dict[str, list[dict[str, Any]]] = {}
    for label, method in record.recipe["methods"].items():
        if label != "sft":
            rewards = [setting.labels[label]["reward"].value for setting in record.settings]
            rate = method["config"]["learning_rate"]
            found.setdefault(method["method"], []).append({"learning_rate": rate, "reward": max(rewards)})
    return found


def main() -> None:
    record = results.read(Path(sys.argv[1]))
    found = figures(record)
    for label in METHODS:
        found[label]["learning_rate"] = record.recipe["methods"][label]["config"]["learning_rate"]
    found["trials"] = trials(results.read(Path(sys.argv[2])))
    conclude(__file__, found, METHODS)


if __name__ == "__main__":
    main()
