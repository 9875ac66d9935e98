"""People's rankings as a judge among others: win rates, agreement, and who is left out."""

from __future__ import annotations

import importlib.util
import sys
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from alignbench import layout, stats
from alignbench.api.judge import Judge, Score
from alignbench.api.metric import Cell
from alignbench.errors import RecipeError
from alignbench.evaluation.comparison import summarise
from alignbench.evaluation.raters import raters_of, with_raters
from alignbench.judges import people
from alignbench.judges.people import People
from alignbench.label import design
from alignbench.label.design import Design
from alignbench.label.journal import opened
from alignbench.label.quality import pair_signs, quality, share
from alignbench.metrics.agreement import Agreement
from alignbench.metrics.bradley_terry import BradleyTerry
from alignbench.metrics.reward import Reward
from alignbench.metrics.win_rate import WinRate
from alignbench.rows import Prompt
from alignbench.worker.finished.second_person import as_a_rater

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


def labelled(folder: Path, made: Design, annotations) -> Path:
    design.write(made, folder / layout.PEOPLE)
    with opened(folder / layout.PEOPLE) as journal:
        for annotation in annotations:
            journal.append(annotation)
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
    given, make_items, make_annotation, tmp_path: Path
):
    made = Design(tuple(make_items(20)))
    rng = Random(0)
    ranks = {
        (rater, item.id): [rng.randint(1, 5) for _ in LABELS]
        for rater in ("anna", "ben")
        for item in made.items
    }
    ranks = {key: [1 + sum(x < y for x in ones) for y in ones] for key, ones in ranks.items()}
    annotations = [
        make_annotation(item, r, ranks[r, item.id]) for r in ("anna", "ben") for item in made.items
    ]
    judges = people.of_run(labelled(tmp_path, made, annotations))
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
    given, make_items, make_annotation, tmp_path: Path
):
    made = Design(tuple(make_items(6)))
    annotations = [make_annotation(item, "anna", (5, 4, 3, 2, 1)) for item in made.items[:4]]
    (judge,) = people.of_run(labelled(tmp_path, made, annotations)).values()
    found = summarise([WinRate(), Reward()], evidence(given, made, {"people": judge}))
    assert found.labels["rain"]["win_rate"].value == 1
    assert found.labels["rain"]["win_rate"].n == 4
    assert "reward" not in found.metrics  # nobody was asked for a score
    stranger = Prompt(id="p0", prompt=({"role": "user", "content": "Another question?"},))
    assert judge.judge_pairs([stranger], ["a"], ["a"])[0].preference is None


def test_the_same_text_is_a_tie_where_somebody_ranked_the_item(make_items, make_annotation, tmp_path: Path):
    made = Design(tuple(make_items(2)))
    annotations = [make_annotation(made.items[0], "anna", (1, 2, 3, 4, 5))]
    (judge,) = people.of_run(labelled(tmp_path, made, annotations)).values()
    asked = [Prompt(id=f"p{n}", prompt=item.prompt) for n, item in enumerate(made.items)]
    texts = [item.answers[0].text for item in made.items]
    assert [one.preference for one in judge.judge_pairs(asked, texts, texts)] == [0.5, None]


def test_comparing_the_other_way_round_gives_the_opposite(make_items, make_annotation, tmp_path: Path):
    made = Design(tuple(make_items(3)))
    annotations = [
        make_annotation(item, rater, ranks)
        for item in made.items
        for rater, ranks in (("anna", (1, 2, 2, 4, 5)), ("ben", (3, 2, 1, 1, 5)))
    ]
    judge = people.of_run(labelled(tmp_path, made, annotations))["people"]
    asked = [Prompt(id="p0", prompt=made.items[0].prompt)] * 10
    a, b = zip(*combinations([one.text for one in made.items[0].answers], 2), strict=True)
    forth, back = judge.compare(asked, a, b), judge.compare(asked, b, a)
    assert [x + y for x, y in zip(forth, back, strict=True)] == [1] * 10  # type: ignore[operator]
    assert forth[:2] == [0.5, 0.5]  # anna prefers the first, ben the other
    assert forth[2] == 0.5
    assert forth[3] == 1.0
    assert forth[4] == 0.25  # a tie for anna, the second for ben


