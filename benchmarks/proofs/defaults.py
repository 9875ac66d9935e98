"""KTO, GRPO, RLOO and online DPO with their defaults against their start, by gold, five seeds: see defaults.yaml.

    alignbench run benchmarks/proofs/defaults.yaml --out runs/defaults
    python benchmarks/proofs/defaults.py runs/defaults

Reads the record of that run and writes defaults.json next to this file: rewards, and the differences of the methods
(seeds and prompts are samples). Exits 1 where a method is not above its start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from quickstart_seeds import figures

from alignbench import results

METHODS = ("kto", "grpo", "rloo", "online-dpo")


def main() -> None:
    record = results.read(Path(sys.argv[1]))
    found = figures(record)
    for label in METHODS:
        found[label]["learning_rate"] = record.recipe["methods"][label]["config"]["learning_rate"]
    text = json.dumps(found, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
    low = [label for label in METHODS if found[label]["minus sft, method"]["ci95"][0] <= 0]
    sys.exit(f"not above its start: {', '.join(low)}" if low else 0)


if __name__ == "__main__":
    main()
