"""A mapping of columns whose names are wrong is refused, and a column that only some rows have is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alignbench.data.sources import Jsonl
from alignbench.errors import DataError
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Data

from .conftest import WriteRows

ALPACA = {"instruction": "Translate.", "input": "good day", "output": "bonjour"}


def source(folder: Path, columns: dict[str, Any], name: str = "data.jsonl") -> Any:
    return open_source(Data.model_validate({"train": {name: {"columns": columns}}}).train, folder)


def store(folder: Path, write: WriteRows, rows: Sequence[dict[str, Any]], kind: str) -> str:
    if kind == "jsonl":
        return write(rows)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "data.parquet")
    return "data.parquet"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("rows", "prompt", "message"),
    [
        ([ALPACA] * 3, ["instruction", "inptu"], "no row has a column `inptu`.*did you mean `input`"),
        (
            [{"turn": ALPACA, "output": "a"}] * 3,
            ["turn.instruction", "turn.inptu"],
            r"no row has a column `turn\.inptu`",
        ),
    ],
)
def test_a_column_of_a_joined_text_that_no_row_has_is_refused(
    rows: list[dict[str, Any]], prompt: list[str], message: str, kind: str, write: WriteRows, tmp_path: Path
):
    name = store(tmp_path, write, rows, kind)
    wrong = source(tmp_path, {"prompt": prompt, "completion": "output"}, name)
    with pytest.raises(DataError, match=message):
        wrong.view()
    with pytest.raises(DataError, match=message):
        list(wrong.rows("train", None, 0))


def test_a_column_of_a_joined_text_may_be_missing_from_some_rows(write: WriteRows, tmp_path: Path):
    short = {"instruction": "Say hello.", "output": "hello"}
    write([short, short, ALPACA])
    right = source(tmp_path, {"prompt": ["instruction", "input"], "completion": "output"})
    assert right.view() is not None
    prompts = [row.prompt[0]["content"] for row in right.rows("train", None, 0)]
    assert prompts == ["Say hello.", "Say hello.", "Translate.\n\ngood day"]


def test_a_path_whose_last_step_is_wrong_is_refused_and_a_null_on_the_way_is_a_value(
    write: WriteRows, tmp_path: Path
):
    write([{"q": "a", "meta": {"system": "Be brief."}, "a": "b"}, {"q": "c", "meta": None, "a": "d"}])
    names = {"prompt": "q", "completion": "a"}
    with pytest.raises(DataError, match=r"there is no column `meta\.sytem`"):
        list(source(tmp_path, {**names, "system": "meta.sytem"}).rows("train", None, 0))
    rows = list(source(tmp_path, {**names, "system": "meta.system"}).rows("train", None, 0))
    assert [len(row.prompt) for row in rows] == [2, 1]


@pytest.mark.parametrize("field", ["sytem", "promt", "complettion", "preferance"])
def test_a_field_that_nearly_has_a_known_name_is_refused(field: str):
    with pytest.raises(ValidationError, match=f"there is no field '{field}'; did you mean"):
        Jsonl.Config.model_validate({"path": "data.jsonl", "columns": {field: "x"}})


def test_a_field_without_any_column_is_refused():
    with pytest.raises(ValidationError, match="'prompt' names no column"):
        Jsonl.Config.model_validate({"path": "data.jsonl", "columns": {"prompt": []}})


def test_a_column_of_ones_own_may_have_any_other_name(write: WriteRows, tmp_path: Path):
    write([{"prompt": "q", "completion": "a", "meta": {"user": "ann"}}])
    (row,) = source(tmp_path, {"user_id": "meta.user"}).rows("train", None, 0)
    assert row.extra["user_id"] == "ann"
