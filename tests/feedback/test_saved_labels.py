from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import DataError
from alignbench.feedback.labelling import Labelled, load
from alignbench.rows import Demonstration, Pair


def test_a_column_that_would_change_what_a_row_says_does_not_come_back(tmp_path: Path):
    prompt = ({"role": "user", "content": "q"},)
    extra = {"label": 0, "messages": [], "topic": "t"}
    rows = [Demonstration(id="1", prompt=prompt, response="a", extra=extra)]
    Labelled(list(rows), {"revised": 1}).save(tmp_path)
    (row,) = load(tmp_path).rows
    assert (type(row), row.extra) == (Demonstration, {"topic": "t"})


def test_rows_come_back_as_they_were_saved(tmp_path: Path):
    prompt = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    rows = [Pair(id="1", prompt=prompt, chosen="a", rejected="b", preference=0.75, extra={"user": "u"})]
    Labelled(list(rows), {"kept": 1}).save(tmp_path)
    assert load(tmp_path).rows == rows


def test_labels_of_which_none_can_be_used_are_an_error_with_the_reasons(tmp_path: Path):
    Labelled([], {"compared": 8, "dropped": {"tie": 3}, "abstained": {"does not fit": 5}}).save(tmp_path)
    with pytest.raises(DataError, match="not one of 8 comparisons gave a label: 3 tie, 5 does not fit"):
        load(tmp_path)