def test_a_score_is_the_mean_over_raters_and_its_parts_the_share_without_a_flag(
    make_items, make_annotation, tmp_path: Path
):
    (item,) = make_items(1)
    none = ((), (), (), ())
    annotations = [
        make_annotation(item, "anna", (1, 2, 3, 4, 5), scores=(7, 1, 1, 1, 1), flags=(("harmful",), *none)),
        make_annotation(item, "ben", (1, 2, 3, 4, 5), scores=(4, None, 1, 1, 1), flags=((), *none)),
    ]
    judge = people.of_run(labelled(tmp_path, Design((item,)), annotations))["people"]
    asked = [Prompt(id="p0", prompt=item.prompt)] * 2
    first, second = judge.score(asked, [one.text for one in item.answers[:2]])
    assert (first.value, first.parts) == (5.5, {"helpful": 1, "honest": 1, "harmless": 0.5})
    assert first.by_rater["anna"] == Score(7, {"helpful": 1, "honest": 1, "harmless": 0})
    assert second.value == 1


def test_raters_below_a_bar_are_left_out_and_named(make_items, make_annotation, tmp_path: Path):
    known = design.item(({"role": "user", "content": "1 + 1?"},), ["2", "3"], known=(1, 2))
    made = Design((*make_items(4), known))
    annotations = [
        make_annotation(item, rater, ranks[: len(item.answers)])
        for item in made.items
        for rater, ranks in (("anna", (1, 2, 3, 4, 5)), ("careless", (2, 1, 3, 4, 5)))
    ]
    folder = labelled(tmp_path, made, annotations) / layout.PEOPLE
    judge = People(People.Config(folder=str(folder), checks=0.8))
    judge.read_from(folder)
    assert judge.quality["labels"]["left_out"] == ["careless: checks 0% is below 80%"]
    assert {annotation.rater for annotation in judge.annotations} == {"anna"}


def test_a_folder_where_nobody_ranked_anything_is_no_judge(make_items, tmp_path: Path):
    folder = labelled(tmp_path, Design(tuple(make_items(2))), ())
    assert people.of_run(folder) == {}
    assert people.of_run(tmp_path / "elsewhere") == {}
    with pytest.raises(RecipeError, match="nobody has ranked"):
        People(People.Config(folder="people")).read_from(folder / layout.PEOPLE)


def test_many_raters_are_one_judge(make_items, make_annotation, tmp_path: Path):
    made = Design(tuple(make_items(2)))
    annotations = [make_annotation(made.items[0], f"r{n}", (1, 2, 3, 4, 5)) for n in range(6)]
    assert list(people.of_run(labelled(tmp_path, made, annotations))) == ["people"]


class Longest(Judge):
    """Prefers the longer answer."""

    def score(self, prompts, answers):
        return [Score(float(len(answer))) for answer in answers]


def test_a_model_judge_is_held_against_a_second_person_on_the_same_answers(
    given, make_items, make_annotation, tmp_path: Path
):
    made = Design(tuple(make_items(12)))
    annotations = [
        make_annotation(item, rater, ranks)
        for item in made.items
        for rater, ranks in (("anna", (1, 2, 3, 4, 5)), ("ben", (1, 2, 3, 5, 4)))
    ]
    judges: dict[str, Judge] = {"longest": Longest(), **people.of_run(labelled(tmp_path, made, annotations))}
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


def test_raters_who_agree_by_chance_have_no_agreement_beyond_it(make_items, make_annotation):
    made, rng = Design(tuple(make_items(200))), Random(1)
    annotations = [
        make_annotation(item, rater, rng.sample(range(1, 6), 5))
        for item in made.items
        for rater in ("a", "b", "c")
    ]
    found = quality(made, annotations)
    low, high = found["agreement"]["ci95"]
    assert low < 0.5 < high
    assert abs(found["alpha"]) < 0.06


def test_a_share_of_one_has_an_interval_that_knows_how_few_items_there_were():
    found = share([(10, 10)] * 5)
    assert found is not None
    assert found["ci95"][0] < 0.5
    assert share([(10, 10)] * 500)["ci95"][0] > 0.99  # type: ignore[index]
    assert share([]) is None


