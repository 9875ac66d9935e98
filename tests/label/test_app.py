"""The page's addresses: who may ask, what they are given, and what an annotation may hold."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignbench import layout
from alignbench.label import thresholds
from alignbench.label.design import Design
from alignbench.label.journal import opened, read

starlette = pytest.importorskip("starlette.testclient", reason="starlette is not installed")

from alignbench.label.app import MAX_BODY, create_app, token  # noqa: E402
from alignbench.report.text import visible  # noqa: E402

SECRET = "a secret of the test"


class Page:
    """Two raters and a client that asks as a browser does."""

    def __init__(self, folder: Path, design: Design, journal):
        self.folder = folder
        app = create_app(
            design, journal, ["anna", "ben"], SECRET, hosts=("127.0.0.1", "localhost"), show=visible
        )
        self.client = starlette.TestClient(app, base_url="http://127.0.0.1:8000")
        self.links = {name: f"/l/{token(SECRET, f'rater/{name}')}/" for name in ("anna", "ben")}
        self.overview = f"/o/{token(SECRET, 'overview')}/"

    def next(self, rater: str = "anna") -> dict:
        return self.client.get(self.links[rater] + "next").json()["item"]

    def save(self, item: dict, rater: str = "anna", headers=None, /, **changed):
        ranks = list(range(1, len(item["answers"]) + 1))
        annotation = {"ticket": item["ticket"], "item": item["id"], "round": item["round"], "ranks": ranks}
        return self.client.post(
            self.links[rater] + "annotation", json={**annotation, **changed}, headers=headers
        )


@pytest.fixture
def page(make_items, tmp_path: Path) -> Iterator[Page]:
    design = Design(tuple(make_items(4)), ask=("score", "flags", "note"), seed=3)
    with opened(tmp_path) as journal:
        yield Page(tmp_path, design, journal)


def test_the_ranks_are_kept_by_answer_and_not_by_place_on_the_page(page: Page):
    item = page.next()
    assert page.save(item).status_code == 200
    (annotation,) = read(page.folder)
    best = annotation.shown[0]
    assert annotation.ranks[best] == 1
    assert item["answers"][0].endswith(("base", "sft", "dpo", "orpo", "rain")[best])


def test_the_page_is_given_no_label_and_nothing_about_checks_or_repeats(page: Page):
    item = page.next()
    assert sorted(item) == ["answers", "id", "prompt", "round", "ticket"]


def test_scores_flags_and_a_note_are_kept_with_their_answers(page: Page):
    item = page.next()
    flags = [["harmful"], [], [], [], []]
    page.save(item, scores=[7, 1, 1, 1, 2], flags=flags, note="Dûr ‏ربما")
    (annotation,) = read(page.folder)
    first = annotation.shown[0]
    assert annotation.scores[first] == 7
    assert annotation.flags[first] == ("harmful",)
    assert annotation.note == "Dûr ‏ربما"


def test_what_was_sent_twice_is_written_once(page: Page):
    item = page.next()
    assert [page.save(item).status_code for _ in range(3)] == [200, 200, 200]
    assert len((page.folder / layout.JOURNAL).read_text().splitlines()) == 1


def test_a_second_tab_cannot_overwrite_what_the_first_has_said(page: Page):
    first, second = page.next(), page.next()
    assert first["id"] == second["id"]
    assert page.save(first).status_code == 200
    answer = page.save(second, ranks=[5, 4, 3, 2, 1])
    assert answer.status_code == 409
    assert "another tab" in answer.json()["error"]
    assert len(read(page.folder)) == 1


def test_two_raters_do_not_mix(page: Page):
    page.save(page.next("anna"), "anna")
    page.save(page.next("ben"), "ben", ranks=[5, 4, 3, 2, 1])
    assert sorted(
        (annotation.rater, annotation.ranks[annotation.shown[0]]) for annotation in read(page.folder)
    ) == [
        ("anna", 1),
        ("ben", 5),
    ]


def test_the_previous_item_is_opened_as_it_was_ranked_and_can_be_changed(page: Page):
    item = page.next()
    page.save(item, ranks=[2, 1, 3, 3, 3], note="first")
    again = page.client.get(page.links["anna"] + "before").json()
    assert again["item"]["answers"] == item["answers"]
    assert again["given"]["ranks"] == [2, 1, 3, 3, 3]
    assert again["given"]["note"] == "first"
    assert page.save(again["item"], ranks=[1, 2, 3, 3, 3], replace=True).status_code == 200
    (annotation,) = read(page.folder)
    assert annotation.ranks[annotation.shown[0]] == 1


@pytest.mark.parametrize("path", ["", "next", "before"])
def test_without_the_secret_there_is_nothing(page: Page, path: str):
    assert page.client.get(f"/l/{'0' * 32}/{path}").status_code == 404
    assert page.client.post(f"/l/{'0' * 32}/annotation", json={}).status_code == 404
    assert page.client.get(page.overview.replace("/o/", "/l/")).status_code == 404
    assert page.client.get(page.links["anna"].replace("/l/", "/o/")).status_code == 404


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}]
)
def test_another_site_cannot_rank(page: Page, headers: dict):
    assert page.save(page.next(), "anna", headers).status_code == 403
    assert read(page.folder) == []


def test_a_name_that_was_made_to_lead_here_is_refused(page: Page):
    assert page.client.get(page.links["anna"], headers={"host": "evil.example:8000"}).status_code == 421
    assert page.client.get(page.links["anna"], headers={"host": "localhost:8000"}).status_code == 200


def test_a_form_of_another_site_has_the_wrong_type(page: Page):
    answer = page.client.post(page.links["anna"] + "annotation", data={"ranks": "1"})
    assert answer.status_code == 415


def test_a_body_that_is_too_large_is_not_read_to_its_end(page: Page):
    item = page.next()
    assert page.save(item, note="x" * MAX_BODY).status_code == 413
    assert read(page.folder) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"ranks": [1, 2]},
        {"ranks": [1, 2, 3, 4, 9]},
        {"ranks": ["1", 2, 3, 4, None]},
        {"ranks": {"0": 1}},
        {"item": "unknown"},
        {"round": 7},
        {"ticket": "short"},
        {"ticket": ["a"]},
        {"scores": [8, 1, 1, 1, 1]},
        {"flags": [["<b>"], [], [], [], []]},
        {"note": "x" * 5000},
        {"seconds": -1},
        {"seconds": 1e300},
    ],
)
def test_a_annotation_that_is_not_whole_is_refused_with_a_reason(page: Page, changed: dict):
    answer = page.save(page.next(), **changed)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert read(page.folder) == []


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b"[" * 60000])
def test_what_is_not_json_is_refused(page: Page, body: bytes):
    headers = {"content-type": "application/json"}
    assert (
        page.client.post(page.links["anna"] + "annotation", content=body, headers=headers).status_code == 400
    )


def test_every_answer_forbids_scripts_of_others_frames_and_sniffing(page: Page):
    for path in (
        page.links["anna"],
        "/static/label.js",
        "/nothing",
        page.overview,
        page.links["anna"] + "next",
    ):
        headers = page.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_the_page_holds_no_inline_script_or_style(page: Page):
    for path in (page.links["anna"], page.overview):
        html = page.client.get(path).text
        assert "<script>" not in html
        assert "<style" not in html
        assert " on" not in html.replace(" on ", "  ").split("<body")[1].split("<main")[0]
        assert "style=" not in html


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/..%2fapp.py", "/static/journal.py"])
def test_no_other_file_is_served(page: Page, path: str):
    assert page.client.get(path).status_code == 404


def test_hidden_characters_of_an_answer_are_shown(make_items, tmp_path: Path, hostile):
    from alignbench.label.design import item

    design = Design((item(({"role": "user", "content": "\u202e?"},), list(hostile)),))
    with opened(tmp_path) as journal:
        sent = Page(tmp_path, design, journal).next()
    texts = json.dumps(sent, ensure_ascii=False)
    assert "\u202e" not in texts
    assert "\x1b" not in texts
    assert "مرحبا بالعالم" in texts


def test_the_overview_counts_each_rater(page: Page):
    page.save(page.next("anna"), "anna")
    page.save(page.next("ben"), "ben")
    numbers = page.client.get(page.overview + "numbers").json()
    assert {name: one["done"] for name, one in numbers["raters"].items()} == {"anna": 1, "ben": 1}


def test_the_overview_names_raters_below_a_bar(page: Page):
    page.save(page.next("anna"), "anna")
    item = page.next("ben")
    page.save(item, "ben", ranks=[5, 4, 3, 2, 1])
    thresholds.write(thresholds.Thresholds(agreement=1.0), page.folder)
    numbers = page.client.get(page.overview + "numbers").json()
    assert set(numbers["left_out"]) == {"anna", "ben"}
    thresholds.write(thresholds.Thresholds(), page.folder)
    assert page.client.get(page.overview + "numbers").json()["left_out"] == {}


def test_the_link_of_a_page_that_is_served_to_a_network_can_be_opened_from_it():
    from alignbench.label.serve import _bind, _reachable

    with _bind("0.0.0.0", 0) as everywhere, _bind("127.0.0.1", 0) as here:
        assert _reachable(here) == "127.0.0.1"
        assert _reachable(everywhere) not in ("0.0.0.0", "")
        port = everywhere.getsockname()[1]
        everywhere.listen()
        with socket.create_connection((_reachable(everywhere), port), timeout=5):
            pass
