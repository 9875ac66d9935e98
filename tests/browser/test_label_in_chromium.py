"""The labelling page in a browser: by keyboard alone, on a phone, with a killed server, and with hostile answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignbench.judges import people
from alignbench.label import design, journal
from alignbench.label.design import Design
from alignbench.rows import Prompt
from alignbench.worker.finished import samples

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

AXE = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))
LABELS = ("base", "sft", "dpo", "orpo", "rain")
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script><svg onload=alert(1)>",
    "\u202eoverride \x1b[31m\x00 {{ 7*7 }}",
    "مرحبا بالعالم، هذا جواب",
    "日本語の答えです。" * 30,
)
SERVE = """
import json, sys
from pathlib import Path
from alignbench.label import design
from alignbench.label.serve import serve
from alignbench.report.text import visible
folder = Path(sys.argv[1])
serve(folder, design.read(folder), ["anna", "ben"], port=int(sys.argv[2]), browser=False, show=visible,
      announce=lambda links, overview: print(json.dumps([links, overview]), flush=True))
"""


class Server:
    """The page of one design on a port that stays, as `alignbench label --port` serves it."""

    def __init__(self, folder: Path, made: Design):
        self.folder = folder
        design.write(made, folder)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.start()

    def start(self) -> None:
        line = [sys.executable, "-c", SERVE, str(self.folder), str(self.port)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.links, self.overview = json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    started = []

    def start(made: Design) -> Server:
        started.append(Server(tmp_path / f"people-{len(started)}", made))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def items(count: int, texts=None) -> tuple[design.Item, ...]:
    return tuple(
        design.item(
            ({"role": "user", "content": f"Question {n}?"},),
            {label: (texts or {}).get(label, f"answer of {label} to {n}") for label in LABELS},
            prompt_id=f"p{n}",
            seed=0,
        )
        for n in range(count)
    )


def open_page(browser: Any, link: str, **how: Any) -> tuple[Any, list[str]]:
    context = browser.new_context(**how)
    page = context.new_page()
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    page.goto(link)
    page.locator(".answer").first.wait_for()
    return page, found


def saved(page: Any, count: int, of: int) -> None:
    page.locator("#count", has_text=f"{count} of {of}").wait_for()


def rank_by_keyboard(page: Any, order: list[str], tie: bool = False) -> None:
    """Type the numbers of the answers whose label's text comes first in `order`; the last needs none."""
    texts = page.locator(".answer .words").all_inner_texts()
    places = [next(n for n, text in enumerate(texts, 1) if f"of {label} " in text) for label in order]
    for n, place in enumerate(places[:-1]):
        if tie and n == 1:
            page.keyboard.press("=")
        page.keyboard.press(str(place))
    page.keyboard.press("Enter")


@pytest.mark.slow
def test_two_raters_rank_twenty_prompts_of_five_labels_by_keyboard_and_a_killed_server_costs_nothing(
    browser: Any, serve: Any
):
    made = Design(items(20))
    server = serve(made)
    pages = {rater: open_page(browser, link)[0] for rater, link in server.links.items()}
    orders = {"anna": ["rain", "dpo", "orpo", "sft", "base"], "ben": ["dpo", "rain", "orpo", "base", "sft"]}
    for n in range(1, 21):
        for rater, page in pages.items():
            if n == 8 and rater == "ben":
                server.kill()
                rank_by_keyboard(page, orders[rater], tie=True)
                page.locator("#problem", has_text="Not saved yet").wait_for()
                server.start()  # the same command: the open page goes on by itself
            else:
                rank_by_keyboard(page, orders[rater], tie=rater == "ben")
            saved(page, n, 20)
    for page in pages.values():
        page.locator("#rest-text", has_text="All done").wait_for()
        page.context.close()
    server.kill()
    annotations = journal.read(server.folder)
    assert len(annotations) == 40
    ranks = dict(zip(LABELS, (5, 4, 2, 3, 1), strict=True)), dict(zip(LABELS, (4, 5, 1, 3, 1), strict=True))
    wanted = {"anna": tuple(ranks[0].values()), "ben": tuple(ranks[1].values())}
    assert {(one.rater, one.ranks) for one in annotations} == set(wanted.items())
    judge = people.People(people.People.Config(folder=str(server.folder)))
    judge.read_from(server.folder)
    asked = [Prompt(id=item.prompt_id, prompt=item.prompt) for item in made.items]

    def wins(a: str, b: str) -> float | None:
        texts = [[f"answer of {label} to {n}" for n in range(20)] for label in (a, b)]
        (share,) = set(judge.compare(asked, *texts))
        return share

    assert wins("rain", "dpo") == 0.75  # anna says so, ben ties them
    assert wins("sft", "base") == 0.5  # one each
    assert wins("orpo", "rain") == 0


RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 96, max_length: 128}
training: {threads: 1, batch: 8}
evaluation: {prompts: 20, sampling: {max_new_tokens: 24}, judges: [gold], metrics: [reward]}
methods:
  sft: {start: base, learning_rate: 1.0e-2}
  hot: {method: sft, start: base, learning_rate: 3.0e-2}
  dpo: {learning_rate: 1.0e-2}
  orpo: {start: base, learning_rate: 1.0e-2}
"""
PREFERS = {"anna": lambda text: (len(text), text), "ben": lambda text: text}
"""What each rater sorts answers by: the least is best."""


@pytest.mark.slow
def test_the_report_of_a_run_that_two_people_ranked_shows_what_a_hand_calculation_shows(
    browser: Any, tmp_path: Path
):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    env, run = {**os.environ, "ALIGNBENCH_HOME": str(tmp_path / "home")}, tmp_path / "run"

    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-c", "from alignbench.cli import app; app()", *map(str, arguments)]

    subprocess.run(command("run", "recipe.yaml", "--out", run, "-q"), cwd=tmp_path, env=env, check=True)
    serving = command(
        "label", run, "--rater", "anna", "--rater", "ben", "--repeats", 0, "--no-browser", "--json"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        serving += ["--port", str(free.getsockname()[1])]

    def start() -> tuple[Any, dict[str, str]]:
        process = subprocess.Popen(serving, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["links"]

    server, links = start()
    for rater, prefers in PREFERS.items():
        page = open_page(browser, links[rater])[0]
        ranked = 0
        while not page.locator("#rest-text", has_text="All done").is_visible():
            before = page.locator("#count").inner_text()
            texts = page.locator(".answer .words").all_inner_texts()
            for place in sorted(range(len(texts)), key=lambda n: prefers(texts[n]))[:-1]:
                page.keyboard.press(str(place + 1))
            if ranked == 5:
                server.kill()
                server.wait()
            page.keyboard.press("Enter")
            if ranked == 5:
                page.locator("#problem", has_text="Not saved yet").wait_for()
                server, _ = start()
            page.wait_for_function(
                "before => document.getElementById('count').innerText !== before", arg=before
            )
            ranked += 1
        page.context.close()
    server.kill()
    server.wait()
    subprocess.run(command("evaluate", run, "-q"), cwd=tmp_path, env=env, check=True)
    record = json.loads((run / "results.json").read_text())
    chosen = {one["label"]: one["sampling"]["temperature"] for one in record["labels"]}
    texts = {
        label: {one.prompt_id: one.text for one in samples.read(run / f"cells/{label}/seed-0")[temperature]}
        for label, temperature in chosen.items()
    }
    page = (run / "report.html").read_text(encoding="utf-8")
    for one in record["labels"]:
        if one["label"] == "base":
            continue
        shares = [
            0.5 if own == base else float(prefers(own) < prefers(base))
            for id, own in texts[one["label"]].items()
            for base in [texts["base"][id]]
            for prefers in PREFERS.values()
        ]
        by_hand = sum(shares) / len(shares)
        assert one["metrics"]["win_rate@people"]["value"] == pytest.approx(by_hand), one["label"]
        assert f"{by_hand:.3f}" in page


def test_undo_previous_all_equal_and_the_mouse_do_what_they_say(browser: Any, serve: Any):
    server = serve(Design(items(3)))
    page, found = open_page(browser, server.links["anna"])
    page.keyboard.press("2")
    page.keyboard.press("3")
    page.keyboard.press("u")
    assert page.locator(".answer.ranked").count() == 1
    page.keyboard.press("0")
    assert page.locator(".place").all_inner_texts() == ["tied 1st"] * 5
    page.keyboard.press("Enter")
    saved(page, 1, 3)
    for n in (4, 0, 1, 2):  # with the mouse, Enter saves after a click
        page.locator(".rank").nth(n).click()
    page.keyboard.press("Enter")
    saved(page, 2, 3)
    page.keyboard.press("b")
    page.locator(".place", has_text="5th").wait_for()
    assert page.locator(".place").all_inner_texts() == ["2nd", "3rd", "4th", "5th", "1st"]
    page.keyboard.press("u")
    page.keyboard.press("1")  # takes the first out
    page.keyboard.press("1")  # and puts it last
    page.keyboard.press("Enter")
    page.locator("#status", has_text="Saved").wait_for()
    ranks = [one.ranks for one in journal.read(server.folder)]
    assert ranks[0] == (1, 1, 1, 1, 1)
    changed = journal.read(server.folder)[1]
    assert [changed.ranks[place] for place in changed.shown] == [5, 2, 3, 4, 1]
    assert found == []
    page.context.close()


def test_a_tie_holds_for_the_last_answer_too(browser: Any, serve: Any):
    server = serve(Design(items(2)))
    page, _ = open_page(browser, server.links["anna"])
    for pressed in ("1", "2", "3", "4", "="):
        page.keyboard.press(pressed)
    assert (
        page.locator("#status").inner_text() == "Enter ties the last answer with the one before, and saves."
    )
    page.keyboard.press("Enter")
    saved(page, 1, 2)
    (one,) = journal.read(server.folder)
    assert [one.ranks[place] for place in one.shown] == [1, 2, 3, 4, 4]
    page.context.close()


def test_work_that_is_not_saved_is_left_only_on_purpose(browser: Any, serve: Any):
    server = serve(Design(items(2), ask=("note",)))
    page, _ = open_page(browser, server.links["anna"])
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    saved(page, 1, 2)
    page.get_by_label("Note").fill("not saved yet")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.locator("#status", has_text="not saved").wait_for()
    assert page.get_by_label("Note").input_value() == "not saved yet"
    page.keyboard.press("b")
    page.locator(".place", has_text="tied 1st").first.wait_for()
    page.context.close()


def test_keys_work_on_keyboards_of_other_scripts_and_a_held_key_counts_once(browser: Any, serve: Any):
    server = serve(Design(items(1)))
    page, _ = open_page(browser, server.links["anna"])
    press = (
        "([key, code, repeat]) => document.body.dispatchEvent("
        "new KeyboardEvent('keydown', { key, code, repeat, bubbles: true }))"
    )
    page.evaluate(press, ["\u0661", "Digit1", False])
    assert page.locator(".answer.ranked").count() == 1
    page.evaluate(press, ["1", "Digit1", True])
    assert page.locator(".answer.ranked").count() == 1
    page.evaluate(press, ["\u0433", "KeyU", False])
    assert page.locator(".answer.ranked").count() == 0
    page.context.close()


def test_an_item_that_stood_open_for_days_is_saved(browser: Any, serve: Any):
    server = serve(Design(items(1)))
    page, _ = open_page(browser, server.links["anna"])
    page.clock.install()
    page.reload()
    page.locator(".answer").first.wait_for()
    page.keyboard.press("0")
    page.clock.fast_forward("30:00:00")
    page.keyboard.press("Enter")
    saved(page, 1, 1)
    (one,) = journal.read(server.folder)
    assert one.seconds == 86400
    page.context.close()


def test_scores_flags_and_a_note_by_keyboard(browser: Any, serve: Any):
    server = serve(Design(items(1), ask=("score", "flags", "note")))
    page, found = open_page(browser, server.links["anna"])
    for pressed in ("1", "2", "3", "4", "5", "7", "6", "5", "4", "1"):
        page.keyboard.press(pressed)
    page.get_by_label("harmful").last.check()
    page.get_by_label("Note").fill("= 1 2 3 b p")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    saved(page, 1, 1)
    (one,) = journal.read(server.folder)
    assert [one.scores[place] for place in one.shown] == [7, 6, 5, 4, 1]
    assert [one.flags[place] for place in one.shown] == [(), (), (), (), ("harmful",)]
    assert one.note == "= 1 2 3 b p"
    assert found == []
    page.context.close()


def test_a_pause_hides_the_work_and_stops_the_clock(browser: Any, serve: Any):
    server = serve(Design(items(1)))
    page, _ = open_page(browser, server.links["anna"])
    page.keyboard.press("p")
    assert page.locator(".answer").first.is_hidden()
    page.keyboard.press("1")
    page.wait_for_timeout(1500)
    page.keyboard.press("p")
    assert page.locator(".answer.ranked").count() == 0
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    saved(page, 1, 1)
    (one,) = journal.read(server.folder)
    assert one.seconds < 1.5
    page.context.close()


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_answers_are_inert_and_nothing_scrolls_sideways(
    browser: Any, serve: Any, width: int, scheme: str
):
    server = serve(Design(items(1, dict(zip(LABELS, HOSTILE, strict=True)))))
    how = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme, "bypass_csp": True}
    page, found = open_page(browser, server.links["anna"], **how)  # the text is inert without the policy too
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(300)
    assert page.title() == "Rank answers · alignbench"
    assert page.locator("main img, main svg, main script").count() == 0
    assert found == []
    assert all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in asked)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ways = page.evaluate(
        "[...document.querySelectorAll('.answer .words')].map(e => [e.textContent, getComputedStyle(e).direction])"
    )
    assert {way for text, way in ways if text.startswith("مرحبا")} == {"rtl"}
    assert not any("\u202e" in text for text, _ in ways)
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_accessibility_checker_finds_nothing(browser: Any, serve: Any, scheme: str):
    if not AXE.is_file():
        pytest.skip(f"axe-core is not at {AXE}: npm install axe-core")
    long = ({"role": "user", "content": "A long question, with much to read before it ends. " * 60},)
    asked = tuple(replace(one, prompt=long) for one in items(2))
    server = serve(Design(asked, ask=("score", "flags", "note"), name="quickstart"))
    how = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme, "bypass_csp": True}
    page, _ = open_page(browser, server.links["anna"], **how)
    assert page.locator("#prompt").evaluate("one => one.scrollHeight > one.clientHeight")
    page.keyboard.press("1")
    for link in (None, server.overview):
        if link:
            page.goto(link)
            page.locator("#raters tr").first.wait_for(state="attached")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 10
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    page.context.close()


def test_a_screen_reader_hears_the_ranks_and_what_comes_next(browser: Any, serve: Any):
    server = serve(Design(items(2)))
    page, _ = open_page(browser, server.links["anna"])
    assert page.evaluate("document.activeElement.id") == "title"
    page.keyboard.press("3")
    assert page.get_by_role("button", name="Answer 3 1st (take it out)").count() == 1
    assert page.get_by_role("button", name="Answer 1 (rank it 2nd)").count() == 1
    assert page.locator("[role=status]").inner_text() == "Which answer is next, 2nd?"
    page.keyboard.press("=")
    assert page.locator("#tie").get_attribute("aria-pressed") == "true"
    assert page.locator("[role=status]").inner_text() == "Which answer is tied with answer 3?"
    page.context.close()
