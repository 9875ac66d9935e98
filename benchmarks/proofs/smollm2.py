"""What docs/case-study.md says of a run of recipes/smollm2.yaml, and the pictures of that page.

    python benchmarks/proofs/smollm2.py [runs/smollm2]

With the folder of a run its figures are written to smollm2.json next to this file. The pictures, docs/smollm2-*.svg,
are drawn from that file, by the functions that draw the report's. A line that is dashed ignores the temperature.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from alignbench import results
from alignbench.recipe.schema import BASE
from alignbench.report import decoding, figures
from alignbench.results import Estimate

RECORD = Path(__file__).with_suffix(".json")
DOCS = Path(__file__).parents[2] / "docs"
STYLE = Path(figures.__file__).parent / "templates" / "style.css"


def recorded(run: results.Results) -> dict[str, Any]:
    """Return what the page says of a run: of each label, and of the evaluation judge."""
    labels: dict[str, Any] = {}
    rewards = decoding.table(run, "reward")
    for label in run.labels:
        name, cost = label.label, label.cost.own
        labels[name] = {
            "reward": {f"{at:g}": interval(found[name]) for at, found in rewards.items() if name in found},
            "win_rate": interval(label.metrics["win_rate"]) if "win_rate" in label.metrics else None,
            "kl_from_start": None if name == BASE else value(label, "kl.start"),
            "ended": value(label, "length.finished"),
            "seconds": cost.seconds or None,
            "tokens": cost.tokens or None,
            "flops": cost.flops or None,
            "answer_seconds": cost.answer_seconds,
            "answer_tokens": cost.answer_tokens,
            "peak_memory_bytes": cost.peak_memory_bytes,
            "judges": [judge for cell in run.cells_of(name) for judge in cell.judges],
            "warnings": [warning for cell in run.cells_of(name) for warning in cell.warnings],
        }
    (judge, *_) = run.judges
    started, finished = (datetime.fromisoformat(run.environment[of]) for of in ("started", "finished"))
    return {
        "judge": judge,
        "labels": labels,
        "wall_seconds": (finished - started).total_seconds(),
        "versions": run.environment["versions"],
    }


def interval(one: Estimate) -> list[float] | None:
    """Return a value with the ends of its interval."""
    return None if one.value is None or one.ci95 is None else [one.value, *one.ci95]


def value(label: results.LabelResult, metric: str) -> float | None:
    return label.metrics[metric].value if metric in label.metrics else None


def pictures(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the page's pictures by their file names."""
    labels = found["labels"]
    colours = {name: number for number, name in enumerate(labels)}

    lines = [
        figures.TemperatureLine(
            name,
            colours[name],
            tuple(float(at) for at in one["reward"]),
            tuple(map(estimate, one["reward"].values())),
            None if len(set(map(tuple, one["reward"].values()))) == 1 else math.nan,
        )
        for name, one in labels.items()
    ]

    def scatter(name: str, key: str, x_title: str, title: str) -> str:
        points = [
            figures.Point(label, colours[label], Estimate(value=one[key]), estimate(one["reward"]["0"]))
            for label, one in labels.items()
            if one.get(key)
        ]
        listed = "; ".join(f"{one.label}: {one.y.value:.2f} at {one.x.value:g}" for one in points)
        drawn = figures.scatter(
            points, x_title, "reward at T 0", name=name, alternative=f"{title}. {listed}."
        )
        return standing_alone(drawn)

    title = "Reward at temperatures 0 and 1, with 95% intervals over prompts"
    return {
        "smollm2-temperature.svg": standing_alone(
            figures.temperatures(lines, "reward", name="temperature", alternative=title)
        ),
        "smollm2-distance.svg": scatter(
            "distance",
            "kl_from_start",
            "KL from the start, nats per response",
            "Reward at temperature 0 against distance from the start",
        ),
        "smollm2-answering.svg": scatter(
            "answering",
            "answer_seconds",
            "time for one answer, seconds",
            "Reward at temperature 0 against time for one answer",
        ),
    }


def estimate(found: list[float]) -> Estimate:
    value, low, high = found
    return Estimate(value=value, ci95=(low, high))


def standing_alone(svg: str) -> str:
    """Return a figure of the report as a file of its own: with the page's colours, light and dark."""
    light, dark = (
        " ".join(re.findall(r"--(?:paper|ink|soft|line|c\d): #\w+;", block))
        for block in STYLE.read_text(encoding="utf-8").split("@media", 2)[:2]
    )
    opening, rest = str(svg).removeprefix("<svg").split(">", 1)
    style = f"svg {{ {light} font-family: sans-serif; }}"
    style += f" @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    return f'<svg xmlns="http://www.w3.org/2000/svg"{opening}><style>{style}</style>{rest}\n'


def main() -> None:
    if len(sys.argv) > 1:
        text = json.dumps(recorded(results.read(Path(sys.argv[1]))), indent=1)
        RECORD.write_text(text + "\n", encoding="utf-8")
    for name, svg in pictures(json.loads(RECORD.read_text(encoding="utf-8"))).items():
        (DOCS / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
