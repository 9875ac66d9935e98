"""What a report takes: seconds to make, bytes, seconds to open; of 8 labels x 3 seeds x 500 prompts by default.

    python benchmarks/report.py [--labels 50 --seeds 10 --prompts 200]

The run is made up, in the shape that the engine leaves. It is opened where playwright and a Chromium are
installed. The last line is JSON: `ratios` are what was measured divided by the limit, so that above 1 is too
much. On a busy machine the processor's seconds are more reliable than the wall's; both are counted.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alignbench.report import write_html

SECONDS, BYTES, OPENS = 20.0, 8 * 2**20, 3.0
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("labels", 8), ("seeds", 3), ("prompts", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    labels = {"base": (None, None, 0.4, 0.0, 20.0)} | {
        f"label-{n}": ("dpo", "base", 0.4 + 0.4 * n / asked.labels, 2.0 + n, 18.0 + n)
        for n in range(asked.labels - 1)
    }
    with tempfile.TemporaryDirectory() as place:
        folder = _world()(labels=labels, prompts=asked.prompts, seeds=tuple(range(asked.seeds))).write(
            Path(place) / "run"
        )
        wall, processor = time.perf_counter(), time.process_time()
        file = write_html(folder)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        size, opened = file.stat().st_size, _opened(file)
    ratios = {"made": processor / SECONDS, "size": size / BYTES}
    counts = {"made_seconds": processor, "made_wall_seconds": wall, "bytes": float(size)}
    if opened is not None:
        ratios["opened"] = opened / OPENS
        counts["opened_wall_seconds"] = opened
    print(
        json.dumps(
            {
                "benchmark": "report",
                "ratios": {name: round(value, 3) for name, value in ratios.items()},
                "counts": {name: round(value, 3) for name, value in counts.items()},
            }
        )
    )


def _world() -> Any:
    """The made-up run that the tests of the report are made from."""
    spec = importlib.util.spec_from_file_location("example_run", ROOT / "tests/report/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_run"] = module
    spec.loader.exec_module(module)
    return module.ExampleRun


def _opened(file: Path) -> float | None:
    """Return the seconds until a browser has loaded the page and shown what its first click does, at best of three.

    None without a browser.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return None
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright
    clicked = """() => new Promise(done => {
        document.querySelector("summary").click()
        requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))
    })"""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        seconds = []
        for _ in range(3):
            page = browser.new_page()
            page.goto(file.as_uri())  # until its load event
            seconds.append(page.evaluate(clicked) / 1000)
            page.close()
        browser.close()
    return min(seconds)


if __name__ == "__main__":
    main()
