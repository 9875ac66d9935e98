"""GRPO, RLOO and KTO against TRL's own trainers on the same base, rows, budget and ledger: counts and CPU time.

    python benchmarks/groups_vs_trl.py [--pairs 3] [--only grpo]

Each arm is a label of the sandbox, ours and TRL's by `alignbench-trl`, aligned in one process on one thread with the
same prompts in the same order, the same batch, answers to a prompt and greatest length. TRL's layers are ours: it gains
by their speed. Arms alternate A B B A; a time is the CPU time of a run of `LONG` steps minus that of one of `SHORT`, so
that what setting up a trainer costs is in neither. Counts are those of the ledger, exact, by the step. The answers that
two arms draw are not the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import torch

from alignbench import layout
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.testing.sessions import open_session
from alignbench.worker.run.ledger import Cost
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell as cells

SHORT, LONG, BATCH, ANSWERS = 1, 7, 8, 8
DRAWN = {"rewards": ["length"], "answers": ANSWERS, "max_new_tokens": 24, "learning_rate": 1e-5}
METHODS: dict[str, dict[str, Any]] = {"grpo": DRAWN, "rloo": DRAWN, "kto": {"learning_rate": 1e-5}}
ASKED = {"grpo": 2.0, "kto": 1.5}
"""Samples per CPU second, ours in TRL's, that were asked for."""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pairs", type=int, default=3, help="A B B A blocks for each method")
    options.add_argument("--only", choices=tuple(METHODS), help="one method")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    ratios, counts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(Path(folder), recipe("kto", METHODS["kto"], LONG))
        for method in [given.only] if given.only else METHODS:
            found: list[float] = []
            for name in ("", "trl-"):  # what is loaded once is loaded now
                run(session, name + method, SHORT)
            for _ in range(given.pairs):
                a1, b1, b2, a2 = (of(session, name + method) for name in ("", "trl-", "trl-", ""))
                found.append((b1[0] + b2[0]) / (a1[0] + a2[0]))
                counts[method], counts[f"trl-{method}"] = a1[1], b1[1]
            ratios[method] = round(statistics.median(found), 2)
            each = ", ".join(f"{one:.2f}" for one in found)
            print(f"{method}: {ratios[method]} times the samples per CPU second ({each})")
            for name in (method, f"trl-{method}"):
                print(
                    f"  {name}: {', '.join(f'{what} {value:,.4g}' for what, value in counts[name].items())}"
                )
    print(json.dumps({"benchmark": "groups_vs_trl", "ratios": ratios, "counts": counts}))
    sys.exit(any(ratios[name] < least for name, least in ASKED.items() if name in ratios))


def recipe(method: str, fields: dict[str, Any], steps: int) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": 128, "max_length": 128},
            "training": {"batch": BATCH, "threads": 1},
            "budget": {"steps": steps},
            "methods": {"tried": {"method": method, **fields}},
            "evaluation": {"prompts": 4},
        }
    )


def of(session: Session, method: str) -> tuple[float, dict[str, float]]:
    """Return CPU seconds and the ledger's counts of the steps from `SHORT` to `LONG`."""
    (begun, first), (ended, last) = (run(session, method, steps) for steps in (SHORT, LONG))
    steps = LONG - SHORT
    names = ("forward_passes", "train_tokens", "scored_tokens", "generated_tokens", "flops")
    each = {name: (getattr(last, name) - getattr(first, name)) / steps for name in names}
    return ended - begun, {**each, "cpu_seconds": (ended - begun) / steps}


def run(session: Session, method: str, steps: int) -> tuple[float, Cost]:
    """Align once, nothing of it from the store, and return its CPU time and its cost."""
    folder = session.run / layout.CELLS / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(session.store.root, ignore_errors=True)
    folder.mkdir(parents=True)
    session.plan = resolve(recipe(method, METHODS[method.removeprefix("trl-")], steps))
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        context = cells.align(session, "tried", 0, folder)[0]
    return time.process_time() - began, context.ledger.cost


if __name__ == "__main__":
    main()
