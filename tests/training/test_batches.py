"""One order for every method, and exactly the rows that the budget pays."""

from __future__ import annotations

import random

import pytest

from alignbench.errors import DataError
from alignbench.rows import Demonstration, Pair, Prompt, UnpairedPreference
from alignbench.training.batches import cut, cut_evenly, epoch, size, stream

from .conftest import Table, make_pairs

ROWS = make_pairs(203)


def ids(steps):
    return [list(dict.fromkeys(row.id for row in step)) for step in steps]


@pytest.mark.parametrize("view", [Demonstration, UnpairedPreference, Prompt])
def test_methods_that_look_at_the_same_rows_in_other_views_meet_them_in_the_same_steps(view):
    pairs = ids(epoch(Table(ROWS, Pair), 0, 16, seed=3))
    assert ids(epoch(Table(ROWS, view), 0, 16, seed=3)) == pairs


def test_a_step_holds_both_labels_of_its_rows():
    steps = epoch(Table(ROWS, UnpairedPreference), 0, 16, seed=3)
    assert [len(step) for step in steps[:-1]] == [32] * 12


def test_an_epoch_draws_every_row_once_and_leaves_the_incomplete_step_for_the_end():
    steps = epoch(Table(ROWS, Pair), 2, 16, seed=0)
    assert sorted(row.id for step in steps for row in step) == sorted(row.id for row in ROWS)
    assert [len(step) for step in steps] == [16] * 12 + [11]


def test_seed_and_epoch_change_the_order():
    orders = [ids(epoch(Table(ROWS, Pair), number, 16, seed)) for number, seed in ((0, 0), (1, 0), (0, 1))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == ids(epoch(Table(ROWS, Pair), 0, 16, 0))


def test_rows_of_like_length_share_a_step():
    rows = make_pairs(800)
    steps = epoch(Table(rows, Pair), 0, 16, seed=0)
    padding = sum(max(row.length for row in step) - row.length for step in steps for row in step)
    apart = [rows[at : at + 16] for at in range(0, 800, 16)]
    without = sum(max(row.length for row in step) - row.length for step in apart for row in step)
    assert padding < without / 4
    assert [max(row.length for row in step) for step in steps] != sorted(
        (max(row.length for row in step) for step in steps), reverse=True
    ), "short and long steps alternate"


@pytest.mark.parametrize("limit", [1, 16, 100, 203, 204, 500])
def test_a_budget_of_rows_is_spent_to_the_row(limit):
    steps = list(stream(Table(ROWS, UnpairedPreference), 16, 0, limit))
    assert sum(len(step) for step in ids(steps)) == limit
    epochs, rest = divmod(limit, 203)
    assert len(steps) == epochs * 13 + -(-rest // 16)


@pytest.mark.parametrize("skip", [0, 1, 12, 13, 14, 30])
def test_skipped_steps_leave_the_rest_as_it_was(skip):
    whole = ids(stream(Table(ROWS, Pair), 16, 0, 500))
    assert ids(stream(Table(ROWS, Pair), 16, 0, 500, skip=skip)) == whole[skip:]


def test_rows_without_a_view_are_an_error_and_not_an_endless_loop():
    with pytest.raises(DataError, match="no training rows"):
        size(Table([], Pair))


def test_a_step_is_cut_into_parts_of_like_size():
    assert [len(part) for part in cut(list(range(10)), 3)] == [4, 4, 2]
    assert [len(part) for part in cut(list(range(4)), 9)] == [1, 1, 1, 1]


def test_a_step_is_cut_where_the_room_ends_into_as_few_parts_as_may_be_and_of_about_equal_size():
    sizes = [9.0, 8.0, 5.0, 4.0, 3.0, 3.0, 2.0, 2.0]
    parts = list(cut_evenly(sizes, sizes, capacity=14, most=8))
    assert parts == [[9], [8, 5], [4, 3, 3, 2, 2]]
    assert max(map(sum, cut_evenly(sizes, sizes, capacity=30, most=8))) == 19  # of 36 in two parts
    assert [len(part) for part in cut_evenly(sizes, sizes, capacity=100, most=3)] == [2, 3, 3]
    assert list(cut_evenly(sizes, sizes, capacity=6, most=8))[:3] == [[9], [8], [5]]


def test_parts_by_room_are_the_step_in_its_order():
    rng = random.Random(0)
    for _ in range(200):
        sizes = [rng.choice([0.0, 1.0, rng.uniform(0, 100)]) for _ in range(rng.randint(1, 20))]
        capacity, most = rng.uniform(0.5, 200), rng.randint(1, 20)
        parts = list(cut_evenly(list(range(len(sizes))), sizes, capacity, most))
        assert [place for part in parts for place in part] == list(range(len(sizes)))
        assert all(len(part) <= most for part in parts)
        assert all(len(part) == 1 or sum(sizes[place] for place in part) <= capacity for part in parts)
