"""Rows and their views: what follows from a pair or a ranking, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.rows import (
    Demonstration,
    Pair,
    Prompt,
    Ranking,
    Row,
    Text,
    UnpairedPreference,
    can_derive,
    derive,
)

PROMPT: Any = {
    "prompt": ({"role": "user", "content": "q"},),
    "prompt_ids": (1, 2),
    "length": 9,
    "extra": {"user": "u"},
}
ROWS: dict[type[Row], Row] = {
    Ranking: Ranking(
        id="r", answers=("a", "b", "c"), ranks=(2, 1, 2), answer_ids=((3,), (4,), (5,)), **PROMPT
    ),
    Pair: Pair(id="p", chosen="a", rejected="b", chosen_ids=(3,), rejected_ids=(4,), **PROMPT),
    Demonstration: Demonstration(id="d", response="a", response_ids=(3,), **PROMPT),
    UnpairedPreference: UnpairedPreference(id="v", response="a", response_ids=(3,), desirable=True, **PROMPT),
    Prompt: Prompt(id="q", **PROMPT),
    Text: Text(id="t", text="plain", ids=(1, 2)),
}


@pytest.mark.parametrize(("source", "view"), list(product(ROWS, ROWS)), ids=lambda kind: kind.__name__)
def test_what_can_be_derived_is_derived_and_nothing_else(source: type[Row], view: type[Row]):
    row = ROWS[source]
    if not can_derive(source, view):
        with pytest.raises(TypeError, match=f"a {source.__name__} row has no {view.__name__} view"):
            derive(row, view, seed=0)
        return
    found = derive(row, view, seed=0)
    assert found
    for one in found:
        assert type(one) is view
        assert (one.id, one.length, one.extra) == (row.id, row.length, row.extra)
        if isinstance(one, Prompt):
            assert (one.prompt, one.prompt_ids) == (PROMPT["prompt"], PROMPT["prompt_ids"])


def test_a_pair_is_a_demonstration_of_the_chosen_and_two_labels():
    (demonstration,) = derive(ROWS[Pair], Demonstration, seed=0)
    assert (demonstration.response, demonstration.response_ids) == ("a", (3,))
    good, bad = derive(ROWS[Pair], UnpairedPreference, seed=0)
    assert (good.response, good.response_ids, good.desirable) == ("a", (3,), True)
    assert (bad.response, bad.response_ids, bad.desirable) == ("b", (4,), False)


def test_an_undesirable_answer_is_no_demonstration():
    row = UnpairedPreference(id="v", response="a", desirable=False, **PROMPT)
    assert derive(row, Demonstration, seed=0) == ()


def test_every_view_of_a_ranking_is_of_the_same_drawn_pair():
    (pair,) = derive(ROWS[Ranking], Pair, seed=3, epoch=2)
    (demonstration,) = derive(ROWS[Ranking], Demonstration, seed=3, epoch=2)
    good, bad = derive(ROWS[Ranking], UnpairedPreference, seed=3, epoch=2)
    assert (pair.chosen, pair.chosen_ids) == ("b", (4,))
    assert demonstration.response == good.response == pair.chosen
    assert bad.response == pair.rejected


def test_a_ranking_of_ties_alone_gives_no_pair():
    assert derive(Ranking(id="r", answers=("a", "b"), ranks=(1, 1), **PROMPT), Pair, seed=0) == ()


def test_the_widest_gap_is_best_against_worst():
    row = Ranking(id="r", answers=("mid", "worst", "best"), ranks=(2, 3, 1), **PROMPT)
    ((chosen, rejected),) = [(p.chosen, p.rejected) for p in derive(row, Pair, seed=0, draw="best_worst")]
    assert (chosen, rejected) == ("best", "worst")


def test_a_soft_ranking_gives_soft_pairs_and_a_soft_pair_a_soft_ranking():
    row = Ranking(id="r", answers=("a", "b", "c"), ranks=(1, 2, 3), preferences=(0.9, None, 0.25), **PROMPT)
    found = derive(row, Pair, seed=0, draw="all")
    assert [(p.chosen, p.rejected, p.preference) for p in found] == [("a", "b", 0.9), ("c", "b", 0.75)]
    (pair,) = derive(row, Pair, seed=0)
    (back,) = derive(pair, Ranking, seed=0)
    assert back.preferences == (pair.preference,)
    assert derive(back, Pair, seed=0) == (pair,)
    (plain,) = derive(ROWS[Pair], Ranking, seed=0)
    assert plain.preferences == ()
    (turned,) = derive(replace(pair, preference=0.3), Ranking, seed=0)
    assert (turned.ranks, turned.comparisons()) == ((2, 1), [(1, 0, 0.7)])


def test_sequences_are_the_prompt_with_each_answer():
    for kind in (Ranking, Pair, Demonstration, UnpairedPreference):
        row: Any = ROWS[kind]
        assert {sequence.prompt for sequence in row.sequences()} == {(1, 2)}
        assert [sequence.response for sequence in row.sequences()] == [(3,), (4,), (5,)][
            : len(row.sequences())
        ]
    assert [(s.prompt, s.response, len(s)) for s in ROWS[Text].sequences()] == [((1,), (2,), 2)]  # pyright: ignore[reportAttributeAccessIssue]


@given(
    ranks=st.lists(st.integers(1, 4), min_size=2, max_size=9), seed=st.integers(0, 5), epoch=st.integers(0, 3)
)
def test_one_pair_is_drawn_of_those_that_differ_and_always_the_same(ranks: list[int], seed: int, epoch: int):
    row = Ranking(id="r", answers=tuple(f"a{n}" for n in range(len(ranks))), ranks=tuple(ranks), **PROMPT)
    rank = dict(zip(row.answers, ranks, strict=True))
    every = derive(row, Pair, seed=seed, epoch=epoch, draw="all")
    assert len(every) == sum(a < b for a in ranks for b in ranks)
    assert all(rank[pair.chosen] < rank[pair.rejected] for pair in every)
    drawn = derive(row, Pair, seed=seed, epoch=epoch)
    assert len(drawn) == bool(every)
    assert set(drawn_names(drawn)) <= set(drawn_names(every))
    assert drawn == derive(row, Pair, seed=seed, epoch=epoch)


def drawn_names(pairs: tuple[Pair, ...]) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in pairs]


def test_epochs_and_seeds_draw_other_pairs_evenly():
    row = Ranking(id="r", answers=("a", "b", "c", "d"), ranks=(1, 2, 3, 4), **PROMPT)
    drawn = [derive(row, Pair, seed=seed, epoch=epoch)[0] for seed in range(30) for epoch in range(20)]
    counts = {names: drawn_names(tuple(drawn)).count(names) for names in set(drawn_names(tuple(drawn)))}
    assert len(counts) == 6
    assert all(60 < count < 140 for count in counts.values())
