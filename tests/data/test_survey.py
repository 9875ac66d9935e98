"""`check --data` reads rows and refuses what a run refuses, in the same words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.prepare import prepare
from alignbench.data.survey import check_tokenizer, survey
from alignbench.errors import AlignbenchError, DataError
from alignbench.recipe.schema import Recipe

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


def refusals(recipe: Recipe, folder: Path) -> tuple[str, str]:
    """What `check --data` and a run's preparation say."""
    with pytest.raises(AlignbenchError) as before:  # noqa: PT012  (either may refuse)
        pool = survey(recipe, folder)
        check_tokenizer(recipe, folder, pool)
    with pytest.raises(AlignbenchError) as then:
        prepare(recipe, folder / "table", root=folder)
    return str(before.value), str(then.value)


LONG = " ".join(["word"] * 80)


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        (
            [{"prompt": f"question {n}", "completion": LONG if n % 2 else "yes"} for n in range(60)],
            {},
            r"30 of 60 rows \(50%\) cannot be used: 30 longer than max_length",
        ),
        (
            [{"prompt": f"question {n}", "completion": LONG} for n in range(60)],
            {"allowed_drop": 1.0},
            "60 rows were read and 0 are left for train",
        ),
        (
            [{"prompt": f"question {n}", "completion": "yes"} for n in range(60)],
            {"filters": [{"length": {"min": 9}}]},
            r"60 rows were read \(60 length dropped: too short\) and 0 are left for train",
        ),
        (
            [{"prompt": f"question {n % 9}", "completion": f"{n}", "user": n} for n in range(60)],
            {"split": {"by": "user", "test": 0.2}},
            "test prompts occur in the training rows too",
        ),
    ],
    ids=["too long", "too few that fit", "too few after a filter", "test prompts in training"],
)
def test_a_check_refuses_what_a_run_refuses_in_the_same_words(
    rows: list[dict[str, Any]],
    data: dict[str, Any],
    message: str,
    write: WriteRows,
    recipe: MakeRecipe,
    tmp_path: Path,
):
    write(rows)
    before, then = refusals(recipe("data.jsonl", **data), tmp_path)
    assert before == then
    assert re.search(message, before)


def test_of_many_rows_a_sample_is_checked_with_a_margin(
    write: WriteRows, recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("alignbench.data.survey.SAMPLE", 64)
    long = [{"prompt": f"question {n}", "completion": LONG if n % 7 < 2 else "yes"} for n in range(700)]
    write(long)
    near = recipe("data.jsonl", allowed_drop=0.28)
    check_tokenizer(near, tmp_path, survey(near, tmp_path))
    far = recipe("data.jsonl", allowed_drop=0.02)
    pool = survey(far, tmp_path)
    with pytest.raises(DataError, match="longer than max_length"):
        check_tokenizer(far, tmp_path, pool)


def test_rows_that_were_dropped_are_to_be_corrected_and_not_to_be_more(
    write: WriteRows, recipe: MakeRecipe, tmp_path: Path
):
    write([{"prompt": f"q {n}", "chosen": "a", "rejected": "a"} for n in range(30)])
    with pytest.raises(DataError, match="needs at least 4: correct the rows that were dropped"):
        survey(recipe("data.jsonl"), tmp_path)


def test_rows_that_are_dropped_as_they_are_read_count_as_read(
    write: WriteRows, recipe: MakeRecipe, tmp_path: Path
):
    write([{"messages": [{"role": "user", "content": f"q {n}"}]} for n in range(30)])
    with pytest.raises(DataError, match=r"^30 rows were read \(30 the conversation does not end"):
        survey(recipe("data.jsonl"), tmp_path)
