"""What judging all pairs of labels and measuring them costs, on a finished run of the quickstart.

    alignbench run recipes/quickstart.yaml --out runs/quickstart
    python benchmarks/evaluation.py runs/quickstart

`tokens`: what the base reads as the judge `self` of every two labels in both orders, against the tokens of
the same questions each in a prompt of its own; `unique` counts a question that two pairs of labels share once
there too. `seconds`: the whole evaluation process on that run, with the recipe's metrics, and with all that
need no further package and no file; on a busy machine the processor's seconds are more reliable than the wall's. The
last line is JSON; `proofs/evaluation.json`, or what `--to` names, holds it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from alignbench import results, store
from alignbench.api.config import Named
from alignbench.api.launcher import Task
from alignbench.commands.open_run import recipe_of
from alignbench.data.tokens import encode, render
from alignbench.engine.environment import origin
from alignbench.judges.language_model import Self
from alignbench.judges.wording import asked, filled
from alignbench.models import load_base
from alignbench.recipe import schema
from alignbench.recipe.graph import complete
from alignbench.recipe.resolve import resolve
from alignbench.rows import Prompt
from alignbench.sandbox import FINGERPRINT
from alignbench.worker.finished import samples
from alignbench.worker.tasks import evaluate

PLAIN = ["reward", "win_rate", "length_controlled", "bradley_terry", "kl", "preference", "length", "refusal",
         "attack", "hallucination", "capability", "perplexity", "entropy", "words"]  # fmt: skip
"""Metrics that need no extra of the installation."""
LIMIT_TOKENS, LIMIT_SECONDS = 0.45, 30.0


class Models:
    """What the judge reads with."""

    def __init__(self):
        self.base = self.start = load_base(schema.Model(id="sandbox")).policy()
        self.root, self.store = Path(), None


def tokens(run: Path) -> dict[str, Any]:
    """Count what the judge reads in one go, and what it would read in separate prompts."""
    prompts = {}
    for line in (run / "evaluation/prompts.jsonl").read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        prompts[fields["id"]] = Prompt(id=fields["id"], prompt=tuple(fields["prompt"]))
    seed = min(int(one.name.partition("-")[2]) for one in (run / "cells/base").glob("seed-*"))
    folders = [one.parent for one in sorted(run.glob(f"cells/*/seed-{seed}/{store.COMMIT}"))]
    ranked = {one.label: one.sampling.temperature for one in results.read(run).labels if one.sampling}
    answers = {one.parent.name: samples.read(one)[ranked[one.parent.name]] for one in folders}
    pairs = [
        (prompts[one.prompt_id], one.text, other.text)
        for a, b in combinations(answers, 2)
        for one, other in zip(answers[a], answers[b], strict=True)
    ]
    models, spent = Models(), {}
    judge = Self(Self.Config(wording="sandbox", think_tokens=256, min_mass=0.5))
    judge.open(models)  # pyright: ignore[reportArgumentType]
    judge.record_cost = lambda **fields: spent.update(fields)
    began = time.perf_counter()
    judge.compare(*(list(column) for column in zip(*pairs, strict=True)))
    seconds = time.perf_counter() - began
    tokenizer = models.base.tokenizer
    texts = [
        filled(judge.words.compare, asked(prompt.prompt, inline=True), a=first, b=second, principle="")
        for prompt, a, b in pairs
        for first, second in ((a, b), (b, a))
    ]

    def length(texts: list[str]) -> int:
        opened = [render(tokenizer, ({"role": "user", "content": text},), answer=True) for text in texts]
        return sum(map(len, encode(tokenizer, opened)))

    apart, unique = length(texts), length(list(dict.fromkeys(texts)))
    return {
        "labels": len(answers),
        "pairs": len(pairs),
        "read": spent["judge_tokens"],
        "separate": apart,
        "share": round(spent["judge_tokens"] / apart, 3),
        "share_unique": round(spent["judge_tokens"] / unique, 3),
        "judge_seconds": round(seconds, 2),
    }


def seconds(run: Path, metrics: list[str] | None) -> dict[str, float]:
    """Evaluate a run's samples once more, next to it, and return the wall and the processor time it took."""
    wanted = recipe_of(run)
    if metrics is not None:
        wanted = wanted.model_copy(
            update={
                "evaluation": wanted.evaluation.model_copy(
                    update={"metrics": [Named(name=name) for name in metrics]}
                )
            }
        )
    wanted = complete(wanted)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("evaluation", "report.html"))
        cells = [
            [one.parent.parent.name, int(one.parent.name.partition("-")[2])]
            for one in sorted(copy.glob(f"cells/*/seed-*/{store.COMMIT}"))
        ]
        task = Task(
            "evaluate", copy, origin(run), resolve(wanted).model_dump_json(), Path(folder) / "home",
            copy / "evaluation.log", torch.get_num_threads(), {"cells": cells, "key": "benchmark"},
        )  # fmt: skip
        wall, cpu = time.perf_counter(), time.process_time()
        evaluate.main(task, lambda event: None)
        return {
            "wall": round(time.perf_counter() - wall, 2),
            "processor": round(time.process_time() - cpu, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "proofs/evaluation.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    counted = tokens(given.run)
    print(json.dumps(counted), flush=True)
    took = {"recipe": seconds(given.run, None)}
    print(json.dumps(took), flush=True)
    took["all without extras"] = seconds(given.run, PLAIN)
    record = {
        "sandbox": FINGERPRINT,
        "threads": given.threads,
        "tokens": counted,
        "limit_share": LIMIT_TOKENS,
        "seconds": took,
        "limit_seconds": LIMIT_SECONDS,
        "holds": {
            "share": counted["share"] <= LIMIT_TOKENS,
            "share_unique": counted["share_unique"] <= LIMIT_TOKENS,
            "wall": took["recipe"]["wall"] <= LIMIT_SECONDS,
            "processor": took["recipe"]["processor"] <= LIMIT_SECONDS,
        },
    }
    given.to.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
