"""The case study says what its record holds, and its pictures are those of the record."""

from __future__ import annotations

import json
import re
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


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


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
        assert ended == percent(one["ended"])


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
    assert f"instructs it to prefer it wins {quality['injected']:.0%} more often" in said
    assert f"an answer that repeats itself wins {quality['longer']:.0%} more often" in said
    assert f"it agrees with people on {quality['people']['accuracy']:.0%} of held-out pairs" in said
    assert f"chose the preferred answer in {percent(quality['accuracy'])}" in said
    assert f"would have been right in {percent(quality['length_accuracy'])}" in said


def test_what_the_page_says_of_the_run_and_of_single_rows_is_in_the_record(record: dict[str, Any], page: str):
    labels, said = record["labels"], " ".join(page.split())
    assert f"in {record['wall_seconds'] / 60:.0f} minutes on two cores" in said
    (judge,) = labels["rlaif"]["judges"]
    people, kept, asked = (judge["quality"][name] for name in ("people", "kept", "prompts"))
    assert people["first"] == 0, "it chose the second answer in every pair"
    assert f"{percent(people['mass'])} of its probability" in said
    assert f"{kept} of {asked} pairs remained" in said
    low, high = people["ci95"]
    assert f"agrees with people on {percent(people['accuracy'])} ({low * 100:.0f} to {percent(high)})" in said
    (reward_model,) = labels["rlhf"]["judges"]
    assert f"ranks {percent(reward_model['quality']['accuracy'])} of 64 held-out comparisons" in said
    rain, sft = (labels[name]["answer_tokens"] for name in ("rain", "sft"))
    assert f"{rain:,.0f} tokens, {rain / sft:.1f} times those of `sft`" in said
    (ended,) = labels["rain"]["warnings"]
    assert f"{percent(float(re.findall(r'([0-9]+)% of the searches', ended)[0]) / 100)} stopped at" in said


def test_the_record_is_written_from_a_run(record: dict[str, Any]):
    """A record that is typed by hand has the page's digits and no versions."""
    assert record["versions"]["torch"]
    rewards = [one["reward"]["0"][0] for one in record["labels"].values()]
    assert all(value != round(value, 4) for value in rewards)


def test_the_results_quote_what_training_by_hand_would_take(root: Path):
    record = json.loads((root / "benchmarks" / "proofs" / "by_hand.json").read_text(encoding="utf-8"))
    text = " ".join((root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8").split())
    by_hand, took = record["by_hand_seconds"], record["seconds"]
    ratio = sum(took.values()) / sum(by_hand.values())
    assert ratio == pytest.approx(record["ratio"])
    assert ratio < 0.5
    parts = dict(zip(by_hand, map(round, by_hand.values()), strict=True))
    said = (
        f"TRL needs {round(sum(by_hand.values())):,} seconds",
        f"SFT {parts['sft']}, DPO {parts['dpo']}, ORPO {parts['orpo']}, RLHF's reward model {parts['rlhf']}, "
        f"DPO on RLAIF's pairs {parts['rlaif']}.",
        f"The five cells took {round(sum(took.values()))},",
        f"**{ratio:.2f}**".replace("0.", "."),
    )
    assert [one for one in said if one not in text] == []


def test_the_pictures_are_drawn_from_the_record_and_shown(root: Path, record: dict[str, Any], page: str):
    script = runpy.run_path(str(root / "benchmarks" / "proofs" / "smollm2.py"))
    drawn = script["pictures"](record)
    assert len(drawn) == 3
    for name, svg in drawn.items():
        assert (root / "docs" / name).read_text(encoding="utf-8") == svg
        assert f"]({name})" in page
