"""What the promise that nothing is lost costs: the share of a sandbox run spent on checkpoints, hashes and fsync.

    python benchmarks/overhead.py [--labels sft,dpo,orpo] [--every 60]

Runs the quickstart's cells in one process through the engine's own `cell.main`. The outermost call of
everything that seals, verifies, hashes, syncs or keeps a checkpoint is timed, so nothing is counted twice.
`--every 0` keeps as many checkpoints as their limit of 2% of the time allows.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from quickstart_cells import made, prepared

from alignbench import store
from alignbench.models import Base
from alignbench.training.checkpoint import Checkpoints

WATCHED: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (store, "file_digest"),
    (store, "commit"),
    (store, "manifest"),
    (store, "write_bytes"),
    (Base, "checksum"),
    (Checkpoints, "save"),
    (Checkpoints, "last"),
)


class Watch:
    """Seconds in the outermost of the watched calls, and how often each was made."""

    def __init__(self):
        self.seconds, self.calls, self._depth = 0.0, Counter[str](), 0
        for owner, name in WATCHED:
            setattr(owner, name, self._watched(getattr(owner, name), name))

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            self.calls[name] += 1
            self._depth += 1
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began

        return watched


def main() -> None:
    """Run the cells, print a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", default="sft,dpo,orpo")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two checkpoints")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    watch, seconds = Watch(), {}
    with tempfile.TemporaryDirectory() as place:
        task = prepared(Path(place), every=asked.every)
        for label in asked.labels.split(","):
            before, began = watch.seconds, time.perf_counter()
            made(task, label)
            seconds[label] = (watch.seconds - before, time.perf_counter() - began)
            print(f"{label:8} {seconds[label][1]:7.2f} s, {seconds[label][0]:6.3f} s for safety", flush=True)
    spent, whole = map(sum, zip(*seconds.values(), strict=True))
    print(f"{'all':8} {whole:7.2f} s, {spent:6.3f} s for safety: {spent / whole:.2%}")
    record = {"benchmark": "overhead", "ratios": {"safety": spent / whole}, "counts": dict(watch.calls)}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
