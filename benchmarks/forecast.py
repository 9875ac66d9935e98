"""How far `alignbench plan --estimate` is from what then happens.

    python benchmarks/forecast.py recipes/quickstart.yaml [--only sft ...] [--set data.limit=64 ...]

Forecasts a recipe, then runs it from an empty store. Printed are, for each label, the seconds of a cell, the
tokens and the peak memory, forecast and measured, and the seconds of the evaluation and of the whole. Seconds in
which other programs had the core are counted on neither side; the wall's stand in `counts`, so that both can be
read on a busy machine. The last line is JSON: `ratios` are forecasts divided by what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from alignbench import layout, results
from alignbench.commands.forecast import Clock, calibrate, measuring, side_by_side
from alignbench.engine import resources
from alignbench.engine import run as engine
from alignbench.engine.cells import cells_of
from alignbench.launchers.local import Local
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", help="as `alignbench run` has it"
    )
    parser.add_argument("--only", action="append", default=[], help="as `alignbench run` has it")
    asked = parser.parse_args()
    loaded = load(asked.recipe, asked.overrides)
    forecast, clock = calibrate(loaded, resolve(loaded.recipe), asked.only), Clock()
    with tempfile.TemporaryDirectory() as place:
        os.environ["ALIGNBENCH_HOME"] = str(Path(place) / "store")
        began = time.monotonic()
        engine.run(loaded, out=Path(place) / "run", only=asked.only, watch=clock.update)
        wall = time.monotonic() - began
        found = results.read(Path(place) / "run")
    ratios: dict[str, float] = {}

    def compared(name: str, predicted: float, measured: float) -> None:
        if predicted and measured:
            ratios[name] = round(predicted / measured, 2)
            print(f"{name:24}{predicted:16,.1f}{measured:16,.1f}{ratios[name]:8.2f}", flush=True)

    for cell in found.cells:
        one, cost = forecast.labels[cell.label], cell.cost
        compared(f"{cell.label} seconds", one.seconds, clock.spent(f"{cell.label}/seed-{cell.seed}"))
        compared(f"{cell.label} tokens", one.tokens, cost.tokens or 0)
        compared(f"{cell.label} memory", one.peak_memory_bytes, cost.peak_memory_bytes or 0)
    plan = resolve(loaded.recipe)
    planned, workers = cells_of(plan, asked.only), resources.max_workers(plan, Local())
    spent = {cell: clock.spent(str(cell)) for cell in planned}
    measured = {measuring(cell): clock.spent(f"{layout.MEASUREMENTS}/{cell}") for cell in planned}
    compared("measuring seconds", forecast.measure_seconds * len(planned), sum(measured.values()))
    compared("evaluation seconds", forecast.evaluate_seconds, clock.spent(layout.EVALUATION))
    aligned = side_by_side({**spent, **measured}, workers)
    whole = clock.spent(layout.DATA) + aligned + clock.spent(layout.EVALUATION)
    compared("whole seconds", forecast.seconds(planned, workers), whole)
    counts = {
        "cells": len(planned),
        "not_measured": sum(not one.seconds for one in forecast.labels.values()),
        "forecast_wall_seconds": round(forecast.took_seconds, 1),
        "run_wall_seconds": round(wall, 1),
    }
    print(json.dumps({"benchmark": "forecast", "ratios": ratios, "counts": counts}))


if __name__ == "__main__":
    main()
