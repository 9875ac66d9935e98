"""How far `alignbench plan --estimate` is from what then happens.

    python benchmarks/forecast.py recipes/quickstart.yaml

Forecasts a recipe, then runs it from an empty store. Printed are, for each label, the seconds of a cell, the
tokens and the peak memory, forecast and measured, and the seconds of the evaluation and of the whole. The last
line is JSON: `ratios` are forecasts divided by what was measured. Anything else that keeps the machine busy
between the two moves the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from alignbench import engine, results
from alignbench.engine.calibration import calibrate
from alignbench.engine.plan import cells
from alignbench.reading import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    loaded = load(parser.parse_args().recipe, [])
    forecast = calibrate(loaded)
    begun: dict[str, float] = {}
    spent: dict[str, float] = {}

    def hear(news: engine.News) -> None:
        begun.setdefault(news.task, time.monotonic())
        if news.ended is not None:
            spent[news.task] = time.monotonic() - begun[news.task]

    with tempfile.TemporaryDirectory() as place:
        os.environ["ALIGNBENCH_HOME"] = str(Path(place) / "store")
        began = time.monotonic()
        engine.run(loaded, out=Path(place) / "run", watch=hear)
        whole = time.monotonic() - began
        found = results.read(Path(place) / "run")
    ratios: dict[str, float] = {}
    counts: dict[str, float] = {"forecast_seconds": round(forecast.took_seconds, 1)}

    def told(name: str, said: float, measured: float) -> None:
        if said and measured:
            ratios[name] = round(said / measured, 2)
            print(f"{name:24}{said:16,.1f}{measured:16,.1f}{ratios[name]:8.2f}", flush=True)

    for cell in found.cells:
        one, cost = forecast.labels[cell.label], cell.cost
        told(f"{cell.label} seconds", one.seconds, spent[f"{cell.label}/seed-{cell.seed}"])
        told(f"{cell.label} tokens", one.tokens, (cost.train_tokens or 0) + (cost.generated_tokens or 0))
        told(f"{cell.label} memory", one.peak_memory_bytes, cost.peak_memory_bytes or 0)
    told("evaluation seconds", forecast.evaluate_seconds, spent[engine.EVALUATION])
    planned = cells(loaded.recipe)
    told("whole seconds", forecast.seconds(planned, engine.lanes(loaded.recipe)), whole)
    counts["cells"] = len(planned)
    print(json.dumps({"benchmark": "forecast", "ratios": ratios, "counts": counts}))


if __name__ == "__main__":
    main()