MEANS = np.array([0.0, 0.4, 0.8, 0.8, 1.8])
"""How good the answers of each label are on average."""
OF_ITEMS = 0.4
"""The standard deviation of one item's answers around that."""
KNOWN = np.array([2.0, 1.5, 1.0, 0.5, 0.0])
"""How good the answers of items with a known order are."""
POPULATION = 200


def population(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Raters of different skill and bias: the noise with which each sees an answer, and how much each likes the
    first place of the page above the last."""
    return np.exp(rng.uniform(np.log(0.25), np.log(2.5), POPULATION)), rng.uniform(-0.5, 1.5, POPULATION)


def simulate(rng: np.random.Generator, made: Design, noise: np.ndarray, bias: np.ndarray, make_annotation):
    """Each rater ranks every item once, and those without a known order twice."""
    worth = {
        item.id: KNOWN if item.known else MEANS + rng.normal(0, OF_ITEMS, len(MEANS)) for item in made.items
    }
    for n in range(POPULATION):
        rater = f"rater-{n:03d}"
        for item in made.items:
            for round in range(1 if item.known else 2):
                shown = made.shown(rater, item, round)
                seen = worth[item.id] + rng.normal(0, noise[n], len(shown))
                for place, answer in enumerate(shown):
                    seen[answer] += bias[n] * (1 - place / 4)
                ranks = 1 + (-seen).argsort().argsort()
                yield make_annotation(item, rater, map(int, ranks), round, shown=tuple(shown))


def prefers(better: np.ndarray, noise: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """How probably each rater prefers one answer to another, [D, R], by how much better it is, [D], where the two
    stand anywhere on the page: two normal errors, and every two of five places equally often."""
    gaps = np.array([(q - p) / 4 for p in range(5) for q in range(5) if p != q])
    seen = better[:, None, None] + bias[None, :, None] * gaps
    return ndtr(seen / (2**0.5 * noise[None, :, None])).mean(-1)


def truths(noise: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """What each rater does in the long run, [R]: integrals of the model, without items, pages or annotations."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    found = {name: np.zeros(POPULATION) for name in ("agreement", "consistency", "checks", "first")}
    pairs = list(combinations(range(len(MEANS)), 2))
    for i, j in pairs:
        better = MEANS[i] - MEANS[j] + 2**0.5 * OF_ITEMS * points
        one = prefers(better, noise, bias)
        others = (one.sum(axis=1, keepdims=True) - one) / (POPULATION - 1)
        found["agreement"] += weights @ (one * others + (1 - one) * (1 - others))
        found["consistency"] += weights @ (one**2 + (1 - one) ** 2)
        found["checks"] += prefers(np.array([KNOWN[i] - KNOWN[j]]), noise, bias)[0]
        for p, q in combinations(range(5), 2):
            for sign in (1, -1):
                seen = sign * better[:, None] + bias * (q - p) / 4
                found["first"] += weights @ ndtr(seen / (2**0.5 * noise)) / 20
    return {name: values / len(pairs) for name, values in found.items()}


@pytest.fixture(scope="module")
def two_hundred(make_items, make_annotation, tmp_path_factory: pytest.TempPathFactory):
    """Two hundred raters of known skill and bias who ranked forty items and eight with a known order."""
    rng = np.random.default_rng(7)
    noise, bias = population(rng)
    known = [
        design.item(
            ({"role": "user", "content": f"Known {n}?"},), [f"{n} {x}" for x in "abcde"], known=range(1, 6)
        )
        for n in range(8)
    ]
    made = Design((*make_items(40), *known))
    annotations = list(simulate(rng, made, noise, bias, make_annotation))
    folder = labelled(tmp_path_factory.mktemp("two-hundred"), made, annotations)
    return made, annotations, folder, noise, bias


@pytest.mark.parametrize("name", ["agreement", "consistency", "checks", "first"])
def test_the_skill_and_bias_of_two_hundred_raters_lie_within_their_intervals(two_hundred, name: str):
    made, annotations, _, noise, bias = two_hundred
    found, true = quality(made, annotations)["raters"], truths(noise, bias)[name]
    inside = sum(
        one[name]["ci95"][0] <= true[n] <= one[name]["ci95"][1]
        for n, one in enumerate(found[rater] for rater in sorted(found))
    )
    assert 180 <= inside <= 199  # 95 % of 200, and no interval that holds everything
    values = [found[rater][name]["value"] for rater in sorted(found)]
    assert np.corrcoef(values, true)[0, 1] > 0.85


def test_two_hundred_raters_agree_as_often_as_their_skills_say(two_hundred):
    made, annotations, _, noise, bias = two_hundred
    found = quality(made, annotations)["agreement"]
    low, high = found["ci95"]
    true = truths(noise, bias)["agreement"].mean()
    assert low <= true <= high
    assert high - low < 0.06


def test_what_two_hundred_raters_prefer_lies_within_the_intervals_of_the_report(given, two_hundred):
    made, _, folder, noise, bias = two_hundred
    judges = people.of_run(folder)
    assert list(judges) == ["people"]
    asked = Design(tuple(item for item in made.items if not item.known))
    found = summarise([WinRate(), BradleyTerry()], evidence(given, asked, dict(judges)))
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    wins = np.full((5, 5), 0.5)
    for i, j in combinations(range(5), 2):
        by_gap = prefers(MEANS[i] - MEANS[j] + 2**0.5 * OF_ITEMS * points, noise, bias).mean(axis=1)
        wins[i, j] = weights @ by_gap / weights.sum()
        wins[j, i] = 1 - wins[i, j]
    true = {(a, b): wins[i, j] - 0.5 for (i, a), (j, b) in combinations(enumerate(LABELS), 2)}
    compared = [one for one in found.comparisons if one.metric == "win_rate" and one.estimand == "policies"]
    assert {(one.a, one.b) for one in compared} == set(true)
    held = [one.ci95[0] <= true[one.a, one.b] <= one.ci95[1] for one in compared]
    strength = bradley_terry(wins)
    held += [
        one["elo"].ci95[0] <= strength[place] <= one["elo"].ci95[1]
        for place, label in enumerate(LABELS[1:], 1)
        for one in [found.labels[label]]
    ]
    assert sum(held) >= 13  # of fourteen
    assert all(one.raters == POPULATION for one in compared)


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Return strengths in Elo points, the first at 0, by Hunter's (2004) plain iteration, equation 3."""
    worth = np.ones(len(wins))
    for _ in range(2000):
        met = (1 - np.eye(len(wins))) / (worth[:, None] + worth[None, :])
        worth = (wins.sum(axis=1) - 0.5) / met.sum(axis=1)
        worth /= worth[0]
    return 400 * np.log10(worth)


def test_bars_leave_out_the_raters_whose_skill_is_below_them(two_hundred):
    _, _, folder, noise, bias = two_hundred
    judge = People(People.Config(folder=str(folder / layout.PEOPLE), checks=0.75))
    judge.read_from(folder / layout.PEOPLE)
    kept, true = {one.rater for one in judge.annotations}, truths(noise, bias)["checks"]
    assert 20 < len(kept) < 180
    assert {f"rater-{n:03d}" for n in np.flatnonzero(true > 0.85)} <= kept
    assert not {f"rater-{n:03d}" for n in np.flatnonzero(true < 0.65)} & kept
    assert len(judge.quality["labels"]["left_out"]) == POPULATION - len(kept)


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
    given, make_items, make_annotation, tmp_path: Path
):
    """Of four raters each likes a label of their own; no prompt differs from another."""
    made = Design(tuple(make_items(20)))
    order = {"a": (2, 1, 3, 4, 5), "b": (1, 2, 3, 5, 4), "c": (3, 2, 1, 4, 5), "d": (5, 1, 2, 3, 4)}
    annotations = [
        make_annotation(item, rater, ranks, scores=tuple(8 - rank for rank in ranks))
        for item in made.items
        for rater, ranks in order.items()
    ]
    judges = people.of_run(labelled(tmp_path, made, annotations))
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
    assert pair.verdict == "not told apart"  # three of four prefer sft, on every prompt
    assert pair.difference == pytest.approx(-0.25)
