"""How long the rows that train would take with TRL, by its measured speeds, against what they took in a kept run.

    python benchmarks/real_vs_trl.py MODEL ROWS --compute defaults | tee speeds.txt
    python benchmarks/proofs/by_hand.py runs/smollm2 speeds.txt

For a run of recipes/smollm2.yaml. By hand are: SFT, DPO and ORPO on the run's own training rows and epochs, the reward
model of RLHF, and DPO on the pairs that RLAIF kept, their prompts once. Left out on that side, since TRL has no such
trainer or it is not one: PPO and its answers, RLAIF's answers, revisions and labels. On the run's side they count.
`searching` are cells that train nothing. Seconds are of one thread. Writes by_hand.json next to this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import layout, results
from alignbench.data.split import is_for_judges
from alignbench.data.table import open_table
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import BASE
from alignbench.rows import Pair

RECORD = Path(__file__).with_suffix(".json")
TRAINING = ("sft", "dpo", "orpo", "rlhf", "rlaif")


def speeds(file: Path) -> dict[str, Any]:
    """Return TRL's tokens a second by method, and the versions, from the lines of `real_vs_trl.py`."""
    lines = [
        json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("{")
    ]
    found = {name: one for line in lines for name, one in line.items() if name.endswith(".defaults")}
    per_second = {name.partition(".")[0]: one["tokens_per_second"]["trl"] for name, one in found.items()}
    return {"tokens_per_second": per_second, "versions": lines[0]["versions"]}


def main() -> None:
    folder, trl = Path(sys.argv[1]), speeds(Path(sys.argv[2]))
    run = results.read(folder)
    plan = Plan.model_validate_json((folder / layout.PLAN).read_text(encoding="utf-8"))
    where = plan.recipe.data.split
    rows = open_table(folder / layout.DATA).kept("train")
    pairs = [
        row for row in rows if isinstance(row, Pair) and not is_for_judges(row, where, (0, plan.reserved))
    ]
    both = [[len(one.prompt) + len(one.response) for one in row.sequences()] for row in pairs]
    epochs = {label: int(one.budget.epochs or 0) for label, one in plan.labels.items()}
    costs = {label: one.cost.own for label in TRAINING if (one := run.label(label)) is not None}
    whole = sum(map(sum, both))
    tokens = {
        "sft": epochs["sft"] * sum(chosen for chosen, _ in both),
        "dpo": epochs["dpo"] * whole,
        "orpo": epochs["orpo"] * whole,
        "rlhf": whole,  # of its reward model, one epoch
        "rlaif": costs["rlaif"].train_tokens or 0.0,  # too few: ours computes a pair's prompt once
    }
    kinds = {"rlhf": "reward", "rlaif": "dpo"}
    per_second = trl["tokens_per_second"]
    by_hand = {label: count / per_second[kinds.get(label, label)] for label, count in tokens.items()}
    took = {label: cost.seconds or 0.0 for label, cost in costs.items()}
    search = {one.label: one.cost.own.seconds for one in run.labels if one.label not in (BASE, *TRAINING)}
    record = {
        **trl,
        "pairs": len(pairs),
        "tokens": tokens,
        "by_hand_seconds": by_hand,
        "seconds": took,
        "searching_seconds": search,
        "ratio": sum(took.values()) / sum(by_hand.values()),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
