"""AI labels and people's on the sandbox, three seeds: what policies gain, and how often labels agree with gold.

    python benchmarks/proofs/rlaif_labels.py runs/labels

Reads the record of a run of rlaif_labels.yaml, or with weaker judges of rlaif_weaker.yaml; then asks annotators,
judges and reward models of that run about the same held-out pairs, and gold about the labels that were trained
on. Writes rlaif_labels.json next to this file, or where `--to` says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from alignbench import Labelling, NamedJudge, NamedMethod, feedback, results, store
from alignbench.api.launcher import Task
from alignbench.judges.gold import Gold
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.rewards import reward_model
from alignbench.rows import Pair, Prompt, Ranking, Sequence
from alignbench.sandbox import FINGERPRINT
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.session import Session

HELD_OUT = 300
"""Pairs that annotators, judges and reward models are asked about."""

DIFFERENCES = (
    ("dpo-ai", "sft"),
    ("rlaif", "sft"),
    ("dpo", "sft"),
    ("rlhf", "sft"),
    ("dpo-ai", "dpo"),
    ("dpo-ai-middle", "dpo"),
    ("dpo-ai-early", "dpo"),
    ("rlaif", "rlhf"),
    ("rlaif-middle", "sft"),
    ("rlaif-early", "sft"),
    ("rlaif-middle", "rlhf"),
    ("rlaif-early", "rlhf"),
)


class Truth:
    """Gold's judgments, by the texts."""

    def __init__(self) -> None:
        self.gold = Gold(Gold.Config())

    def margins(self, rows: list[Prompt], a: list[str], b: list[str]) -> list[float]:
        """Return by how much gold likes `a` better than `b`; 0 is a tie."""
        first, second = self.gold.score(rows, a), self.gold.score(rows, b)
        return [(x.value or 0) - (y.value or 0) for x, y in zip(first, second, strict=True)]


def agreement(margins: list[float], judgments: list[float | None]) -> dict[str, float]:
    """Return how often judgments (above 0: the first is better) are gold's, where neither side has a tie."""
    correct = [
        (m > 0) == (v > 0) for m, v in zip(margins, judgments, strict=True) if m and v is not None and v != 0
    ]
    return {"agrees": fmean(correct) if correct else float("nan"), "n": len(correct)}


def pairs_of(row: Any) -> list[tuple[str, str]]:
    """Return the comparisons a label makes, the better answer first."""
    if isinstance(row, Pair):
        return [(row.chosen, row.rejected)]
    assert isinstance(row, Ranking)
    order = list(zip(row.answers, row.ranks, strict=True))
    return [(x, y) for x, i in order for y, j in order if i < j]


def measured(run: Path) -> dict[str, Any]:
    """Return who agrees how often with gold, seed by seed."""
    record = results.read(run)
    recipe = Recipe.model_validate(record.recipe)
    session = Session(
        Task(
            "evaluate",
            run,
            run,
            resolve(recipe).model_dump_json(),
            store.default_root(),
            run / "proof.txt",
            1,
        )
    )
    truth, found = Truth(), {}
    done = {(cell.label, cell.seed) for cell in record.cells if cell.status == "done"}
    for seed in recipe.seeds:
        held = list(session.table.rows(Pair, "validation", seed=seed, draw="all"))[:HELD_OUT]
        chosen, rejected = [row.chosen for row in held], [row.rejected for row in held]
        margins = truth.margins(list(held), chosen, rejected)
        one: dict[str, Any] = {"annotators": agreement(margins, [1.0] * len(held))}
        train = list(session.training_rows(Ranking))
        one["annotators' training labels"] = on_labels(truth, train)

        def asked(score: Callable[[list[Sequence]], Any], held: list[Pair] = held) -> list[float | None]:
            first, second = zip(*(row.sequences() for row in held), strict=True)
            return (score(list(first)) - score(list(second))).tolist()

        for label, block in recipe.methods.items():
            if (label, seed) not in done or block.method not in ("rlaif", "rlhf"):
                continue
            run_of = CellContext(
                session, label="proof", seed=seed, method=block.method, start="sft", folder=run / "proof"
            )
            rows, how = None, block.config
            if block.method == "rlaif":
                judge = run_of.judge(NamedJudge.model_validate(how["judge"]))
                preferences = [one.preference for one in judge.judge_pairs(list(held), chosen, rejected)]
                judgments = [None if p is None else p - 0.5 for p in preferences]
                one[f"judge of {label}"] = agreement(margins, judgments)
                rows = feedback.label(run_of, judge, Labelling.model_validate(how["labels"]))
                one[f"labels of {label}"] = on_labels(truth, rows)
                optimizer = NamedMethod.model_validate(how["optimizer"])
                how = optimizer.config if optimizer.name == "rlhf" else None
            if how is not None:
                inside = CellContext(
                    session,
                    label="proof",
                    seed=seed,
                    method="rlhf",
                    start="sft",
                    folder=run / "proof",
                    rows=rows,
                )
                reward = reward_model(inside, **how["reward_model"])
                one[f"reward model of {label}"] = agreement(margins, asked(reward.score))
            print(seed, label, flush=True)
        found[str(seed)] = one
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    return {
        name: {
            "agrees": fmean(one[name]["agrees"] for one in found.values() if name in one),
            "seeds": {seed: one[name] for seed, one in found.items() if name in one},
        }
        for name in names
    }


def on_labels(truth: Truth, rows: list[Any]) -> dict[str, float]:
    """Return how often gold agrees with the labels that a method learns from."""
    flat = [(row, better, worse) for row in rows for better, worse in pairs_of(row)]
    margins = truth.margins([row for row, _, _ in flat], [x for _, x, _ in flat], [y for _, _, y in flat])
    return agreement(margins, [1.0] * len(flat))


def figures(record: results.Results) -> dict[str, Any]:
    """Return rewards, comparisons used, and the differences that the claims name."""
    summary: dict[str, Any] = {"labels": {}, "differences": {}}
    for label in record.labels:
        if "reward" not in label.metrics:
            continue
        summary["labels"][label.label] = {
            **{part: label.metrics[part].value for part in ("reward", "reward.harmless", "reward.helpful")},
            "comparisons": label.cost.own.comparisons,
            "ai_comparisons": label.cost.own.ai_comparisons,
            "judge_seconds": label.cost.own.judge_seconds,
            "train_seconds": label.cost.own.train_seconds,
        }
    for a, b in DIFFERENCES:
        for metric in ("reward", "reward.harmless"):
            for estimand in ("policies", "method"):
                found = record.comparison(a, b, metric, estimand)
                if found is not None:
                    summary["differences"][f"{a} - {b}, {metric}, {estimand}"] = {
                        "difference": found.difference,
                        "ci95": found.ci95,
                        "p_holm": found.p_holm,
                    }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    run = given.run.resolve()
    summary = {"sandbox": FINGERPRINT, **figures(results.read(run)), "agreement with gold": measured(run)}
    given.to.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for name, one in summary["labels"].items():
        print(f"{name:16}", *(f"{what} {number:.3f}" for what, number in one.items() if number is not None))
    for name, one in summary["differences"].items():
        print(f"{name:40} {one['difference']:+.3f} [{one['ci95'][0]:+.3f}, {one['ci95'][1]:+.3f}]")
    for name, one in summary["agreement with gold"].items():
        print(f"{name:30} {one['agrees']:.3f}")


if __name__ == "__main__":
    main()
