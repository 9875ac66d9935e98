"""What people said, as a judge beside others: win rates, agreement, and who is left out."""

from __future__ import annotations

import importlib.util
import sys
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from alignbench import layout, stats
from alignbench.api.judge import Judge, Score
from alignbench.api.metric import Cell
from alignbench.errors import RecipeError
from alignbench.judges import people
from alignbench.judges.people import People
from alignbench.label import design
from alignbench.label.design import Design
from alignbench.label.journal import opened
from alignbench.label.quality import pair_signs, quality, share
from alignbench.metrics.agreement import Agreement
from alignbench.metrics.bradley_terry import BradleyTerry
from alignbench.metrics.comparison import summarise
from alignbench.metrics.raters import raters_of, with_raters
from alignbench.metrics.reward import Reward
from alignbench.metrics.second_person import as_a_rater
from alignbench.metrics.win_rate import WinRate
from alignbench.rows import Prompt

LABELS = ("base", "sft", "dpo", "orpo", "rain")


@pytest.fixture(scope="module")
def given() -> Any:
    """The evidence that tests of metrics write down."""
    place = Path(__file__).parents[1] / "metrics" / "conftest.py"
    spec = importlib.util.spec_from_file_location("metrics_evidence", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["metrics_evidence"] = module
    spec.loader.exec_module(module)
    return module.Given


def labelled(folder: Path, made: Design, verdicts) -> Path:
    design.write(made, folder / layout.PEOPLE)
    with opened(folder / layout.PEOPLE) as journal:
        for verdict in verdicts:
            journal.append(verdict)
    return folder


def evidence(given: Any, made: Design, judges: dict[str, Judge]) -> Any:
    texts = {
        Cell(label, 0): [
            [next(one.text for one in item.answers if label in one.labels)] for item in made.items
        ]
        for label in LABELS
    }
    asked = [Prompt(id=f"p{n}", prompt=item.prompt) for n, item in enumerate(made.items)]
    return given(texts, judges=judges, asked=asked)


def test_win_rates_strengths_and_agreement_are_what_a_hand_calculation_gives(
    given, make_items, make_verdict, tmp_path: Path
):
    made = Design(tuple(make_items(20)))
    rng = Random(0)
    ranks = {
        (rater, item.id): [rng.randint(1, 5) for _ in LABELS]
        for rater in ("anna", "ben")
        for item in made.items
    }
    ranks = {key: [1 + sum(x < y for x in ones) for y in ones] for key, ones in ranks.items()}
    verdicts = [make_verdict(item, r, ranks[r, item.id]) for r in ("anna", "ben") for item in made.items]
    judges = people.of_run(labelled(tmp_path, made, verdicts))
    assert list(judges) == ["people", "people:anna", "people:ben"]
    assert str(tmp_path) not in str(judges["people"].config)  # a record names no folder of a machine
    found = summarise([WinRate(), BradleyTerry(), Agreement()], evidence(given, made, dict(judges)))
    wins = [
        np.mean([0.5 * (1 + np.sign(ranks[r, item.id][0] - ranks[r, item.id][2])) for r in ("anna", "ben")])
        for item in made.items
    ]
    measured = found.labels["dpo"]["win_rate"]
    assert measured.value == pytest.approx(np.mean(wins))
    assert measured.n == 20
    assert found.labels["dpo"]["elo"].value is not None
    same = [
        np.sign(ranks["anna", item.id][0] - ranks["anna", item.id][2])
        == np.sign(ranks["ben", item.id][0] - ranks["ben", item.id][2])
        for item in made.items
    ]
    assert found.labels["dpo"]["agreement@people:anna@people:ben"].value == pytest.approx(np.mean(same))


def test_answers_that_nobody_ranked_are_abstained_on_and_counted_nowhere(
    given, make_items, make_verdict, tmp_path: Path
):
    made = Design(tuple(make_items(6)))
    verdicts = [make_verdict(item, "anna", (5, 4, 3, 2, 1)) for item in made.items[:4]]
    (judge,) = people.of_run(labelled(tmp_path, made, verdicts)).values()
    found = summarise([WinRate(), Reward()], evidence(given, made, {"people": judge}))
    assert found.labels["rain"]["win_rate"].value == 1
    assert found.labels["rain"]["win_rate"].n == 4
    assert "reward" not in found.metrics  # nobody was asked for a score
    stranger = Prompt(id="p0", prompt=({"role": "user", "content": "Another question?"},))
    assert judge.judge_pairs([stranger], ["a"], ["a"])[0].preference is None


def test_the_same_text_is_a_tie_where_somebody_ranked_the_item(make_items, make_verdict, tmp_path: Path):
    made = Design(tuple(make_items(2)))
    verdicts = [make_verdict(made.items[0], "anna", (1, 2, 3, 4, 5))]
    (judge,) = people.of_run(labelled(tmp_path, made, verdicts)).values()
    asked = [Prompt(id=f"p{n}", prompt=item.prompt) for n, item in enumerate(made.items)]
    texts = [item.answers[0].text for item in made.items]
    assert [one.preference for one in judge.judge_pairs(asked, texts, texts)] == [0.5, None]


def test_comparing_the_other_way_round_gives_the_opposite(make_items, make_verdict, tmp_path: Path):
    made = Design(tuple(make_items(3)))
    verdicts = [
        make_verdict(item, rater, ranks)
        for item in made.items
        for rater, ranks in (("anna", (1, 2, 2, 4, 5)), ("ben", (3, 2, 1, 1, 5)))
    ]
    judge = people.of_run(labelled(tmp_path, made, verdicts))["people"]
    asked = [Prompt(id="p0", prompt=made.items[0].prompt)] * 10
    a, b = zip(*combinations([one.text for one in made.items[0].answers], 2), strict=True)
    forth, back = judge.compare(asked, a, b), judge.compare(asked, b, a)
    assert [x + y for x, y in zip(forth, back, strict=True)] == [1] * 10  # type: ignore[operator]
    assert forth[:2] == [0.5, 0.5]  # anna prefers the first, ben the other
    assert forth[2] == 0.5
    assert forth[3] == 1.0
    assert forth[4] == 0.25  # a tie for anna, the second for ben


def test_a_score_is_the_mean_over_raters_and_its_parts_the_share_without_a_flag(
    make_items, make_verdict, tmp_path: Path
):
    (item,) = make_items(1)
    none = ((), (), (), ())
    verdicts = [
        make_verdict(item, "anna", (1, 2, 3, 4, 5), scores=(7, 1, 1, 1, 1), flags=(("harmful",), *none)),
        make_verdict(item, "ben", (1, 2, 3, 4, 5), scores=(4, None, 1, 1, 1), flags=((), *none)),
    ]
    judge = people.of_run(labelled(tmp_path, Design((item,)), verdicts))["people"]
    asked = [Prompt(id="p0", prompt=item.prompt)] * 2
    first, second = judge.score(asked, [one.text for one in item.answers[:2]])
    assert (first.value, first.parts) == (5.5, {"helpful": 1, "honest": 1, "harmless": 0.5})
    assert first.by_rater["anna"] == Score(7, {"helpful": 1, "honest": 1, "harmless": 0})
    assert second.value == 1


def test_raters_below_a_bar_are_left_out_and_named(make_items, make_verdict, tmp_path: Path):
    known = design.item(({"role": "user", "content": "1 + 1?"},), ["2", "3"], known=(1, 2))
    made = Design((*make_items(4), known))
    verdicts = [
        make_verdict(item, rater, ranks[: len(item.answers)])
        for item in made.items
        for rater, ranks in (("anna", (1, 2, 3, 4, 5)), ("careless", (2, 1, 3, 4, 5)))
    ]
    folder = labelled(tmp_path, made, verdicts) / layout.PEOPLE
    judge = People(People.Config(folder=str(folder), checks=0.8))
    judge.read_from(folder)
    assert judge.quality["labels"]["left_out"] == ["careless: checks 0% is below 80%"]
    assert {verdict.rater for verdict in judge.verdicts} == {"anna"}


def test_a_folder_where_nobody_ranked_anything_is_no_judge(make_items, tmp_path: Path):
    folder = labelled(tmp_path, Design(tuple(make_items(2))), ())
    assert people.of_run(folder) == {}
    assert people.of_run(tmp_path / "elsewhere") == {}
    with pytest.raises(RecipeError, match="nobody has ranked"):
        People(People.Config(folder="people")).read_from(folder / layout.PEOPLE)


def test_many_raters_are_one_judge(make_items, make_verdict, tmp_path: Path):
    made = Design(tuple(make_items(2)))
    verdicts = [make_verdict(made.items[0], f"r{n}", (1, 2, 3, 4, 5)) for n in range(6)]
    assert list(people.of_run(labelled(tmp_path, made, verdicts))) == ["people"]


class Longest(Judge):
    """Prefers the longer answer."""

    def score(self, prompts, answers):
        return [Score(float(len(answer))) for answer in answers]


def test_a_model_judge_is_held_against_a_second_person_on_the_same_answers(
    given, make_items, make_verdict, tmp_path: Path
):
    made = Design(tuple(make_items(12)))
    verdicts = [
        make_verdict(item, rater, ranks)
        for item in made.items
        for rater, ranks in (("anna", (1, 2, 3, 4, 5)), ("ben", (1, 2, 3, 5, 4)))
    ]
    judges: dict[str, Judge] = {"longest": Longest(), **people.of_run(labelled(tmp_path, made, verdicts))}
    judge = judges["people"]
    assert isinstance(judge, People)
    known = evidence(given, made, judges)
    cells = list(combinations(known.cells, 2))
    compared = {("longest", a, b): known.compare("longest", a, b) for a, b in cells[::2]}
    compared |= {("longest", b, a): known.compare("longest", b, a) for a, b in cells[1::2]}
    assert as_a_rater(known, judge, {}).keys() == {"another rater"}
    found = as_a_rater(known, judge, compared)
    assert found["another rater"]["value"] == pytest.approx(0.9)  # one of ten pairs is the other way round
    assert found["another rater"]["n"] == 120
    # By length: base, orpo and rain over sft and dpo (4, 4, 4 against 3, 3), ties counting half.
    assert found["longest"]["value"] == pytest.approx(
        np.mean([_longest(r) for r in ((1, 2, 3, 4, 5), (1, 2, 3, 5, 4))])
    )


def _longest(ranks) -> float:
    by_length = pair_signs([-len(label) for label in LABELS])
    return float(np.mean([1 - abs(x - y) / 2 for x, y in zip(by_length, pair_signs(ranks), strict=True)]))


def test_raters_who_agree_by_chance_have_no_agreement_beyond_it(make_items, make_verdict):
    made, rng = Design(tuple(make_items(200))), Random(1)
    verdicts = [
        make_verdict(item, rater, rng.sample(range(1, 6), 5))
        for item in made.items
        for rater in ("a", "b", "c")
    ]
    found = quality(made, verdicts)
    low, high = found["agreement"]["ci95"]
    assert low < 0.5 < high
    assert abs(found["alpha"]) < 0.06


def test_a_share_of_one_has_an_interval_that_knows_how_few_items_there_were():
    found = share([(10, 10)] * 5)
    assert found is not None
    assert found["ci95"][0] < 0.5
    assert share([(10, 10)] * 500)["ci95"][0] > 0.99  # type: ignore[index]
    assert share([]) is None


SKILL, BIAS = 1.0, 0.6


def simulate(rng: np.random.Generator, made: Design, count: int, worth: np.ndarray, make_verdict):
    """Raters see an answer's worth with noise of their own, and like what stands higher on the page."""
    for n in range(count):
        rater = f"rater-{n:03d}"
        for item in made.items:
            shown = made.shown(rater, item, 0)
            seen = worth[made.items.index(item)] + rng.normal(0, SKILL, len(shown))
            for place, answer in enumerate(shown):
                seen[answer] += BIAS * (1 - place / 4)
            ranks = 1 + (-seen).argsort().argsort()
            yield make_verdict(item, rater, map(int, ranks), shown=tuple(shown))


def test_two_hundred_raters_of_known_skill_and_bias_are_recovered_within_the_intervals(
    make_items, make_verdict
):
    rng = np.random.default_rng(7)
    made = Design(tuple(make_items(20)))
    worth = np.array([[0.0, 0.5, 1.0, 1.0, 2.0]] * 20) + rng.normal(0, 0.3, (20, 5))
    found = quality(made, list(simulate(rng, made, 200, worth, make_verdict)))
    # What the same kind of rater does without end: taken from a simulation of its own.
    truth = quality(made, list(simulate(np.random.default_rng(8), made, 400, worth, make_verdict)))
    inside = {"agreement": 0, "first": 0}
    for one in found["raters"].values():
        for name in inside:
            mean = float(np.mean([other[name]["value"] for other in truth["raters"].values()]))
            inside[name] += one[name]["ci95"][0] <= mean <= one[name]["ci95"][1]
    assert 180 <= inside["agreement"] <= 200
    assert 180 <= inside["first"] <= 200
    assert found["agreement"]["value"] == pytest.approx(truth["agreement"]["value"], abs=0.01)


def crossed(rng, raters: int, prompts: int, of_rater: float, of_prompt: float, seen: float = 1.0):
    r, p = rng.normal(0, of_rater, raters), rng.normal(0, of_prompt, prompts)
    y = p[:, None] + r[None, :] + rng.normal(0, 1, (prompts, raters))
    there = rng.random((prompts, raters)) < seen
    there[np.arange(prompts), rng.integers(0, raters, prompts)] |= ~there.any(axis=1)
    return {f"p{i}": {f"r{j}": float(y[i, j]) for j in range(raters) if there[i, j]} for i in range(prompts)}


def interval(values, *, fixed: bool = False) -> tuple[float, float]:
    """The interval of these policies: with raters, or as it is where they are `fixed`."""
    table = np.array([[np.mean(list(of.values())) for of in values.values()]])
    one = stats.policies(table)
    return (one if fixed else with_raters(one, raters_of([values]))).interval()


@pytest.mark.parametrize("count", [3, 5, 20])
@pytest.mark.parametrize("seen", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("of_rater", "of_prompt"), [(0, 1), (0.5, 0.5), (1, 0.3)])
def test_intervals_with_raters_hold_the_truth_as_often_as_they_say(count, seen, of_rater, of_prompt):
    rng, hits, n = np.random.default_rng([count, int(10 * seen), int(10 * of_rater)]), 0, 400
    for _ in range(n):
        low, high = interval(crossed(rng, count, 25, of_rater, of_prompt, seen))
        hits += low <= 0 <= high
    assert 0.92 <= hits / n <= 1.0


def test_raters_who_differ_make_the_interval_wider_than_prompts_alone_do():
    values = crossed(np.random.default_rng(3), 4, 200, of_rater=1.0, of_prompt=0.1)
    (low, high), (fixed_low, fixed_high) = interval(values), interval(values, fixed=True)
    assert high - low > 5 * (fixed_high - fixed_low)
    per_rater = np.array(
        [np.mean([of[rater] for of in values.values()]) for rater in next(iter(values.values()))]
    )
    # Four raters on the same prompts: little more than the t interval of their means, t(3) = 3.18.
    assert high - low < 1.1 * 2 * 3.18 * per_rater.std(ddof=1) / 4**0.5


def test_raters_who_each_saw_prompts_of_their_own_are_not_counted_twice():
    """The prompts' spread holds what raters vary where every prompt has a rater of its own."""
    rng = np.random.default_rng(0)
    values = {f"p{n}": {f"r{n}": float(rng.normal())} for n in range(40)}
    found = raters_of([values])
    assert found is not None
    assert found.added == pytest.approx(0, abs=1e-12)


def test_two_raters_speak_of_themselves_alone():
    values = crossed(np.random.default_rng(0), 2, 20, 1, 1)
    found = raters_of([values])
    assert found is not None
    assert not found.vary
    assert interval(values) == interval(values, fixed=True)
    assert raters_of([{}]) is None


def test_win_rates_strengths_and_scores_have_raters_in_their_intervals(
    given, make_items, make_verdict, tmp_path: Path
):
    """Of four raters each likes a label of their own; no prompt differs from another."""
    made = Design(tuple(make_items(20)))
    order = {"a": (2, 1, 3, 4, 5), "b": (1, 2, 3, 5, 4), "c": (3, 2, 1, 4, 5), "d": (5, 1, 2, 3, 4)}
    verdicts = [
        make_verdict(item, rater, ranks, scores=tuple(8 - rank for rank in ranks))
        for item in made.items
        for rater, ranks in order.items()
    ]
    judges = people.of_run(labelled(tmp_path, made, verdicts))
    metrics = [WinRate(), BradleyTerry(), Reward()]
    found = summarise(metrics, evidence(given, made, dict(judges)))
    for column in ("win_rate", "elo", "reward"):
        together, alone = found.labels["sft"][column], found.labels["sft"][f"{column}@people:a"]
        assert together.raters == 4
        assert together.ci95[1] - together.ci95[0] > 0.2  # type: ignore[index]
        assert alone.raters == 1 or alone.missing
    (pair,) = [
        one
        for one in found.comparisons
        if (one.a, one.b, one.metric) == ("base", "sft", "win_rate") and one.estimand == "policies"
    ]
    assert pair.raters == 4
    assert pair.verdict == "not distinguishable"  # three of four prefer sft, on every prompt
    assert pair.difference == pytest.approx(-0.25)
