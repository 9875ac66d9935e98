"""Every row of the quickstart against base and against its start, five seeds, gold reward, both estimands.

    alignbench run recipes/quickstart.yaml --out runs/ruler --set 'seeds=[0,1,2,3,4]'
    python benchmarks/proofs/quickstart_seeds.py runs/ruler

Reads the record of that run and writes quickstart_seeds.json next to this file. Exits 1 where an interval of
these policies does not lie above zero.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.sandbox import FINGERPRINT


def figures(record: results.Results) -> dict[str, Any]:
    """Return each label's reward, and its difference to base and to its start under both estimands."""
    summary: dict[str, Any] = {"sandbox": FINGERPRINT, "versions": record.environment["versions"]}
    for label in record.labels:
        reward = label.metrics["reward"]
        summary[label.label] = {
            "reward": reward.value,
            "ci95": reward.ci95,
            "cost": label.cost.own.seconds,
        }
        for other in dict.fromkeys(("base", label.start if isinstance(label.start, str) else "base")):
            for estimand in ("policies", "method"):
                found = record.comparison(label.label, other, "reward", estimand)
                if found is not None and label.label != other:
                    summary[label.label][f"minus {other}, {estimand}"] = {
                        "difference": found.difference,
                        "ci95": found.ci95,
                        "p_holm": found.p_holm,
                    }
    return summary


def conclude(script: str, found: dict[str, Any], above: Sequence[str]) -> None:
    """Write what a script found next to it, and exit 1 where a label of `above` is not above its start `sft`."""
    text = json.dumps(found, indent=1)
    Path(script).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
    low = [label for label in above if found[label]["minus sft, method"]["ci95"][0] <= 0]
    sys.exit(f"not above its start: {', '.join(low)}" if low else 0)


def main() -> None:
    summary = figures(results.read(Path(sys.argv[1])))
    text = json.dumps(summary, indent=1)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)
    lows = {
        f"{label} {name}": difference["ci95"][0]
        for label, one in summary.items()
        if isinstance(one, dict)
        for name, difference in one.items()
        if name.endswith("policies")
    }
    failed = [name for name, low in lows.items() if low <= 0]
    sys.exit(f"not above zero: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
