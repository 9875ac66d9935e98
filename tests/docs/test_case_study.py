"""The case study says what its record holds, and its pictures are those of the record."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def record(root: Path) -> dict[str, Any]:
    return json.loads((root / "benchmarks" / "proofs" / "smollm2.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "case-study.md").read_text(encoding="utf-8")


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of each row of the table with this heading, by the row's first cell."""
    lines = page.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith(f"| row | {heading}"))
    found = {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            return found
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[name] = cells
    return found


def with_interval(found: list[float] | None, places: int) -> str:
    return "" if found is None else f"{found[0]:.{places}f} ±{found[0] - found[1]:.{places}f}"


def seconds(text: str) -> float:
    parts = dict(reversed(part) for part in zip(text.split()[::2], text.split()[1::2], strict=True))
    return 60 * float(parts.get("min", 0)) + float(parts.get("s", 0))


def test_the_table_of_rewards_holds_the_figures_of_the_record(record: dict[str, Any], page: str):
    shown = table(page, "reward at T 0")
    assert list(shown) == list(record["labels"])
    for name, (cold, warm, wins, kl, ended) in shown.items():
        one = record["labels"][name]
        assert cold == with_interval(one["reward"]["0"], 2)
        same = one["reward"]["0"] == one["reward"]["1"]
        assert warm == ("the same" if same else with_interval(one["reward"]["1"], 2))
        assert wins == with_interval(one["win_rate"], 3)
        assert kl == ("" if one["kl_from_start"] is None else f"{one['kl_from_start']:.2f}")
        assert ended == f"{one['ended']:.0%}".replace("%", " %")


def test_the_table_of_costs_holds_the_figures_of_the_record(record: dict[str, Any], page: str):
    shown = table(page, "learnt from")
    assert list(shown) == list(record["labels"])
    for name, (_, time, tokens, operations, answer, peak) in shown.items():
        one = record["labels"][name]
        assert peak == f"{one['peak_memory_bytes'] / 1e9:.1f} GB"
        assert seconds(answer) == pytest.approx(one["answer_seconds"], rel=0.03)
        if not time:
            assert one["seconds"] is None
            continue
        assert seconds(time) == round(one["seconds"])
        assert float(tokens.replace(",", "")) == round(one["tokens"], -2)
        assert operations == f"{one['flops'] / 1e12:.1f} TFLOP"


def test_what_the_page_says_of_its_judge_is_in_the_record(record: dict[str, Any], page: str):
    quality, said = record["judge"]["quality"], " ".join(page.split())
    assert quality["fit"] is False
    assert "There is no verdict, and the report says why." in said
    assert f"an answer without content wins {quality['null']:.0%} of its comparisons" in said
    assert f"it agrees with people on {quality['people']['accuracy']:.0%} of held-out pairs" in said


def test_the_record_is_written_from_a_run(record: dict[str, Any]):
    """A record that is typed by hand has the page's digits and no versions."""
    assert record["versions"]["torch"]
    rewards = [one["reward"]["0"][0] for one in record["labels"].values()]
    assert all(value != round(value, 4) for value in rewards)


def test_the_pictures_are_drawn_from_the_record_and_shown(root: Path, record: dict[str, Any], page: str):
    script = runpy.run_path(str(root / "benchmarks" / "proofs" / "smollm2.py"))
    drawn = script["pictures"](record)
    assert len(drawn) == 3
    for name, svg in drawn.items():
        assert (root / "docs" / name).read_text(encoding="utf-8") == svg
        assert f"]({name})" in page
