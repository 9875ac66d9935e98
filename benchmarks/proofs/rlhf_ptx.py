"""C5 on the sandbox: the skills that PPO costs, and whether pretraining text or a larger beta keeps them.

    alignbench run benchmarks/proofs/rlhf_ptx.yaml --out runs/ptx
    python benchmarks/proofs/rlhf_ptx.py runs/ptx

Takes the metric `capability` of that run, question by question: exact answers to 150 questions of each of four
tasks, asked in chat form. `drop`: SFT's share of right answers minus the label's. `recovered`: the part of
`rlhf`'s drop that the label does not have. `over half`: the label's share minus the middle between SFT's and
`rlhf`'s; at least half is recovered where it is not below 0. Gold is given too: what the skills cost
there. Writes rlhf_ptx.json next to this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from alignbench import results, stats, store
from alignbench.api.launcher import Task
from alignbench.api.metric import Cell, Measure
from alignbench.metrics.capability import Capability
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.sandbox import FINGERPRINT
from alignbench.worker.finished.cells import FinishedCells
from alignbench.worker.finished.evidence import RunEvidence
from alignbench.worker.run.session import Session

START, PLAIN = "sft", "rlhf"


def skills(run: Path, record: results.Results) -> dict[str, np.ndarray]:
    """Return 1 for each right answer, else 0: label -> float [seeds, questions]. The answers lie in the store."""
    recipe = Recipe.model_validate(record.recipe)
    plan = resolve(recipe).model_dump_json()
    session = Session(Task("evaluate", run, run, plan, store.default_root(), run / "log.txt", 1))
    named = next(one for one in recipe.evaluation.metrics if one.name == "capability")
    metric = Capability(Capability.Config(**named.config))
    cells = [Cell(cell.label, cell.seed) for cell in record.cells]
    finished = FinishedCells(session, cells, lambda event: None, [metric])
    at = {label.label: record.temperature(label.label) for label in record.labels}
    evidence = RunEvidence(finished, at, [metric])
    found = metric.measure(evidence)
    values: dict[Cell, dict[str, float]] = {cell: {} for cell in cells}
    for one in found:
        if isinstance(one, Measure) and ".tax." not in one.metric:
            values[Cell(one.label, one.seed)] |= one.values
    return {
        label.label: stats.tabulate([values[Cell(label.label, seed)] for seed in label.seeds])
        for label in record.labels
    }


def described(table: np.ndarray) -> dict[str, Any]:
    """Return a mean over seeds and questions under both estimands."""
    policies, method = stats.policies(table), stats.method(table)
    return {
        "value": policies.value,
        "ci95, these policies": list(policies.interval()),
        "ci95, the method": list(method.interval()),
    }


def figures(record: results.Results, skill: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return each label's skill and reward, and what is recovered of the drop."""
    summary: dict[str, Any] = {"sandbox": FINGERPRINT, "seeds": record.recipe["seeds"]}
    start, plain = skill[START], skill[PLAIN]
    drop = stats.policies(start - plain).value
    for label in record.labels:
        own = skill[label.label]
        one = summary[label.label] = {
            "skill": own.mean(),
            "skill of each seed": own.mean(axis=1).tolist(),
            **{name: label.metrics[name].value for name in ("reward", "kl.base", "perplexity")},
        }
        if label.label in ("base", START):
            continue
        one["drop"] = described(start - own)
        for estimand in ("policies", "method"):
            gold = record.comparison(label.label, START, "reward", estimand)
            if gold is not None:
                one[f"reward - {START}, {estimand}"] = [gold.difference, gold.ci95]
        if label.label != PLAIN:
            one["recovered"] = 1 - (start - own).mean() / drop
            one["over half"] = described(own - (start + plain) / 2)
    return summary


def main() -> None:
    run = Path(sys.argv[1]).resolve()
    record = results.read(run)
    summary = figures(record, skills(run, record))
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
