"""What a large comparison takes of the command itself: seconds to plan, milliseconds to start and to measure each cell.

    python benchmarks/scale.py [--labels 50 --seeds 10]

The cells are made up and take no time. The last line is JSON: `ratios` are processor time divided by the limit, so
that above 1 is too much: 2 seconds to plan, 50 milliseconds for each cell and the task that measures it, with what
another machine has to know of both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from alignbench import Event, Finished, Launcher, LauncherConfig, Needs, Task, layout, store
from alignbench.engine.cells import cells_of, parents_of, ranks
from alignbench.engine.experiment import Experiment
from alignbench.engine.scheduler import Scheduler
from alignbench.launchers import order
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.versions import versions

PLANNED, STARTED = 2.0, 0.05
JOBS = 8


class Nothing(Launcher):
    """Cells that are done as soon as they are started; counts the processor time of all but that."""

    api = 2

    def __init__(self) -> None:
        super().__init__(LauncherConfig(jobs=JOBS))
        self.running: dict[str, Task] = {}
        self.made = self.asked = 0.0

    def __exit__(self, *_: object) -> None:
        self.running.clear()

    def capacity(self, needs: Needs) -> int:
        return JOBS

    def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
        began = time.process_time()
        order(task)
        self.asked += time.process_time() - began
        self.running[name] = task

    def wait(
        self, on_event: Callable[[str, Event], None], timeout: float | None = None
    ) -> dict[str, Finished]:
        began = time.process_time()
        name, task = next(iter(self.running.items()))
        del self.running[name]
        folder = Path(task.what["folder"])
        store.write_json(folder / layout.CELL, {"name": name, "cost": {"peak_memory_bytes": 1}})
        store.commit(folder, key=task.what["key"], producer=name)
        self.made += time.process_time() - began
        return {name: Finished()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    methods = {"sft": {"method": "sft"}} | {
        f"dpo-{n}": {"method": "dpo", "start": "sft", "beta": 0.01 * (n + 1)} for n in range(asked.labels - 1)
    }
    fields = {"model": {"id": "sandbox"}, "data": {"train": "sandbox"}, "seeds": list(range(asked.seeds))}
    began = time.process_time()
    resolved = resolve(Recipe.model_validate({**fields, "methods": methods}))
    cells = cells_of(resolved)
    ranks(parents_of(cells), JOBS)
    planned = time.process_time() - began
    with tempfile.TemporaryDirectory() as place, Nothing() as launcher:
        folder = Path(place)
        (folder / layout.DATA).mkdir()
        store.commit(folder / layout.DATA, key="rows", producer="rows")
        experiment = Experiment(resolved, folder, folder, {}, versions(), (), threads=1)
        began = time.process_time()
        Scheduler(experiment, launcher, cells, measure=True).run()
        spent = time.process_time() - began - launcher.made
    counts = {
        "cells": len(cells),
        "planned_seconds": planned,
        "milliseconds_a_cell": 1000 * spent / len(cells),
        "of_these_for_another_machine": 1000 * launcher.asked / len(cells),
    }
    ratios = {"planned": planned / PLANNED, "started": spent / len(cells) / STARTED}
    print(
        json.dumps(
            {
                "benchmark": "scale",
                "ratios": {name: round(value, 3) for name, value in ratios.items()},
                "counts": {name: round(value, 3) for name, value in counts.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
