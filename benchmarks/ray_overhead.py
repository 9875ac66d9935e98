"""What the launcher `ray` takes more than `local`: the quickstart by both on this machine, in turn.

    python benchmarks/ray_overhead.py [--rounds 1] [--to proofs/ray_overhead.json] [--set data.limit=256 ...]

Each run has a store of its own and as many cells at a time as the other. Processor seconds are those of the command and
of all that it starts, Ray's own processes included; on a busy machine they are more reliable than the wall's. The last
line is JSON, which `--to` also writes to a file: `ratios` are Ray's mean seconds divided by the local ones, and
`rounds` has the seconds of each run; the limit is 1.1. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}

ROOT = Path(__file__).parents[1]
LIMIT = 1.1
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl: what a command leaves behind is this process's child, and its time is counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--to", type=Path, help="a file for the figures")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--set", action="append", default=[], help="fields of the recipe, as of `alignbench run`"
    )
    asked = parser.parse_args()
    if ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0):
        sys.exit("the time of all processes cannot be counted on this system")
    options = ["--jobs", str(asked.jobs), *(word for one in asked.set for word in ("--set", one))]
    spent: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    for number in range(asked.rounds):
        for launcher in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
            spent[launcher].append(_run(launcher, options))
            wall, processor = spent[launcher][-1]
            print(f"{launcher:6} {wall:7.1f} s, {processor:7.1f} processor seconds", flush=True)
    means = {name: [fmean(column) for column in zip(*found, strict=True)] for name, found in spent.items()}
    ratios = {
        kind: round(means["ray"][place] / means["local"][place], 3)
        for place, kind in enumerate(("wall", "processor"))
    }
    record = {
        "benchmark": "ray_overhead",
        "ratios": ratios,
        "limit": LIMIT,
        "seconds": means,
        "rounds": spent,
    }
    if asked.to is not None:
        asked.to.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


def _run(launcher: str, options: list[str]) -> tuple[float, float]:
    """Run the quickstart; return its wall and processor seconds."""
    command = [sys.executable, "-c", "from alignbench.cli import app; app()", "run"]
    command += [str(ROOT / "recipes/quickstart.yaml"), "--launcher", launcher, "--json", *options]
    with tempfile.TemporaryDirectory() as place:
        began, before = time.perf_counter(), _processor()
        done = subprocess.run(
            [*command, "--out", f"{place}/run"],
            env={**os.environ, "ALIGNBENCH_HOME": f"{place}/home"},
            capture_output=True,
            text=True,
        )
        wall = time.perf_counter() - began
        while True:  # what the command left behind ends by itself
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr)
    return wall, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
