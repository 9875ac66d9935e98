"""Which answers people see: fixed before the first annotation, blind, and the same every time."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from alignbench import layout
from alignbench.errors import RecipeError, StorageError
from alignbench.label import design
from alignbench.label.design import Design
from alignbench.label.journal import opened
from alignbench.label.progress import Progress

PROMPTS = {f"p{n}": ({"role": "user", "content": f"{n}?"},) for n in range(60)}


def answers(labels: int, seeds=(0,), same: bool = False):
    return {
        id: {f"l{k}": {seed: "same" if same else f"{id} {k} {seed}" for seed in seeds} for k in range(labels)}
        for id in PROMPTS
    }


def test_a_sample_takes_every_seed_of_its_prompts_so_that_seeds_stay_paired():
    made = design.of_run(PROMPTS, answers(3, seeds=(0, 1, 2)), count=10)
    assert len(made.items) == 30
    assert Counter(item.prompt_id for item in made.items).most_common(1)[0][1] == 3


def test_the_sample_changes_with_the_seed_and_with_nothing_else():
    first = design.of_run(PROMPTS, answers(3), count=10, seed=1)
    assert first == design.of_run(PROMPTS, answers(3), count=10, seed=1)
    assert first.items != design.of_run(PROMPTS, answers(3), count=10, seed=2).items


def test_labels_with_the_same_text_share_one_place():
    made = design.of_run(PROMPTS, answers(4, same=True), count=2)
    assert [len(item.answers) for item in made.items] == [1, 1]
    assert made.items[0].answers[0].labels == ("l0", "l1", "l2", "l3")


def test_pairs_show_every_two_labels_equally_often():
    made = design.of_run(PROMPTS, answers(6), count=60, choice="pairs")
    met = Counter(tuple(one.labels[0] for one in item.answers) for item in made.items)
    assert len(met) == 15
    assert set(met.values()) == {4}


def test_where_a_page_cannot_hold_all_labels_every_two_of_them_meet_about_equally_often():
    made = design.of_run(PROMPTS, answers(12), count=60, most=5)
    met = Counter(
        pair for item in made.items for pair in combinations((one.labels[0] for one in item.answers), 2)
    )
    assert len(met) == 66
    assert max(met.values()) - min(met.values()) <= 3


def test_differ_takes_the_prompts_whose_scores_lie_furthest_apart():
    made = design.of_run(PROMPTS, answers(3), count=2, choice="differ", spread={"p7": 0.9, "p3": 0.8})
    assert {item.prompt_id for item in made.items} == {"p7", "p3"}


def test_each_rater_has_an_order_of_prompts_and_of_answers_of_their_own(make_items):
    made = Design(tuple(make_items(20)))
    assert made.order("anna") == made.order("anna") != made.order("ben")
    orders = {rater: [tuple(made.shown(rater, item, 0)) for item in made.items] for rater in ("anna", "ben")}
    assert orders["anna"] != orders["ben"]
    assert made.shown("anna", made.items[0], 0) != made.shown("anna", made.items[0], 1)


def test_no_place_on_the_page_belongs_to_a_label(make_items):
    made = Design(tuple(make_items(40)))
    firsts = Counter(made.shown(f"r{n}", item, 0)[0] for n in range(25) for item in made.items)
    assert all(150 < firsts[place] < 250 for place in range(5))


def test_a_design_is_read_back_as_it_was_written(make_items, tmp_path: Path):
    made = Design(tuple(make_items(3)), ask=("score", "note"), repeats=0.2, name="run", prompts=3, of=9)
    design.write(made, tmp_path)
    assert design.read(tmp_path) == made


def test_a_folder_without_labels_and_a_damaged_design_are_said_so(tmp_path: Path):
    with pytest.raises(RecipeError, match="holds no labels"):
        design.read(tmp_path)
    (tmp_path / layout.DESIGN).write_text('{"schema": 1, "items": [{}]}')
    with pytest.raises(StorageError, match="damaged"):
        design.read(tmp_path)


def work(progress: Progress, rater: str, make_annotation, most: int = 999) -> list[tuple[str, int]]:
    done = []
    while len(done) < most and (turn := progress.next(rater)):
        ranks = range(1, len(turn.item.answers) + 1)
        progress.journal.append(make_annotation(turn.item, rater, ranks, turn.round, seconds=4.0))
        done.append((turn.item.id, turn.round))
    return done


def test_what_is_not_for_everyone_is_ranked_once_and_the_rest_by_all(make_items, make_annotation, tmp_path):
    made = Design(tuple(design.shared(make_items(20), 0.25, 0)), overlap=0.25)
    with opened(tmp_path) as journal:
        progress = Progress(made, journal)
        first = work(progress, "anna", make_annotation, most=8)
        second = work(progress, "ben", make_annotation)
        first += work(progress, "anna", make_annotation)
        often = Counter(id for id, _ in first + second)
    assert sorted(often.values()) == [1] * 15 + [2] * 5


def test_two_raters_at_once_are_never_given_the_same_item_that_is_for_one(make_items, tmp_path):
    made = Design(tuple(design.shared(make_items(10), 0.0, 0)), overlap=0.0)
    with opened(tmp_path) as journal:
        progress = Progress(made, journal)
        one, other = progress.next("anna"), progress.next("ben")
        assert one is not None
        assert other is not None
        assert one.item.id != other.item.id


def test_repeats_come_back_after_other_items_and_once(make_items, make_annotation, tmp_path):
    made = Design(tuple(make_items(20)), repeats=0.2)
    with opened(tmp_path) as journal:
        done = work(Progress(made, journal), "anna", make_annotation)
    again = [id for id, round in done if round == 1]
    assert len(again) == len(set(again)) == 4
    places = {pair: n for n, pair in enumerate(done)}
    assert any(places[id, 1] < len(done) - len(again) for id in again), "none comes before the end"


def test_at_least_five_others_come_before_an_item_is_seen_again(make_items, make_annotation, tmp_path):
    made = Design(tuple(make_items(20)), repeats=0.1)
    with opened(tmp_path) as journal:
        progress = Progress(made, journal)
        for rater in (f"rater-{n}" for n in range(30)):
            done = work(progress, rater, make_annotation)
            places = {pair: n for n, pair in enumerate(done)}
            again = [id for id, round in done if round == 1]
            assert len(again) == 2
            for id in again:
                others = {one for one, _ in done[places[id, 0] + 1 : places[id, 1]]} - {id}
                assert len(others) >= design.BETWEEN


def test_few_items_are_repeated_as_late_as_they_can_be(make_items, make_annotation, tmp_path):
    made = Design(tuple(make_items(3)), repeats=1.0)
    with opened(tmp_path) as journal:
        done = work(Progress(made, journal), "anna", make_annotation)
    assert [round for _, round in done] == [0, 0, 0, 1, 1, 1]


def test_an_item_without_a_choice_is_written_by_the_way_and_not_shown(make_annotation, tmp_path):
    same = design.item(({"role": "user", "content": "?"},), {"a": "x", "b": "x"})
    with opened(tmp_path) as journal:
        progress = Progress(Design((same,)), journal)
        assert progress.next("anna") is None
        assert [one.automatic for one in journal.of("anna")] == [True]
        assert progress.count("anna") == {"done": 0, "total": 0, "seconds": None}


def test_time_left_is_the_median_of_the_items_so_far(make_items, make_annotation, tmp_path):
    with opened(tmp_path) as journal:
        progress = Progress(Design(tuple(make_items(20))), journal)
        work(progress, "anna", make_annotation, most=5)
        assert progress.count("anna") == {"done": 5, "total": 20, "seconds": 60}
