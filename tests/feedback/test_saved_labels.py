"""Labels of a judge are saved as rows and come back as they were."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from alignbench.errors import DataError
from alignbench.feedback import _warn_of_chance
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
    with pytest.raises(DataError, match=r"no label for any of 8 comparisons: tie \(3\), does not fit \(5\)"):
        load(tmp_path)


def test_abstentions_of_an_earlier_round_count_with_the_new_ones(tmp_path: Path):
    Labelled([], {"compared": 8, "dropped": {"empty": 8}, "abstained": {"empty": 2}}).save(tmp_path)
    with pytest.raises(DataError, match=r"no label for any of 8 comparisons: empty \(8\)"):
        load(tmp_path)


def test_a_judge_that_never_chose_is_named_with_the_words_it_would_have_begun_with(tmp_path: Path):
    facts = {"judge": "self", "compared": 104, "abstained": {"neither option": 104}}
    Labelled([], {**facts, "first_words": {"Based": 180, "The": 28}}).save(tmp_path)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "the judge 'self' gave no label for any of 104 comparisons: neither option (104)" in str(
        caught.value
    )
    assert "what it would write first: 'Based' (180), 'The' (28)" in str(caught.value)
    assert "begin its turn in other words (the judge's field `lead`)" in str(caught.value)
    assert "budget" not in str(caught.value)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ({"asked": 64, "n": 64, "accuracy": 0.9, "ci95": (0.8, 0.95)}, None),
        (
            {"asked": 64, "n": 60, "accuracy": 0.55, "ci95": (0.42, 0.67)},
            "agrees with people on 55% of 60 held-out",
        ),
        ({"asked": 64, "n": 0, "accuracy": None, "ci95": None}, "labels no one of 64 held-out pairs"),
        (None, None),
    ],
)
def test_a_judge_that_may_be_no_better_than_chance_is_a_warning_in_the_row(people, message):
    found = []
    record = SimpleNamespace(warning=lambda name, step, text: found.append(text))
    _warn_of_chance(SimpleNamespace(record=record), "self", people)
    assert [message in text for text in found] == [True] * (message is not None)
