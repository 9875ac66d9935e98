"""Turned labels: how many, which ones, and what turning means in each view."""

from __future__ import annotations

import pytest

from alignbench.data.noise import flip
from alignbench.errors import DataError
from alignbench.rows import Demonstration, Pair, Ranking, UnpairedPreference, derive

ASKED = ({"role": "user", "content": "?"},)


def pairs(count: int) -> list[Pair]:
    return [
        Pair(id=f"r{i}", prompt=ASKED, chosen="good", rejected="bad", chosen_ids=(1,), rejected_ids=(2, 3))
        for i in range(count)
    ]


def test_about_that_share_of_the_pairs_changes_places_with_their_tokens():
    rows = pairs(2000)
    done, count = flip(rows, 0.3, seed=0)
    turned = [new for new, row in zip(done, rows, strict=True) if new != row]
    assert count == len(turned) == pytest.approx(600, abs=60)
    assert {(row.chosen, row.rejected, row.chosen_ids, row.rejected_ids) for row in turned} == {
        ("bad", "good", (2, 3), (1,))
    }


def test_no_noise_leaves_every_row_and_all_noise_turns_every_row():
    rows = pairs(20)
    assert flip(rows, 0, seed=0) == (rows, 0)
    assert flip(rows, 1, seed=0)[1] == 20
    assert flip(flip(rows, 1, seed=0)[0], 1, seed=0)[0] == rows


def test_more_noise_turns_the_rows_of_less_noise_too():
    rows = pairs(300)
    some, more = (flip(rows, rate, seed=1)[0] for rate in (0.1, 0.4))
    turned = [{row.id for row in done if row.chosen == "bad"} for done in (some, more)]
    assert turned[0] < turned[1]


def test_a_ranking_turns_every_one_of_its_comparisons_and_keeps_its_ties():
    row = Ranking(id="r", prompt=ASKED, answers=("a", "b", "c", "d"), ranks=(1, 2, 2, 3))
    ((done,), _) = flip([row], 1, seed=0)
    assert done.ranks == (3, 2, 2, 1)
    before, after = (
        {(pair.chosen, pair.rejected) for pair in derive(one, Pair, seed=0, draw="all")}
        for one in (row, done)
    )
    assert after == {(b, a) for a, b in before}


def test_a_soft_ranking_turns_its_probabilities_too():
    row = Ranking(
        id="r", prompt=ASKED, answers=("a", "b", "c"), ranks=(1, 2, 3), preferences=(0.75, None, 0.25)
    )
    ((done,), _) = flip([row], 1, seed=0)
    assert done.preferences == (0.25, None, 0.75)


def test_a_label_says_the_opposite_and_a_demonstration_has_no_label():
    label = UnpairedPreference(id="v", prompt=ASKED, response="x", desirable=True)
    assert flip([label], 1, seed=0)[0][0].desirable is False
    with pytest.raises(DataError, match="carry no label"):
        flip([Demonstration(id="d", prompt=ASKED, response="x")], 1, seed=0)
