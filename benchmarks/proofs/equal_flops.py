"""Each method of equal_flops.yaml against its start, and GRPO, RLOO and online DPO against RLHF, by gold, five seeds.

    alignbench run benchmarks/proofs/equal_flops.yaml --out runs/equal-flops
    python benchmarks/proofs/equal_flops.py runs/equal-flops

Reads the record of that run and writes equal_flops.json next to this file: reward, FLOPs, the learning rate that the
trials chose, and the differences of the methods (seeds and prompts are samples). Exits 1 where a method is not above
its start.
"""

from __future__ import annotations

import sys
from pathlib import Path

from quickstart_seeds import conclude, figures

from alignbench import results

ABOVE_START = ("dpo", "kto", "rlhf", "grpo", "rloo", "online-dpo")
AGAINST_RLHF = ("grpo", "rloo", "online-dpo")


def main() -> None:
    record = results.read(Path(sys.argv[1]))
    found = figures(record)
    for label in ABOVE_START:
        cells = record.cells_of(label)
        found[label]["flops"] = [cell.cost.flops for cell in cells]
        found[label]["learning_rate"] = record.recipe["methods"][label]["config"]["learning_rate"]
    for setting in record.settings:
        at = record.model_copy(update={"comparisons": setting.comparisons})
        for label in AGAINST_RLHF:
            one = at.comparison(label, "rlhf", "reward", "method")
            assert one is not None, f"{label} and rlhf were not compared"
            found[label][f"minus rlhf, method, T {setting.temperature:g}"] = {
                "difference": one.difference,
                "ci95": one.ci95,
                "p_holm": one.p_holm,
            }
    conclude(__file__, found, ABOVE_START)


if __name__ == "__main__":
    main()
