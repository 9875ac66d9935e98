"""Every format that well-known programs and data sets document: read rightly, or refused with the way to read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.fidelity import answers
from alignbench.errors import DataError
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Data
from alignbench.rows import Prompt, Ranking, Row, UnpairedPreference

FORMATS = [
    json.loads(line)
    for line in (Path(__file__).parent / "formats.jsonl").read_text(encoding="utf-8").splitlines()
]


def named(known: dict[str, Any]) -> str:
    return f"{known['of']}: {known['format']}"


def rows(folder: Path, record: dict[str, Any], train: Any) -> list[Row]:
    (folder / "data.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    source = open_source(Data.model_validate({"train": train}).train, folder)
    found = list(source.rows("train", None, 0))
    assert source.view() is type(found[0])
    return found


def shown(row: Row) -> dict[str, Any]:
    """What a row of the table must hold, in the words of `formats.jsonl`."""
    found: dict[str, Any] = {"view": type(row).__name__}
    if isinstance(row, Prompt):
        found["prompt"] = [f"{turn['role']}: {turn['content']}" for turn in row.prompt]
        found |= {"answers": list(answers(row))} if answers(row) else {}
    if isinstance(row, Ranking):
        found["ranks"] = list(row.ranks)
    if isinstance(row, UnpairedPreference):
        found["desirable"] = row.desirable
    return found


@pytest.mark.parametrize(
    "known", [one for one in FORMATS if "columns" not in one and "row" in one], ids=named
)
def test_a_known_format_is_read_as_it_is(known: dict[str, Any], tmp_path: Path):
    (row,) = rows(tmp_path, known["record"], "data.jsonl")
    assert shown(row) == known["row"]


@pytest.mark.parametrize("known", [one for one in FORMATS if "columns" in one and "row" in one], ids=named)
def test_other_column_names_are_refused_with_the_line_that_reads_them(known: dict[str, Any], tmp_path: Path):
    import yaml

    if known["format"] != "messages, GRPO":  # its rows are read as conversations without an answer
        with pytest.raises(DataError) as raised:
            rows(tmp_path, known["record"], "data.jsonl")
        line = raised.value.problems[0].fix.removeprefix("write ")
        assert yaml.safe_load(line) == {"train": {"data.jsonl": {"columns": known["columns"]}}}
    (row,) = rows(tmp_path, known["record"], {"data.jsonl": {"columns": known["columns"]}})
    assert shown(row) == known["row"]


@pytest.mark.parametrize("known", [one for one in FORMATS if "row" not in one], ids=named)
def test_what_no_row_can_hold_is_refused_by_name(known: dict[str, Any], tmp_path: Path):
    columns = known.get("columns", {})
    with pytest.raises(DataError) as raised:
        rows(tmp_path, known["record"], {"data.jsonl": {"columns": columns}} if columns else "data.jsonl")
    assert known["says"] in str(raised.value)
