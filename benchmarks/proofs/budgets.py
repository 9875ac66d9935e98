"""What every method that ships spends under a budget in tokens, in FLOPs, and in seconds of a real clock, by kind.

    python benchmarks/proofs/budgets.py [OUT] [--only UNIT]...

writes budgets.json next to this file, and fails where a method that trains is more than 2 % off; of seconds it may
leave one of its optimiser steps in addition. Units that are not run keep their record.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from alignbench import layout, results
from alignbench.sandbox import FINGERPRINT

HERE = Path(__file__).parent
RECORD = HERE / "budgets.json"
BUDGETS = {"tokens": 60_000, "flops": 4e11, "seconds": 12}
TRAIN_NOTHING = ("base", "rain", "best-of-n", "few-shot", "task-arithmetic", "ties")
WORK = ("train", "generated", "scored", "searched", "judge")
READ = ("prompts", "comparisons", "ai_comparisons", "answer_tokens", "answer_flops")
KINDS = {
    unit: ("tokens", "flops", *(f"{kind}_tokens" for kind in WORK), *READ) for unit in ("tokens", "flops")
} | {
    "seconds": (
        "seconds",
        *(f"{kind}_seconds" for kind in ("train", "generate", "score", "search", "judge", "other")),
        "tokens",
    )
}


def steps(run: Path, label: str) -> int:
    """Return the optimiser steps of a label's policy; 0 where it trains nothing."""
    log = layout.cell_folder(run, label, 0) / layout.TRAINING_LOG
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def spent(run: Path, unit: str) -> dict[str, dict[str, Any]]:
    """Return what each label of a finished run spent."""
    found = {}
    for cell in results.read(run).cells:
        assert cell.status == "done", f"{cell.label}: {cell.reason}"
        found[cell.label] = {kind: getattr(cell.cost, kind) for kind in KINDS[unit]}
        found[cell.label] |= {"steps": steps(run, cell.label)} if unit == "seconds" else {}
    return found


def off(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Return who spent too much, or too little."""
    missed = []
    for unit, labels in found.items():
        amount = BUDGETS[unit]
        for label, cost in labels.items():
            step = cost[unit] / max(1, cost["steps"]) if unit == "seconds" else 0.0
            least = 0.0 if label in TRAIN_NOTHING else 0.98 * amount - step
            if not least <= cost[unit] <= 1.02 * amount:
                missed.append(f"{label}: {cost[unit]:,.4g} of {amount:,.4g} {unit}")
    return missed


def main(out: Path, units: list[str]) -> None:
    """Run the recipe once for each unit, and write down what each cell spent."""
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for unit in units:
        command = ["alignbench", "run", str(HERE / "budgets.yaml"), "--out", str(out / unit)]
        changed = [] if unit == "tokens" else ["--set", f"budget={{{unit}: {BUDGETS[unit]!r}}}"]
        subprocess.run([*command, *changed], check=True)
        known[unit] = spent(out / unit, unit)
    found = {unit: known[unit] for unit in BUDGETS if unit in known}
    text = json.dumps({"sandbox": FINGERPRINT, "budgets": BUDGETS, **found}, indent=1) + "\n"
    RECORD.write_text(text, encoding="utf-8")
    for unit in units:
        for label, cost in found[unit].items():
            print(f"{unit:7} {label:10} {cost[unit]:,.2f}")
    if missed := off({unit: found[unit] for unit in units}):
        raise SystemExit("off by more than the bounds:\n" + "\n".join(missed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--only", action="append", choices=list(BUDGETS), metavar="UNIT")
    given = parser.parse_args()
    main(given.out or Path(tempfile.mkdtemp()), given.only or list(BUDGETS))
