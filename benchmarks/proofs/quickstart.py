"""The quickstart's table, as a record and in README: equal numbers at both places.

    alignbench run recipes/quickstart.yaml --out runs/quickstart
    python benchmarks/proofs/quickstart.py runs/quickstart

Writes quickstart.json next to this file, and the part of README between its marks.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.report import markdown
from alignbench.sandbox import FINGERPRINT

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- quickstart -->", "<!-- /quickstart -->"


def figures(record: results.Results) -> dict[str, Any]:
    """Return each label's reward, at its own temperature and at each, its cost, and the table as it is printed."""

    def rewards(labels: Any) -> dict[str, list[float | None]]:
        found = {name: metrics["reward"] for name, metrics in labels.items()}
        return {name: [one.value, *(one.ci95 or ())] for name, one in found.items()}

    return {
        "sandbox": FINGERPRINT,
        "versions": record.environment["versions"],
        "seeds": record.recipe["seeds"],
        "prompts": record.recipe["evaluation"]["prompts"],
        "reward": rewards({one.label: one.metrics for one in record.labels}),
        "by temperature": {str(one.temperature): rewards(one.labels) for one in record.settings},
        "cost": {
            one.label: {"seconds": one.cost.chain.seconds, "tokens": one.cost.chain.tokens}
            for one in record.labels
        },
        "table": markdown(record).strip().splitlines(),
    }


def main() -> None:
    found = figures(results.read(Path(sys.argv[1])))
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    page = README.read_text(encoding="utf-8")
    table = "\n".join((BEGIN, *found["table"], END))
    README.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
