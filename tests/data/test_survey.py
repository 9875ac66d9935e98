from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.data.survey import survey
from alignbench.errors import DataError

from .conftest import MakeRecipe, WriteRows, pairs


def test_rows_that_all_fall_out_are_an_error_with_their_reasons(
    write: WriteRows, recipe: MakeRecipe, tmp_path: Path
):
    early = {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}
    write([early] * 30)
    with pytest.raises(
        DataError, match=r"30 the two conversations differ before their last answer.* left for train"
    ):
        survey(recipe("data.jsonl"), tmp_path)


def test_rows_that_all_fall_into_one_split_are_an_error(write: WriteRows, recipe: MakeRecipe, tmp_path: Path):
    write(pairs(60, user="one"))
    assert survey(recipe("data.jsonl"), tmp_path).read == 60
    with pytest.raises(DataError, match=r"or data.split.by: conversation"):
        survey(recipe("data.jsonl", split={"by": "user"}), tmp_path)
