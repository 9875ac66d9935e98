"""The page that a run leaves: every section, every missing file, and a corpus of hostile text."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import html5lib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignbench import results as record
from alignbench.errors import StorageError
from alignbench.report import artefacts, html, text, write_html
from alignbench.results import CurvePoint, DataCounts, Estimate, Point, Results, read

ACTIVE = {
    *("script", "iframe", "object", "embed", "link", "base", "form", "input", "button", "audio", "video"),
    *("img", "image", "foreignObject", "animate", "set", "template", "frame", "applet"),
}
"""Elements that run, load, send or change something."""


def parsed(page: str) -> Any:
    """Parse strictly: any error of HTML5 fails the test."""
    return html5lib.HTMLParser(strict=True).parse(page)


def tag(element: Any) -> str:
    return element.tag.rpartition("}")[2]


def elements(tree: Any) -> Iterator[Any]:
    return (element for element in tree.iter() if isinstance(element.tag, str))


def words(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


@pytest.fixture(scope="module")
def page(run_folder: Path) -> str:
    return write_html(run_folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    return parsed(page)


@pytest.fixture
def small(make_run):
    return make_run(labels=FEW, prompts=12, seeds=(0,))


def section(tree: Any, id: str) -> Any:
    return next(element for element in elements(tree) if element.get("id") == id)


def test_the_page_is_valid_and_its_ids_are_unique(tree: Any):
    ids = Counter(element.get("id") for element in elements(tree) if element.get("id"))
    assert len(ids) > 20
    assert [id for id, times in ids.items() if times > 1] == []


def test_everything_that_is_referred_to_is_there(tree: Any):
    ids = {element.get("id") for element in elements(tree)}
    for element in elements(tree):
        for name in ("aria-labelledby", "href", "{http://www.w3.org/1999/xlink}href", "clip-path"):
            reference = element.get(name)
            if reference is not None:
                found = re.fullmatch(r"(?:#|url\(#)?([\w-]+)\)?", reference)
                assert found, reference
                assert found[1] in ids, reference


def test_headings_come_in_order_and_every_section_has_one(tree: Any):
    levels = [int(tag(element)[1]) for element in elements(tree) if re.fullmatch("h[1-6]", tag(element))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    sections = [element.get("id") for element in elements(tree) if tag(element) == "section"]
    assert sections == [one.id for one in html.SECTIONS if one.id != "temperature"], "of a grid alone"


def test_the_page_is_inert(page: str, tree: Any):
    policy = next(e for e in elements(tree) if e.get("http-equiv") == "Content-Security-Policy").get(
        "content"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert not {tag(element) for element in elements(tree)} & ACTIVE
    for element in elements(tree):
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on"), name
            assert "javascript:" not in value.lower()
            assert "//" not in value or tag(element) == "html", (tag(element), name, value)
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)


def test_every_table_says_what_it_shows_and_every_heading_cell_what_it_heads(tree: Any):
    tables = [element for element in elements(tree) if tag(element) == "table"]
    assert len(tables) >= 5
    for table in tables:
        assert words(next(element for element in elements(table) if tag(element) == "caption"))
        for cell in (element for element in elements(table) if tag(element) == "th"):
            assert cell.get("scope") in ("row", "col", "colgroup")


def test_every_picture_has_a_text_alternative_or_stands_beside_its_number(tree: Any):
    pictures = [element for element in elements(tree) if tag(element) == "svg"]
    assert len(pictures) > 20
    for picture in pictures:
        if picture.get("aria-hidden") != "true":
            assert picture.get("role") == "img"
            assert len(picture.get("aria-label")) > 20
    frontier = next(element for element in elements(section(tree, "frontier")) if tag(element) == "svg")
    assert "dpo: 0.668 ±0.021 at 9.40 ±0.75" in frontier.get("aria-label")


def test_a_label_has_one_colour_throughout(tree: Any):
    colours: dict[str, set[str]] = {}
    for element in elements(tree):
        if element.get("class") == "chip":
            colours.setdefault(words(element), set()).add(element.get("style"))
    assert set(colours) == {"base", "sft", "dpo", "dpo-hot", "orpo", "rain-on-dpo", "rlhf"}
    assert all(len(seen) == 1 for seen in colours.values())
    assert len({next(iter(seen)) for seen in colours.values()}) == 7


def test_figures_take_their_colours_from_the_page(tree: Any):
    for element in elements(section(tree, "frontier")):
        assert not re.search(r"#[0-9a-f]{6}", element.get("style") or ""), element.get("style")


def test_the_page_begins_with_the_model_its_weights_and_the_precision_it_computed_in(tree: Any):
    facts = next(one for one in elements(tree) if one.get("class") == "facts")
    assert words(facts).startswith("model sandbox in nf4, computed in bfloat16 7 labels")


def test_the_verdict_comes_first_and_names_failed_labels(tree: Any):
    text = words(section(tree, "verdict"))
    assert "rain-on-dpo has the best reward, 0.702 ±0.048, for the method, over 3 seeds" in text
    assert "dpo is better than sft by 0.117 in reward" in text
    assert "failed. out of memory in the critic's forward pass" in text


def test_the_leaderboard_has_a_row_for_every_label(tree: Any):
    body = next(element for element in elements(section(tree, "leaderboard")) if tag(element) == "tbody")
    rows = [words(row) for row in body]
    assert len(rows) == 7
    assert rows[2].startswith("dpo from sft 0.668 ±0.048")
    assert rows[2].endswith("better than sft +0.117")
    assert "failed : out of memory" in rows[6]


def test_every_pair_is_shown_from_both_sides(tree: Any):
    first = next(element for element in elements(section(tree, "pairs")) if tag(element) == "tbody")
    rows = {words(row[0]): [words(cell) for cell in list(row)[1:]] for row in first}
    assert rows["base"][2] == "\N{MINUS SIGN}0.256"
    assert rows["dpo"][0] == "+0.256"


def test_who_is_missing_from_a_picture_is_told_with_the_reason(tree: Any):
    text = words(section(tree, "frontier"))
    assert "rain-on-dpo is not in the plot: rain is a decoder: it has no log-probabilities" in text
    assert "rlhf is not in the plot: out of memory" in text


def test_answers_are_shown_where_the_labels_differ_most_first(tree: Any):
    shown = section(tree, "samples")
    articles = [element for element in elements(shown) if tag(element) == "article"]
    assert len(articles) == 10
    gaps = []
    for article in articles:
        scores = [float(score) for score in re.findall(r"score ([\d.]+)", words(article))]
        assert len(scores) == 6
        gaps.append(max(scores) - min(scores))
    assert all(before >= after - 0.021 for before, after in pairwise(gaps)), "scores are rounded to 0.01"
    assert gaps[0] > 0.9
    assert "user Please write a short note about topic" in words(articles[0])


def test_judges_are_shown_with_their_quality_those_trained_on_the_way_too(tree: Any):
    text = words(section(tree, "judges"))
    assert "gold recorded kind gold reward of the sandbox accuracy 1" in text
    assert "reward-model of rlhf, seed 2 on held-out rows accuracy 0.710 pairs 102" in text


def test_how_every_two_judges_agree_stands_with_the_judges(small, tmp_path: Path):
    folder = small.write(tmp_path / "run")
    measured = {"agreement@self": 0.8, "agreement.kappa@self": 0.6, "agreement@self@http": 0.7}
    results = read(folder)
    changed = results.model_copy(
        update={
            "labels": tuple(
                one.model_copy(update={"metrics": one.metrics | {
                    name: small.measured(value, 0.05) for name, value in measured.items()
                }})
                for one in results.labels
            ),
        }
    )  # fmt: skip
    record.write(changed, folder)
    text = words(section(parsed(write_html(folder).read_text(encoding="utf-8")), "judges"))
    assert "agreement (self)" in text
    assert "kappa (self)" in text
    assert "agreement (self, http)" in text
    assert "with gold, or the two in brackets" in text


def test_what_a_judge_was_put_through_is_one_row_and_why_it_may_not_rank_stands_below(small, tmp_path: Path):
    quality = {
        "fit": False,
        "reasons": ["an answer that repeats itself wins 12% more often"],
        "people": {"n": 50, "accuracy": 0.78, "ci95": [0.64, 0.87], "kappa": 0.5, "alpha": 0.5},
        "null": 0.04,
        "longer": 0.12,
        "injected": -0.19,
        "position": None,
        "steady": 1.0,
        "pairs": 50,
    }
    folder = small.write(tmp_path / "run")
    judged = read(folder).model_copy(update={"judges": ({"name": "gold", "quality": quality},)})
    record.write(judged, folder)
    shown = section(parsed(write_html(folder).read_text(encoding="utf-8")), "judges")
    rows = [words(row) for row in elements(shown) if row.tag.endswith("}tr")]
    assert rows[1] == "gold no 0.78 [0.64, 0.87] 0.04 0.12 \N{MINUS SIGN}0.19 n/a n/a 1.00 50"
    assert rows[2] == "gold may not rank: an answer that repeats itself wins 12% more often"
    assert "against people's labels pairs 50 kappa 0.500 Krippendorff's alpha 0.500" in words(shown)


def test_a_judge_that_labels_is_shown_with_how_far_it_agrees_with_people(small, tmp_path: Path):
    people = {"asked": 64, "n": 60, "accuracy": 0.7, "ci95": [0.57, 0.8], "kappa": 0.4, "first": 0.55}
    folder = small.write(tmp_path / "run")
    results = read(folder)
    judged = {"name": "self", "quality": {"compared": 900, "people": people}}
    cells = [one.model_copy(update={"judges": (judged,)}) for one in results.cells[-1:]]
    record.write(results.model_copy(update={"cells": (*results.cells[:-1], *cells)}), folder)
    text = words(section(parsed(write_html(folder).read_text(encoding="utf-8")), "judges"))
    assert f"self of {cells[0].label}, seed {cells[0].seed} on held-out rows compared 900" in text
    shown = "asked 64 pairs 60 accuracy 0.700 95% interval 0.570 to 0.800 kappa 0.400 prefers what comes first 0.550"
    assert f"against people's labels {shown}" in text


def test_fairness_departures_data_costs_and_recipe_are_all_there(tree: Any):
    text = words(section(tree, "fairness"))
    assert "quantization nf4, double" in text
    assert "rank 16" in text
    assert "dpo-hot training.batch: 32 instead of 16" in text
    assert "longer than 96 tokens 12" in words(section(tree, "data"))
    assert "rain-on-dpo 2 min 37 s 4 min 58 s" in words(section(tree, "costs"))
    assert "judges, while labelling" in words(section(tree, "costs"))
    reproduce = words(section(tree, "reproduce"))
    assert "alignbench run recipes/quickstart.yaml --out runs/quickstart" in reproduce
    assert "quantization: nf4" in reproduce
    assert "torch 2.13.0+cpu" in reproduce


def test_what_a_row_filter_computed_stands_with_the_data(small, tmp_path: Path):
    results = small.results()
    cost = {"judge_calls": 1638, "tokens": 70_400, "flops": 3}
    filters = [{"name": "dedupe", "counts": {}}, {"name": "judge", "counts": {}, "cost": cost}]
    data = {**results.data.model_dump(), "filters": filters}
    record.write(results.model_copy(update={"data": DataCounts.model_validate(data)}), tmp_path)
    shown = words(section(parsed(write_html(tmp_path).read_text(encoding="utf-8")), "data"))
    assert "The row filter judge took 1.64 k judge calls and 70.4 k tokens." in shown
    assert "The row filter dedupe" not in shown


def test_a_recipe_beside_the_record_is_shown_as_it_was_written(small, tmp_path: Path):
    folder = small.write(tmp_path / "run")
    (folder / "recipe.yaml").write_text("# my own words\nmodel: {id: sandbox}\n", encoding="utf-8")
    assert "# my own words" in words(section(parsed(write_html(folder).read_text("utf-8")), "reproduce"))


def test_equal_runs_give_equal_bytes(run_folder: Path, page: str):
    assert write_html(run_folder).read_text(encoding="utf-8") == page


def test_a_report_is_made_without_the_files_beside_the_record(results: Results, tmp_path: Path):
    record.write(results, tmp_path)
    tree = parsed(write_html(tmp_path).read_text(encoding="utf-8"))
    assert "The samples are not in the run's folder." in words(section(tree, "samples"))


def test_damaged_samples_and_torn_curves_leave_a_report(small, tmp_path: Path):
    folder = small.write(tmp_path / "run")
    (folder / "cells/label-1/seed-0/samples.parquet").write_bytes(b"PAR1 not really")
    curve = folder / "cells/label-2/seed-0/train.jsonl"
    curve.write_text(curve.read_text("utf-8") + '{"step": 100, "lo', encoding="utf-8")
    (folder / artefacts.SCORES).write_bytes(b"")
    (folder / artefacts.PREFERENCES).write_bytes(b"PAR1")
    tree = parsed(write_html(folder).read_text(encoding="utf-8"))
    text = words(section(tree, "samples"))
    assert "by the words of their answers" in text
    assert "score" not in text


def test_a_record_cannot_reach_outside_its_folder(small, tmp_path: Path):
    folder = small.write(tmp_path / "run")
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"step": 1, "canary": 7}\n{"step": 2, "canary": 8}\n', encoding="utf-8")
    record = json.loads((folder / "results.json").read_bytes())
    for cell, path in zip(
        record["cells"], ["../secret.jsonl", str(secret), "cells/link.jsonl"], strict=False
    ):
        cell["curves"] = path
    (folder / "cells/link.jsonl").symlink_to(secret)
    (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
    assert "canary" not in write_html(folder).read_text(encoding="utf-8")


def test_an_empty_run_has_a_report(tmp_path: Path):
    record.write(Results(run="nothing"), tmp_path)
    tree = parsed(write_html(tmp_path).read_text(encoding="utf-8"))
    assert words(section(tree, "verdict")).startswith("Verdict No metric that ranks the labels was measured.")


def test_a_one_seed_run_shows_no_method_and_says_so(tmp_path: Path, make_run):
    folder = make_run(labels=FEW, prompts=6, seeds=(0,)).write(tmp_path / "run")
    text = write_html(folder).read_text(encoding="utf-8")
    assert 'class="policies"' not in text
    assert "for these policies only (1 training run)" in text
    assert "for the method" not in text


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_report(
    small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = small.write(tmp_path / "run")
    before = write_html(folder).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"report\.html: the disk is full"):
        write_html(folder)
    assert (folder / "report.html").read_bytes() == before


def test_cjk_and_right_to_left_text_is_kept_and_its_direction_left_to_the_browser(make_run, tmp_path: Path):
    folder = make_run(labels=FEW, prompts=12).write(
        tmp_path / "run", texts=["日本語の答え", "תשובה בעברית", "العربية"], prompt="質問 שאלה"
    )
    tree = parsed(write_html(folder).read_text(encoding="utf-8"))
    answers = [element for element in elements(section(tree, "samples")) if element.get("class") == "words"]
    assert {words(answer) for answer in answers} == {"日本語の答え", "תשובה בעברית", "العربية"}
    assert {answer.get("dir") for answer in answers} == {"auto"}


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_that_wcag_asks_for_in_light_and_dark(page: str):
    palettes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", page, re.S)
    ]
    assert len(palettes) == 2
    for palette in palettes:
        for fore, ground in (
            ("ink", "paper"),
            ("soft", "paper"),
            ("soft", "wash"),
            ("ink", "wash"),
            ("good", "paper"),
            ("bad", "paper"),
            ("good", "good-wash"),
            ("bad", "bad-wash"),
        ):
            assert contrast(palette[fore], palette[ground]) >= 4.5, (fore, ground)


def test_eight_labels_three_seeds_five_hundred_prompts_in_twenty_seconds_and_eight_megabytes(
    make_run, tmp_path: Path
):
    labels = {"base": (None, None, 0.41, 0.0, 21.0)} | {
        f"method-{n}": ("dpo", "base", 0.5 + n / 50, 1.0 + n, 18.0) for n in range(7)
    }
    folder = make_run(labels=labels, prompts=500).write(tmp_path / "run")
    started = time.monotonic()
    file = write_html(folder)
    assert time.monotonic() - started < 20
    assert file.stat().st_size < 8 * 1024 * 1024


PAYLOADS = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1) srcset='http://x/y 2x'>",
    '" onmouseover="alert(1)" style="background:url(http://x)" x="',
    "' autofocus onfocus='alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    "{{ 7*7 }}{% for x in range(9) %}x{% endfor %}{# gone #}${7*7}",
    "<svg><script xlink:href='data:,alert(1)'/></svg><svg/onload=alert(1)>",
    "--></style></title></textarea></table></svg><h1>mine</h1><!--",
    "]]><math><mtext><table><mglyph><style><img src=x>",
    "user\u202egnp.exe \u2066x\u2069 \0 \x1b[31m \x9b \ud800 \uffff",
    "&lt;b&gt; &amp; &#x3c;script&#x3e; &nbsp;",
    "<meta http-equiv=refresh content='0;url=http://x'><base href=http://x><link rel=stylesheet href=http://x>",
    "$\\frac{1}{0}$ word0word _ ^ %",
]
KEPT = {"status", "estimand", "verdict", "samples", "log", "volatile", "metric", "schema"}
OPEN = {"recipe", "environment", "fairness", "data", "judges"}
CORE = {
    "base",
    "model",
    "id",
    "quantization",
    "name",
    "kept",
    "dropped",
    "fingerprints",
    "train",
    "methods",
    "seeds",
}


def poisoned(value: Any, payload: str, key: str = "", open_keys: bool = False) -> Any:
    """Put `payload` behind every string that a recipe, a plugin, a model or a data set could have chosen."""
    if isinstance(value, dict):
        return {
            (k + payload if open_keys and k not in CORE else k): poisoned(
                v, payload, k, open_keys or k in OPEN
            )
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item, payload, key, open_keys) for item in value]
    if isinstance(value, str) and value and key not in KEPT and value != "base":
        return value + payload
    return value


def skeleton(tree: Any) -> list[tuple[str, tuple[str, ...]]]:
    """Every element with the names of its attributes, in order."""
    return [(element.tag, tuple(sorted(element.attrib))) for element in elements(tree)]


FEW = {
    "base": (None, None, 0.41, 0.0, 21.0),
    "dpo": ("dpo", "base", 0.6, 4.0, 18.0),
    "orpo": ("orpo", "base", 0.5, 3.0, 18.0),
    "rlhf": ("rlhf", "dpo", None, None, None),
}


def a_run_with(payload: str, folder: Path, make_run) -> Path:
    """Write a run in which everything that could come from elsewhere ends with `payload`."""
    example_run = make_run(labels=FEW, prompts=6, seeds=(0,))
    in_files = payload.encode("utf-8", "backslashreplace").decode()
    example_run.write(folder, texts=[f"an answer{in_files}"], prompt=f"a prompt{payload}")
    text = poisoned(json.loads((folder / "results.json").read_bytes()), payload)
    record.write(Results.model_validate(text), folder)
    for table in (artefacts.SCORES, artefacts.PREFERENCES):
        if encodable(payload):
            rows = pq.read_table(folder / table).to_pylist()
            rows = [poisoned(row, payload) | {"prompt_id": row["prompt_id"]} for row in rows]
            pq.write_table(pa.Table.from_pylist(rows), folder / table)
        else:  # no such text gets into a table
            (folder / table).unlink()
    shown = json.loads((folder / artefacts.FIGURES).read_bytes())
    for one in shown:
        one["data"] = {k if k == "base" else k + payload: v for k, v in one["data"].items()}
    (folder / artefacts.FIGURES).write_text(json.dumps(shown), encoding="utf-8")
    for curve in sorted(folder.glob("cells/*/*/train.jsonl")):
        lines = [json.loads(line) for line in curve.read_text("utf-8").splitlines()]
        renamed = [{k + payload if k == "accuracy" else k: v for k, v in line.items()} for line in lines]
        curve.write_text("".join(json.dumps(line) + "\n" for line in renamed), encoding="utf-8")
    return folder


def encodable(payload: str) -> bool:
    return payload.encode("utf-8", "ignore").decode() == payload


@pytest.fixture(scope="module")
def harmless(make_run, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list]:
    """The elements of a page without a payload, with and without judgments."""
    folder = a_run_with("", tmp_path_factory.mktemp("harmless") / "run", make_run)
    whole = skeleton(parsed(write_html(folder).read_text(encoding="utf-8")))
    for table in (artefacts.SCORES, artefacts.PREFERENCES):
        (folder / table).unlink()
    return {True: whole, False: skeleton(parsed(write_html(folder).read_text(encoding="utf-8")))}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_element_and_no_attribute_comes_from_data(
    payload: str, make_run, tmp_path: Path, harmless: dict[bool, list]
):
    folder = a_run_with(payload, tmp_path / "run", make_run)
    page = write_html(folder).read_text(encoding="utf-8")
    tree = parsed(page)
    assert skeleton(tree) == harmless[encodable(payload)]
    for element in elements(tree):
        for name, value in element.attrib.items():
            if name not in ("aria-label", "title", "content"):
                assert "alert" not in value
                assert "http:" not in value
    hidden = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\uffff]"
    assert not re.search(hidden, page)
    assert read(folder).run == f"quickstart{payload}"
    shown = text.visible(payload)
    assert words(next(e for e in elements(tree) if tag(e) == "h1")) == " ".join(f"quickstart{shown}".split())
    samples = section(tree, "samples")
    assert " ".join(f"a prompt{shown}".split()) in words(samples)
    assert " ".join(f"an answer{shown}".split()) in words(samples)


def test_every_answer_says_which_others_the_judge_found_worse(small, tmp_path: Path):
    folder = small.write(tmp_path / "run")
    file = folder / artefacts.PREFERENCES
    rows = pq.read_table(file).to_pylist()
    labels = {row["a"]: None for row in rows} | {row["b"]: None for row in rows}
    first, second, *rest = labels
    for row in rows:  # the second ties with the first, and both beat all others
        at = [first, second].count(row["a"]), [first, second].count(row["b"])
        row["preference"] = {(1, 1): 0.5, (1, 0): 1.0, (0, 1): 0.0, (0, 0): None}[at]
    pq.write_table(pa.Table.from_pylist(rows), file)
    text = words(section(parsed(write_html(folder).read_text(encoding="utf-8")), "samples"))
    others = rest[0] if len(rest) == 1 else f"{', '.join(rest[:-1])} and {rest[-1]}"
    assert f"better than {others}, equal to {second}" in text
    assert f"better than {others}, equal to {first}" in text
    assert "better than none" in text


def test_without_scores_the_comparisons_won_say_where_the_labels_differ(small, tmp_path: Path):
    folder = small.write(tmp_path / "run")
    file = folder / artefacts.SCORES
    rows = [{**row, "score": None} for row in pq.read_table(file).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(file)), file)
    text = words(section(parsed(write_html(folder).read_text(encoding="utf-8")), "samples"))
    assert "by the comparisons that their answers win" in text


def test_the_learning_curve_is_drawn_below_the_methods_own_reward(small, tmp_path: Path):
    evaluations = [(0, 0.53, -0.5), (50, 0.78, 0.2), (256, 0.31, 1.5)]
    followed = tuple(
        CurvePoint(
            step=step,
            score=Estimate(value=worth, ci95=(worth - 0.1, worth + 0.1)),
            proxy=Estimate(value=own),
        )
        for step, worth, own in evaluations
    )
    folder = small.write(tmp_path / "run")
    found = read(folder)
    cells = tuple(
        cell.model_copy(update={"learning_curve": followed})
        if (cell.label, cell.seed) == ("dpo", 0)
        else cell
        for cell in found.cells
    )
    record.write(found.model_copy(update={"cells": cells}), folder)
    shown = section(parsed(write_html(folder).read_text(encoding="utf-8")), "curves")
    (drawn,) = [one for one in elements(shown) if one.get("class") == "learning"]
    (picture,) = [one for one in elements(drawn) if one.get("role") == "img"]
    assert picture.get("aria-label") == (
        "dpo during training. own reward: from \N{MINUS SIGN}0.500 over 1.50 at step 256 to 1.50; "
        "score by gold: from 0.530 over 0.780 at step 50 to 0.310."
    )
    assert [
        word
        for one in elements(picture)
        if (word := words(one)) and one.tag.endswith("}text") and not word[-1].isdigit()
    ] == ["own reward", "optimiser step", "score by gold"]


def test_a_policys_path_during_training_is_drawn_where_there_is_a_learning_curve(small, tmp_path: Path):
    way = [(0, 0.1, 0.5), (20, 4.0, 0.6), (40, 9.4, 0.66)]
    points = tuple(
        Point(label="dpo", seed=0, step=step, kl=Estimate(value=kl), reward=Estimate(value=worth))
        for step, kl, worth in way
    )
    drawn = []
    for followed in (False, True):
        folder = small.write(tmp_path / str(followed))
        if followed:
            record.write(read(folder).model_copy(update={"frontier": points}), folder)
        shown = section(parsed(write_html(folder).read_text(encoding="utf-8")), "frontier")
        drawn.append(sum("line2d" in (one.get("id") or "") for one in elements(shown)))
        assert ("A thin line is the policy during training" in words(shown)) == followed
    assert drawn[1] > drawn[0]
