"""A finished run as the engine leaves it, with noise of the size that the sandbox has."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from alignbench import results as record
from alignbench.api.method import Departure
from alignbench.results import (
    CellResult,
    Comparison,
    Cost,
    Costs,
    DataCounts,
    Estimate,
    LabelResult,
    Measured,
    MetricInfo,
    Results,
)

METHODS = {  # label: (method, start, gold reward, KL from base, length)
    "base": (None, None, 0.412, 0.0, 21.0),
    "sft": ("sft", "base", 0.551, 3.1, 17.2),
    "dpo": ("dpo", "sft", 0.668, 9.4, 19.6),
    "dpo-hot": ("dpo", "dpo", 0.655, 4.2, 18.4),
    "orpo": ("orpo", "base", 0.603, 6.8, 17.9),
    "rain-on-dpo": ("rain", "dpo", 0.702, None, 18.8),
    "rlhf": ("rlhf", "sft", None, None, None),
}
PARTS = {"reward.helpful": -0.03, "reward.honest": 0.02, "reward.harmless": 0.05}

MORE = {  # metric: (more is better, half its interval)
    "capability.sums": (True, 0.05),
    "capability.sums.tax.base": (False, 0.04),
    "capability.sums.tax.start": (False, 0.04),
    "perplexity": (False, 0.02),
    "refusal.harmful": (True, 0.05),
    "attack.plain": (False, 0.05),
    "hallucination": (False, 0.03),
    "entropy": (None, 0.02),
    "diversity.distinct_1": (None, 0.02),
}


@dataclass
class ExampleRun:
    """A finished run with noise of the size that the sandbox has."""

    labels: dict = None  # type: ignore[assignment]
    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: int = 200
    name: str = "quickstart"

    def __post_init__(self):
        self.labels = self.labels or METHODS

    def folder(self, label: str) -> str:
        return f"label-{list(self.labels).index(label)}"

    def answers(self, label: str, seed: int, texts: list[str] | None = None) -> list[dict]:
        rng = np.random.default_rng([seed, *label.encode("utf-8", "replace")])
        words = (
            "the",
            "a",
            "customer",
            "asked",
            "us",
            "to",
            "note",
            "about",
            "summer",
            "rain",
            "thanks",
            "boat",
        )
        rows = []
        for prompt in range(self.prompts):
            found = " ".join(rng.choice(words, size=rng.integers(8, 40)))
            if texts:
                found = texts[(prompt + len(label)) % len(texts)]
            rows.append(
                {
                    "prompt_id": f"p{prompt:04d}",
                    "sample": 0,
                    "text": found,
                    "ids": [1, 2, 3],
                    "tokens": len(found.split()) + 12,
                    "finished": bool(prompt % 9),
                }
            )
        return rows

    def measured(self, value: float | None, half: float, *, missing: str = "") -> Measured:
        if value is None:
            return Measured(missing=missing)
        wide = half * 2.3
        over_seeds = Estimate(value=value, ci95=(value - wide, value + wide), n=len(self.seeds))
        return Measured(
            value=value,
            ci95=(value - half, value + half),
            n=self.prompts,
            method=over_seeds if len(self.seeds) >= 3 else None,
        )

    def metrics(self, label: str) -> dict[str, Measured]:
        _, _, reward, kl, length = self.labels[label]
        if reward is None:
            return {}
        no_logprobs = "rain is a decoder: it has no log-probabilities"
        found = {
            "reward": self.measured(reward, 0.021),
            **{part: self.measured(min(1, reward + shift), 0.034) for part, shift in PARTS.items()},
            "kl.base": self.measured(kl, 0.08 * (kl or 0), missing=no_logprobs),
            "kl.start": self.measured(kl and kl * 0.7, 0.1, missing=no_logprobs),
            "length.tokens": self.measured(length, 0.7),
        }
        for place, (metric, (_, half)) in enumerate(MORE.items()):
            value = 0.05 * place + 0.3 * (reward - 0.412)
            found[metric] = self.measured(value, half)
        win_rate = None if label == "base" else 0.5 + (reward - 0.412) * 1.1
        found["win_rate"] = self.measured(win_rate, 0.041, missing="the others are compared with base")
        if label == "orpo":  # one of its seeds diverges: too few are left for the method
            found = {name: one.model_copy(update={"method": None}) for name, one in found.items()}
        return found

    def results(self) -> Results:
        labels, cells = [], []
        done = [label for label, row in self.labels.items() if row[2] is not None]
        for place, (label, (method, start, reward, *_)) in enumerate(self.labels.items()):
            failed = reward is None
            cost = Cost(
                seconds=0.0 if not method else 31.4 * place,
                tokens=0 if not method else 412_000 + 9000 * place,
                train_tokens=0 if not method else 400_000 + 9000 * place,
                generated_tokens=0,
                forward_passes=0 if not method else 128,
                comparisons=0 if method in (None, "sft") else 819,
                judge_calls=0,
                peak_memory_bytes=1_400_000_000,
                answer_tokens=47.1,
                answer_seconds=0.011 * (30 if method == "rain" else 1),
                answer_forwards=19.0 * (40 if method == "rain" else 1),
            )
            chain = cost.model_copy(update={"seconds": cost.seconds * 1.9, "tokens": 911_000})
            labels.append(
                LabelResult(
                    label=label,
                    method=method,
                    distribution=method and f"alignbench-{method}",
                    version=method and "0.1.0",
                    start=start,
                    departures=(Departure("training.batch", "16", "32"),) if label == "dpo-hot" else (),
                    seeds=self.seeds,
                    metrics=self.metrics(label),
                    cost=Costs(own=cost, chain=chain),
                )
            )
            for seed in self.seeds:
                here = f"cells/{self.folder(label)}/seed-{seed}"
                lost = failed or (label == "orpo" and seed == 2)
                cells.append(
                    CellResult(
                        label=label,
                        seed=seed,
                        status="failed" if failed else "diverged" if lost else "done",
                        reason="out of memory in the critic's forward pass"
                        if failed
                        else "loss is nan at step 41"
                        if lost
                        else "",
                        metrics={} if lost else self.metrics(label),
                        judges=({"name": "reward-model", "quality": {"accuracy": 0.71, "pairs": 102}},)
                        if label == "rlhf"
                        else (),
                        warnings=("length grew by 80% in 50 steps",) if label == "dpo" and seed == 1 else (),
                        cost=cost,
                        samples=None if lost else f"{here}/samples.parquet",
                        log=f"{here}/train.jsonl" if method not in (None, "rain") else None,
                    )
                )
        comparisons = []
        for a, b in itertools.combinations(done, 2):
            gap = self.labels[a][2] - self.labels[b][2]
            significant = abs(gap) > 0.03
            comparisons.append(
                Comparison(
                    a=a,
                    b=b,
                    metric="reward",
                    judge="gold",
                    difference=gap,
                    ci95=(gap - 0.028, gap + 0.028),
                    p_value=0.0004 if significant else 0.41,
                    p_holm=0.006 if significant else 1.0,
                    verdict=("better" if gap > 0 else "worse") if significant else "not told apart",
                    smallest_detectable=0.04,
                )
            )
            if len(self.seeds) >= 3 and "orpo" not in (a, b):
                wide = (gap - 0.09, gap + 0.09)
                beyond = abs(gap) > 0.09
                comparisons.append(
                    Comparison(
                        a=a,
                        b=b,
                        metric="reward",
                        judge="gold",
                        estimand="method",
                        difference=gap,
                        ci95=wide,
                        p_value=0.01 if beyond else 0.4,
                        p_holm=0.04 if beyond else 1.0,
                        verdict=("better" if gap > 0 else "worse") if beyond else "not told apart",
                        smallest_detectable=0.12,
                    )
                )
            comparisons.append(
                Comparison(
                    a=a,
                    b=b,
                    metric="win_rate",
                    judge="gold",
                    difference=gap * 1.1,
                    ci95=(gap * 1.1 - 0.04, gap * 1.1 + 0.04),
                    p_value=0.001 if significant else 0.5,
                    p_holm=0.01 if significant else 1.0,
                    verdict=("better" if gap > 0 else "worse") if significant else "not told apart",
                )
            )
        return Results(
            run=self.name,
            command="alignbench run recipes/quickstart.yaml --out runs/quickstart",
            recipe={
                "model": {"id": "sandbox", "quantization": "nf4", "compute": "bfloat16"},
                "methods": {
                    name: {"method": row[0], "start": row[1]} for name, row in self.labels.items() if row[0]
                },
                "seeds": list(self.seeds),
            },
            environment={
                "alignbench": "0.1.0",
                "torch": "2.13.0+cpu",
                "python": "3.11.7",
                "device": "cpu, 2 cores",
            },
            fairness={
                "base": "sandbox@1f3c",
                "quantization": "nf4, double",
                "adapter": {"rank": 16, "alpha": 32, "targets": "all-linear"},
                "batch": 16,
                "budget": "1 epoch",
                "sampling": {"temperature": 1.0, "max_new_tokens": 32},
                "evaluation prompts": self.prompts,
            },
            data=DataCounts(
                kept={"train": 819, "validation": 102, "test": 103},
                dropped={"longer than 96 tokens": 12, "duplicate": 3},
                fingerprints={"train": "b5bb9d80", "test": "7d865e95"},
            ),
            judges=({"name": "gold", "kind": "gold reward of the sandbox", "accuracy": 1.0},),
            metrics={
                "reward": MetricInfo(
                    higher_is_better=True, judge="gold", description="Gold reward of an answer."
                ),
                **{part: MetricInfo(higher_is_better=True, judge="gold") for part in PARTS},
                **{
                    metric: MetricInfo(unit="share", higher_is_better=better)
                    for metric, (better, _) in MORE.items()
                },
                "win_rate": MetricInfo(
                    higher_is_better=True, judge="gold", description="Wins over base, ties half."
                ),
                "kl.base": MetricInfo(unit="nats", description="Sampled, per response."),
                "kl.start": MetricInfo(unit="nats"),
                "length.tokens": MetricInfo(unit="tokens"),
            },
            labels=labels,
            cells=cells,
            comparisons=comparisons,
            cost=Cost(seconds=512.0, tokens=4_000_000),
        )

    def write(self, folder: Path, *, texts: list[str] | None = None, prompt: str = "") -> Path:
        """Write the run's folder as the engine leaves it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        (folder / "evaluation").mkdir(parents=True)
        results = self.results()
        with (folder / "evaluation/prompts.jsonl").open("w", encoding="utf-8") as out:
            for number in range(self.prompts):
                asked = prompt or f"Please write a short note about topic {number}."
                row = {
                    "id": f"p{number:04d}",
                    "prompt": [{"role": "user", "content": asked}],
                    "topic": "notes",
                }
                out.write(json.dumps(row) + "\n")
        for cell in results.cells:
            here = folder / f"cells/{self.folder(cell.label)}/seed-{cell.seed}"
            here.mkdir(parents=True)
            if cell.samples:
                pq.write_table(
                    pa.Table.from_pylist(self.answers(cell.label, cell.seed, texts)), folder / cell.samples
                )
            if cell.log:
                rng = np.random.default_rng(cell.seed)
                lines = [
                    {
                        "step": step,
                        "loss": 0.7 * math.exp(-step / 40) + 0.02 * rng.normal(),
                        "accuracy": 1 - 0.5 * math.exp(-step / 30),
                        "grad_norm": 1 + abs(rng.normal()),
                    }
                    for step in range(0, 100, 2)
                ]
                (folder / cell.log).write_text("".join(json.dumps(line) + "\n" for line in lines))
        rng = np.random.default_rng(0)
        judged = [
            {
                "judge": "gold",
                "label": cell.label,
                "seed": cell.seed,
                "prompt_id": f"p{number:04d}",
                "sample": 0,
                "score": float(np.clip(rng.normal(self.labels[cell.label][2], 0.25), 0, 1)),
            }
            for cell in results.cells
            if cell.samples
            for number in range(self.prompts)
        ]
        pq.write_table(pa.Table.from_pylist(judged), folder / "evaluation/scores.parquet")
        score = {(one["label"], one["seed"], one["prompt_id"]): one["score"] for one in judged}
        pairs = [
            {
                "judge": "gold",
                "a": a,
                "b": b,
                "seed": seed,
                "prompt_id": key,
                "sample": 0,
                "preference": 0.5 + 0.5 * float(np.sign(score[a, seed, key] - score[b, seed, key])),
            }
            for a, b in itertools.combinations(self.labels, 2)
            for _, seed, key in [at for at in score if at[0] == a]
            if (b, seed, key) in score
        ]
        pq.write_table(pa.Table.from_pylist(pairs), folder / "evaluation/preferences.parquet")
        pictures = self.figures(texts)
        (folder / "evaluation/figures.json").write_text(json.dumps(pictures), encoding="utf-8")
        record.write(results, folder)
        return folder

    def figures(self, texts: list[str] | None = None) -> list[dict]:
        """What metrics show in addition to their numbers, as the evaluation writes it."""
        labels = [label for label, row in self.labels.items() if row[2] is not None]
        rng = np.random.default_rng(1)
        words = [*(texts or []), "summer", "boat", "rain"][:6]
        edges = np.linspace(0, 6, 13).tolist()
        shown = {
            "histogram": {label: np.full(12, 1 / 12).tolist() for label in labels},
            "words": {label: {word: 0.3 / (1 + n) for n, word in enumerate(words)} for label in labels},
            "map": {label: rng.uniform(-1, 1, (20, 2)).round(3).tolist() for label in labels},
        }
        found = texts[0] if texts else "Name a customer."
        return [
            {
                "kind": kind,
                "title": found,
                "description": found,
                "data": data,
                "edges": edges if kind == "histogram" else [],
            }
            for kind, data in shown.items()
        ]


@pytest.fixture(scope="session")
def example_run() -> ExampleRun:
    return ExampleRun()


@pytest.fixture(scope="session")
def results(example_run: ExampleRun) -> Results:
    return example_run.results()


@pytest.fixture(scope="session")
def run_folder(example_run: ExampleRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run.write(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="session")
def make_run() -> type[ExampleRun]:
    return ExampleRun
