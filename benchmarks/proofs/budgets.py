"""What every method that ships spends under a budget in tokens, and in FLOPs: all, by kind.

    python benchmarks/proofs/budgets.py [OUT]

writes budgets.json next to this file, and fails where a method that trains is more than 2 % off.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from alignbench import results
from alignbench.sandbox import FINGERPRINT

HERE = Path(__file__).parent
BUDGETS = {"tokens": 60_000, "flops": 4e11}
TRAIN_NOTHING = ("base", "rain", "best-of-n", "few-shot", "task-arithmetic", "ties")
KINDS = (
    "tokens",
    "flops",
    "train_tokens",
    "generated_tokens",
    "scored_tokens",
    "searched_tokens",
    "judge_tokens",
)
KINDS += ("prompts", "comparisons", "ai_comparisons", "answer_tokens", "answer_flops")


def main(out: Path) -> None:
    """Run the recipe once for each unit, and write down what each cell spent."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    off: list[str] = []
    for unit, amount in BUDGETS.items():
        command = ["alignbench", "run", str(HERE / "budgets.yaml"), "--out", str(out / unit)]
        changed = [] if unit == "tokens" else ["--set", f"budget={{{unit}: {amount:.1e}}}"]
        subprocess.run([*command, *changed], check=True)
        found[unit] = {}
        for cell in results.read(out / unit).cells:
            assert cell.status == "done", f"{cell.label}: {cell.reason}"
            found[unit][cell.label] = {kind: getattr(cell.cost, kind) for kind in KINDS}
            spent = getattr(cell.cost, unit) or 0.0
            least = 0.0 if cell.label in TRAIN_NOTHING else 0.98 * amount
            if not least <= spent <= 1.02 * amount:
                off.append(f"{cell.label}: {spent:,.0f} of {amount:,.0f} {unit}")
    text = json.dumps({"sandbox": FINGERPRINT, **found}, indent=1) + "\n"
    (HERE / "budgets.json").write_text(text, encoding="utf-8")
    for unit, cells in found.items():
        for label, cost in cells.items():
            print(f"{unit:7} {label:10} {cost[unit]:,.0f}")
    if off:
        raise SystemExit("off by more than 2 %:\n" + "\n".join(off))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
