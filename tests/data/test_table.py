"""The table of rows that every method of a run sees: views, epochs and ids."""

from __future__ import annotations

from typing import Any

import pytest

from alignbench.data.table import Table
from alignbench.errors import DataError
from alignbench.rows import Pair, Prompt, Ranking, Text

from .conftest import Prepare, WriteRows, pairs


@pytest.fixture
def rankings(write: WriteRows, table: Prepare) -> Table:
    write(
        {"prompt": f"question {n // 2}", "answers": [f"{n} a", f"{n} and", f"{n} as"], "ranks": [1, 2, 3]}
        for n in range(120)
    )
    return table("data.jsonl")


def test_an_epoch_draws_one_pair_of_each_row_and_the_next_draws_others(rankings: Table):
    rows = rankings.rows(Pair, seed=0)
    first, second = rows.epoch(0), rows.epoch(1)
    assert len(rows) == len(first) == len(second) == len(rankings.kept("train"))
    assert [row.id for row in first] == [row.id for row in second]
    assert [row.rejected for row in first] != [row.rejected for row in second]
    assert rankings.rows(Pair, seed=0).epoch(1) == second
    assert len(rankings.rows(Pair, seed=0, draw="all")) == 3 * len(rows)


def test_soft_rankings_survive_the_table(write: WriteRows, table: Prepare):
    soft = [0.9, None, 0.25]
    write(
        {"prompt": f"question {n}", "answers": [f"{n} a", f"{n} and", f"{n} as"], "ranks": [1, 2, 3]}
        | ({"preferences": soft} if n % 2 else {})
        for n in range(40)
    )
    found = {row.preferences for row in table("data.jsonl").kept("train") if isinstance(row, Ranking)}
    assert found == {(), (0.9, None, 0.25)}


def test_what_is_handed_out_is_proven_by_its_ids(rankings: Table):
    read: list[str] = []
    rows = rankings.rows(Pair, seed=0)
    rows.on_read = read.extend
    assert len(rows) > 0
    assert (rows.seen, read) == ([], [])  # asking for the length hands out no row
    ids = [row.id for row in rows]
    rows.epoch(1)
    assert rows.seen == read == ids + ids
    other = rankings.rows(Pair, seed=0)
    list(other)
    other.epoch(1)
    assert other.digest() == rows.digest()
    other.epoch(2)
    assert other.digest() != rows.digest()


def test_prompts_are_different_ones_with_ids_of_their_own(rankings: Table):
    prompts = rankings.prompts("test")
    asked = [prompt.prompt[0]["content"] for prompt in prompts]
    assert len(prompts) * 2 == len(rankings.kept("test"))
    assert len(set(asked)) == len({prompt.id for prompt in prompts}) == len(prompts)
    assert all(prompt.prompt_ids for prompt in prompts)
    assert rankings.prompts("test", 3) == prompts[:3]


def test_a_caller_cannot_change_the_table(rankings: Table):
    rows = rankings.rows(Pair, seed=0)
    rows.epoch(0).clear()
    assert len(rows.epoch(0)) == len(rows)


def test_a_methods_own_rows_take_the_place_of_the_training_rows(rankings: Table):
    own = [Pair(id="own", prompt=({"role": "user", "content": "q"},), chosen="a", rejected="b")]
    assert list(rankings.rows(Pair, seed=0, given=own)) == own
    assert len(rankings.rows(Pair, "test", seed=0, given=own)) == len(rankings.kept("test"))


def test_a_view_that_no_rule_leads_to_is_refused(write: WriteRows, table: Prepare):
    write({"prompt": f"question {n}"} for n in range(40))
    made = table("data.jsonl")
    assert len(made.rows(Prompt, seed=0)) == len(made.kept("train"))
    with pytest.raises(DataError, match="the data has Prompt rows, which cannot be seen as Pair"):
        made.rows(Pair, seed=0)


def test_plain_text_is_cut_into_pieces_and_never_lost(write: WriteRows, table: Prepare):
    write(pairs(40))
    write([{"text": f"{n} " + "word " * (10 * n)} for n in range(1, 20)], "text.jsonl")
    made = table("data.jsonl", pretraining="text.jsonl", max_length=16)
    texts: list[Any] = [*made.texts("train"), *made.texts("test")]
    assert all(2 <= row.length == len(row.ids) <= 16 for row in texts)
    assert len({row.id for row in texts}) == len(texts)
    known = made.record["pretraining"]
    assert known["documents"]["train"] + known["documents"]["test"] == 19
    assert sum(known["tokens"].values()) == sum(row.length for row in texts)
    assert list(made.rows(Text, seed=0)) == made.texts("train")


def test_a_row_is_read_back_as_it_was(rankings: Table):
    row = rankings.kept("train")[0]
    assert isinstance(row, Ranking)
    assert row == Table(rankings.folder).kept("train")[0]
    assert len(row.answer_ids) == len(row.answers) == len(row.ranks) == 3
    assert isinstance(row.answer_ids[0], tuple)
