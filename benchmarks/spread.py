"""How far two equal runs lie apart on this machine's device: exactly 0 on a CPU, the kernels' spread on CUDA.

    python benchmarks/spread.py [--label dpo] [--runs 3]

Trains one label of the quickstart several times from the same seed, each time from an empty store, and prints
the largest difference of any adapter weight, of the last losses and the share of equal answers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from quickstart_cells import RECIPE, made, prepared
from safetensors.torch import load_file

from alignbench.worker.finished import samples


def once(folder: Path, label: str) -> dict[str, Any]:
    """Train `label` and what it starts from; return its weights, its last losses and its answers."""
    task, start = prepared(folder), str(RECIPE.methods[label].start)
    if start != "base":
        made(task, start)
    where = made(task, label)
    curves = [json.loads(line) for line in (where / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "weights": load_file(where / "policy" / "adapter_model.safetensors"),
        "losses": torch.tensor([point["loss"] for point in curves if "loss" in point][-5:]),
        "answers": [answer.ids for answer in samples.read_all(where)],
    }


def apart(one: dict[str, Any], two: dict[str, Any]) -> dict[str, float]:
    """Return how far two runs lie apart."""
    weights = [(tensor - two["weights"][name]).abs().max().item() for name, tensor in one["weights"].items()]
    equal = [a == b for a, b in zip(one["answers"], two["answers"], strict=True)]
    return {
        "weights": max(weights),
        "losses": (one["losses"] - two["losses"]).abs().max().item(),
        "other answers": 1 - sum(equal) / len(equal),
    }


def main() -> None:
    """Run the label several times, print a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--label", default="dpo")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        found = [once(Path(place) / str(number), asked.label) for number in range(asked.runs)]
    pairs = [apart(one, two) for one, two in combinations(found, 2)]
    worst = {name: max(pair[name] for pair in pairs) for name in pairs[0]}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"{asked.label} on {device}, {asked.runs} equal runs, the two that lie farthest apart:")
    for name, value in worst.items():
        print(f"  {name:14} {value:.3g}")
    counts = {"runs": asked.runs, "answers": len(found[0]["answers"])}
    print(json.dumps({"benchmark": "spread", "device": device, "ratios": worst, "counts": counts}))


if __name__ == "__main__":
    main()
