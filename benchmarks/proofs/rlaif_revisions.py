"""Claim C14 on the sandbox, three seeds: harmless and helpful parts after 0 to 4 rounds of critique and revision.

    python benchmarks/proofs/rlaif_revisions.py runs/revisions

Reads the record of the run that rlaif_revisions.yaml names and writes rlaif_revisions.json next to this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT

PARTS = ("reward", "reward.harmless", "reward.helpful", "length")


def figures(record: results.Results) -> dict[str, Any]:
    """Return each label's parts with their intervals, and each round minus none."""
    summary: dict[str, Any] = {"sandbox": FINGERPRINT, "labels": {}, "differences": {}}
    for label in record.labels:
        summary["labels"][label.label] = {
            part: {"value": label.metrics[part].value, "ci95": label.metrics[part].ci95}
            for part in PARTS
            if part in label.metrics
        }
        for part in PARTS[:3]:
            for estimand in ("policies", "method"):
                found = record.comparison(label.label, "rounds-0", part, estimand)
                if found is not None and label.label.startswith("rounds-") and label.label != "rounds-0":
                    summary["differences"][f"{label.label} - rounds-0, {part}, {estimand}"] = {
                        "difference": found.difference,
                        "ci95": found.ci95,
                        "p_holm": found.p_holm,
                    }
    return summary


if __name__ == "__main__":
    text = json.dumps(figures(results.read(Path(sys.argv[1]))), indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
