"""The comparison as a table, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from alignbench import report
from alignbench import results as record
from alignbench.api.method import Departure
from alignbench.errors import RecipeError
from alignbench.report.leaderboard import flat, leaderboard, prices
from alignbench.results import CellResult, LabelResult, Measured, MetricInfo, Results


def shown(results: Results, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    report.show(results, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def compared(folders: list[Path], format: str) -> str:
    console = Console(file=io.StringIO(), width=160)
    report.compare(folders, format, console)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def hostile(text: str) -> Results:
    return Results(
        run=f"run {text}",
        metrics={
            "reward": MetricInfo(judge="gold", higher_is_better=True),
            f"m {text}": MetricInfo(judge=f"j {text}", unit=text, plugin=True),
        },
        labels=(
            LabelResult(
                label="base",
                metrics={
                    name: Measured(value=0.4, ci95=(0.3, 0.5), missing="" if name == "reward" else text)
                    for name in ("reward", f"m {text}")
                },
            ),
            LabelResult(label=f"x {text}", start="base", departures=(Departure(text, text, text),)),
            LabelResult(label=f"{text}", start={"adapter": text}),
        ),
        cells=(
            CellResult(label=f"x {text}", seed=0, status="failed", reason=text),
            CellResult(label=f"{text}", seed=0, status="done"),
            CellResult(label=f"{text}", seed=1, status="diverged", reason=text),
        ),
    )


@pytest.mark.parametrize("width", [80, 110, 160])
def test_whatever_the_width_the_first_table_has_the_whole_price_and_nothing_is_cut(
    results: Results, width: int
):
    table = shown(results, width).partition("95% intervals")[0]
    assert max(map(len, table.splitlines())) <= width
    words = set(re.split(r"\s+", table))
    assert {"chain", "answer"} <= words
    for row in leaderboard(results).rows:
        costs = prices(row.label)[1:] if row.done else ()
        expected = " ".join(one for cost in costs for one in cost)
        if row.verdict is not None and row.verdict.short != "n/a":
            expected += f" {row.verdict.short.partition(' than ')[0]}"
        assert [one for one in expected.split() if one not in words] == []


HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "[bold red]markup[/bold red] [/]",
    "\x1b[31mred\x1b]52;c;aGk=\x07\x9b2J",
    "a | b\n| --- | c",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://x)",
    "user\u202egnp.exe \0 \ud800",
]


def test_the_terminal_has_a_row_for_every_label_with_values_cost_and_verdict(results: Results):
    text = shown(results)
    dpo = next(line for line in text.splitlines() if line.lstrip().startswith("dpo "))
    assert re.split(r"\s{2,}", dpo.strip()) == [
        "dpo",
        "0.668 ±0.048",
        "0.782 ±0.094",
        "9.40 ±1.73",
        "19.6 ±1.6",
        "1 min 03 s",
        "1 min 59 s",
        "11.0 ms",
        "better than sft +0.117",
    ]
    assert "failed: out of memory" in text
    assert "95% intervals of the method, over seeds and prompts" in text
    assert "dpo-hot: departure: training.batch: 32 instead of 16" in text


def test_the_terminal_table_stays_inside_eighty_columns_and_breaks_no_word(results: Results):
    lines = shown(results, 80).splitlines()
    assert max(map(len, lines)) <= 80
    at = next(place for place, line in enumerate(lines) if line.lstrip().startswith("dpo "))
    row = [re.split(r"\s{2,}", line.strip()) for line in lines[at : at + 2]]
    assert row == [
        ["dpo", "0.668", "1 min 59 s", "11.0 ms", "better +0.117"],
        ["from sft", "±0.048", "911 k", "47.1"],
    ]
    others = [re.split(r"\s{2,}", line.strip()) for line in lines if line.lstrip().startswith("dpo  ")]
    assert ["dpo", "0.782", "9.40", "19.6", "1 min 03 s"] in others


@pytest.mark.parametrize("text", HOSTILE)
def test_the_terminal_never_obeys_the_data(text: str):
    page = shown(hostile(text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    if "markup" in text:
        assert "[bold red]markup" in page


@pytest.mark.parametrize("text", HOSTILE)
def test_a_coloured_terminal_gets_no_sequence_but_colours(text: str):
    console = Console(
        file=io.StringIO(), width=200, force_terminal=True, color_system="standard", legacy_windows=False
    )
    report.show(hostile(text), console)
    found = console.file.getvalue()  # type: ignore[attr-defined]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", re.sub(r"\x1b\[[0-9;]*m", "", found))


def test_markdown_is_one_table_with_as_many_cells_in_every_row(results: Results):
    table = [line for line in report.markdown(results).splitlines() if line.startswith("|")]
    assert len(table) == 9
    assert {line.count("|") for line in table} == {11}
    assert "| dpo | sft | 0.668 ±0.048 |" in table[4]
    assert "failed: out of memory" in table[8]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_data_can_leave_its_cell_or_become_markup_in_markdown(text: str):
    page = report.markdown(hostile(text))
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {9}
    assert "<" not in page
    assert not re.search(r"(?<!\\)\[", page)


def test_csv_holds_every_number_with_its_estimand(results: Results):
    rows = list(csv.DictReader(io.StringIO(report.csv(results))))
    dpo = {(row["quantity"], row["estimand"]): row for row in rows if row["label"] == "dpo"}
    assert float(dpo["reward", "policies"]["value"]) == 0.668
    assert float(dpo["reward", "method"]["low"]) == pytest.approx(0.668 - 0.021 * 2.3)
    assert dpo["reward", "method"]["n"] == "3"
    assert float(dpo["cost.own.tokens", ""]["value"]) == 430_000
    rain = next(row for row in rows if row["label"] == "rain-on-dpo" and row["quantity"] == "kl.base")
    assert (rain["value"], rain["missing"]) == ("", "rain is a decoder: it has no log-probabilities")
    lost = [row for row in rows if row["label"] == "rlhf"]
    assert [(row["status"], row["reason"], row["value"]) for row in lost] == [
        ("failed", "out of memory in the critic's forward pass", "")
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_of_the_csv_is_a_formula(text: str):
    rows = list(csv.reader(io.StringIO(report.csv(hostile(text)))))
    assert {len(row) for row in rows} == {17}
    for cell in (cell for row in rows for cell in row):
        assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
        assert not cell.startswith("-") or re.fullmatch(r"-[\d.e-]+", cell), cell


def test_a_negative_number_stays_a_number_in_csv():
    label = LabelResult(label="base", metrics={"logp.chosen": Measured(value=-41.5)})
    rows = list(csv.DictReader(io.StringIO(report.csv(Results(labels=(label,))))))
    assert float(rows[0]["value"]) == -41.5


@pytest.fixture
def two_runs(results: Results, tmp_path: Path) -> list[Path]:
    other = results.model_copy(
        update={"run": "larger", "fairness": {**results.fairness, "batch": 64, "adapter": {"rank": 8}}}
    )
    folders = []
    for one in (results, other):
        folder = tmp_path / one.run
        folder.mkdir()
        record.write(one, folder)
        folders.append(folder)
    return folders


def test_stored_runs_stand_side_by_side_with_equal_labels_together(two_runs: list[Path]):
    record = json.loads(compared(two_runs, "json"))
    assert record["runs"] == ["quickstart", "larger"]
    order = list(dict.fromkeys((one["label"], one["run"]) for one in record["numbers"]))
    assert order[:4] == [("base", "quickstart"), ("base", "larger"), ("sft", "quickstart"), ("sft", "larger")]
    assert "quickstart/dpo" in compared(two_runs, "table")


def test_different_fairness_contracts_are_flagged_by_the_fields_that_differ(two_runs: list[Path]):
    record = json.loads(compared(two_runs, "json"))["differences"]
    assert [one["field"] for one in record] == ["adapter.rank", "adapter.alpha", "adapter.targets", "batch"]
    assert record[3]["values"] == {"quickstart": "16", "larger": "64"}
    assert record[1]["values"] == {"quickstart": "32", "larger": "not recorded"}
    assert "different: batch: 16 in quickstart, 64 in larger" in compared(two_runs, "table")
    assert "> Different: batch: 16 in quickstart, 64 in larger" in compared(two_runs, "markdown")


def test_runs_on_other_rows_differ(results: Results, tmp_path: Path):
    data = results.data.model_copy(update={"fingerprints": {**results.data.fingerprints, "train": "0000"}})
    for name, one in (("a", results), ("b", results.model_copy(update={"data": data}))):
        (tmp_path / name).mkdir()
        record.write(one.model_copy(update={"run": name}), tmp_path / name)
    loaded = json.loads(compared([tmp_path / "a", tmp_path / "b"], "json"))["differences"]
    assert [one["field"] for one in loaded] == ["data.train"]


def test_like_runs_are_not_flagged(two_runs: list[Path]):
    record = json.loads(compared([two_runs[0], two_runs[0]], "json"))
    assert record["differences"] == []
    assert record["runs"] == ["quickstart", "quickstart (2)"]


def test_every_format_of_compare_is_what_it_says(two_runs: list[Path]):
    assert len(list(csv.reader(io.StringIO(compared(two_runs, "csv"))))) > 100
    assert compared(two_runs, "markdown").count("\n| ") >= 15
    with pytest.raises(
        RecipeError, match="there is no format 'xml'; choose one of table, markdown, csv, json"
    ):
        compared(two_runs, "xml")


def test_a_run_without_a_name_is_called_by_its_folder(results: Results, tmp_path: Path):
    folder = tmp_path / "my-run"
    folder.mkdir()
    record.write(results.model_copy(update={"run": ""}), folder)
    assert json.loads(compared([folder], "json"))["runs"] == ["my-run"]


def test_nested_settings_that_differ_are_told_in_words(results: Results, tmp_path: Path):
    for folder, tasks in (("a", ["sums"]), ("b", ["sums", "copying"])):
        metrics = [{"name": "reward", "config": {}}, {"name": "harness", "config": {"tasks": tasks}}]
        judges = [{"name": "http", "config": {"votes": 3, "retry": {"wait": 0.5}}}]
        fairness = results.fairness | {"evaluation": {"metrics": metrics, "judges": judges}}
        record.write(results.model_copy(update={"run": folder, "fairness": fairness}), tmp_path / folder)
    found = compared([tmp_path / "a", tmp_path / "b"], "table")
    assert "reward, harness (tasks (sums)) in a, reward, harness (tasks (sums, copying)) in b" in found
    assert "{" not in found


def test_every_setting_is_put_in_words():
    judges = [{"name": "http", "config": {"votes": 3, "retry": {"wait": 0.5}}}, {"gold": {}}]
    assert dict(flat({"judges": judges, "none": None})) == {
        "judges": "http (votes 3, retry (wait 0.5)), gold",
        "none": "none",
    }
    assert dict(flat({"rate": 3.0e-4, "on": True, "by": {}, "of": []})) == {
        "rate": "0.0003",
        "on": "yes",
        "of": "none",
    }
