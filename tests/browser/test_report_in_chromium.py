"""The report as a browser sees it: silent, still, readable on a phone, and fit for who cannot see it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignbench.report import write_html

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

AXE = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))
"""The accessibility checker: `npm install axe-core`, or a path in AXE."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def report(make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        "<script>alert(1)</script> \u202e \x1b[31m",
        "日本語の答えです。",
        "مرحبا بالعالم",
        "plain words",
    ]
    example_run = make_run(prompts=40, seeds=(0, 1, 2))
    return write_html(example_run.write(tmp_path_factory.mktemp("browser") / "run", texts=texts))


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_word_a_request_or_a_sideways_scroll(
    browser: Any, report: Path, width: int, scheme: str
):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    found, asked = [], []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    page.goto(report.as_uri())
    assert found == []
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_accessibility_checker_finds_nothing(browser: Any, report: Path, scheme: str):
    if not AXE.is_file():
        pytest.skip(f"axe-core is not at {AXE}: npm install axe-core")
    # The page's own policy would refuse the checker's script.
    context = browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(report.as_uri())
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    context.close()


def test_right_to_left_answers_are_set_from_the_right(browser: Any, report: Path):
    page = browser.new_page()
    page.goto(report.as_uri())
    ways = page.evaluate(
        "[...document.querySelectorAll('.words')].map(e => [e.textContent, getComputedStyle(e).direction])"
    )
    assert {way for text, way in ways if text.startswith("مرحبا")} == {"rtl"}
    assert {way for text, way in ways if text.startswith("plain")} == {"ltr"}
    page.close()


def test_a_page_of_eight_labels_three_seeds_and_five_hundred_prompts_is_small_and_quick(
    browser: Any, make_run: Any, tmp_path: Path
):
    labels = {"base": (None, None, 0.4, 0.0, 20.0)} | {
        f"label-{n}": ("dpo", "base", 0.4 + n / 50, 2.0 + n, 18.0 + n) for n in range(7)
    }
    folder = make_run(labels=labels, prompts=500, seeds=(0, 1, 2)).write(tmp_path / "run")
    began = time.process_time()
    file = write_html(folder)
    assert time.process_time() - began < 20
    assert file.stat().st_size < 8 * 2**20
    page = browser.new_page()
    page.goto(file.as_uri())
    spent = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    page.close()
    assert spent < 2000 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
