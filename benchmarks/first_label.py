"""From the README's command to the first ranked prompt: what a newcomer waits for, in a real browser.

    python benchmarks/first_label.py runs/quickstart

Types the command that the README gives after the quickstart, opens the link it prints in Chromium (playwright),
ranks the first prompt with the keys that the page shows, and stops when the page says that it is saved. Reading the
answers is a person's own time and not in it. Needs `pip install 'alignbench[label]' playwright` and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS_A_SECOND = 2.0


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path, help="a finished run of the quickstart")
    given = options.parse_args()
    (line,) = re.findall(
        r"^\$ \S*(alignbench label .*)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        run = Path(scratch) / "runs" / "quickstart"
        shutil.copytree(given.run, run, ignore=shutil.ignore_patterns("people"))
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        program = Path(sys.executable).parent / "alignbench"
        begun = time.perf_counter()
        server = subprocess.Popen(
            [str(program), *shlex.split(line)[1:], "--no-browser"],
            cwd=scratch,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            link = first_link(server)
            served = time.perf_counter()
            page = browser.new_page()
            page.goto(link)
            page.locator(".answer").first.wait_for()
            shown = time.perf_counter()
            keys = rank(page)
            page.locator("#count", has_text=re.compile("^1 of")).wait_for()
            saved = time.perf_counter()
        finally:
            server.kill()
    found: dict[str, Any] = {
        "benchmark": "first_label",
        "command": line,
        "seconds": {
            "command to link": round(served - begun, 2),
            "link to page": round(shown - served, 2),
            "page to saved": round(saved - shown, 2),
            "whole": round(saved - begun, 2),
        },
        "keys": keys,
    }
    print(json.dumps(found))
    sys.exit(found["seconds"]["whole"] > 60)


def first_link(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if link := re.search(r"http://\S+", line):
            return link.group()
    raise SystemExit("the command printed no link")


def rank(page: Page) -> int:
    """Press the number of each answer but the last, at a person's pace, then Enter; return how many keys it took."""
    count = page.locator(".answer").count()
    for number in range(1, count):
        time.sleep(1 / KEYS_A_SECOND)
        page.keyboard.press(str(number))
    page.keyboard.press("Enter")
    return count


if __name__ == "__main__":
    main()
