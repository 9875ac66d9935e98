"""Length-controlled wins, strengths and agreement of judges, from judgments that are written down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from alignbench.api.judge import Judge, Score
from alignbench.api.metric import Cell, Measure
from alignbench.evaluation.comparison import summarise
from alignbench.metrics.agreement import Agreement
from alignbench.metrics.bradley_terry import ELO, BradleyTerry
from alignbench.metrics.length_controlled import NAME, LengthControlled
from alignbench.metrics.win_rate import WinRate

BASE, DPO, SFT = Cell("base", 0), Cell("dpo", 0), Cell("sft", 0)


@dataclass
class Longest(Judge):
    """Prefers the longer answer, three times out of four."""

    def __post_init__(self):
        super().__init__()

    def score(self, prompts, answers):
        return [Score(float(len(answer))) for answer in answers]

    def compare(self, prompts, a, b):
        return [0.5 + 0.25 * np.sign(len(one) - len(two)) for one, two in zip(a, b, strict=True)]


def value(found, metric: str, cell: Cell):
    (one,) = [m for m in found if (m.metric, m.label, m.seed) == (metric, *cell)]
    return np.mean(list(one.values.values())) if isinstance(one, Measure) else one.reason


def test_answers_of_equal_length_leave_the_win_rate_as_it_is(given, marks):
    evidence = given(
        {BASE: [["1 "], ["5 "], ["3 "]], DPO: [["2 "], ["2 "], ["3 "]], SFT: [["9 "], ["9 "], ["2 "]]},
        {"gold": marks()},
    )
    plain, controlled = WinRate().measure(evidence), LengthControlled().measure(evidence)
    for cell in (DPO, SFT):
        assert value(controlled, NAME, cell) == pytest.approx(value(plain, "win_rate", cell), abs=1e-12)
    for metric in WinRate(), LengthControlled():
        (found,) = metric.differences(evidence, [], "dpo", "sft")
        assert sum(found.values.values()) / 3 == pytest.approx((0 + 0 + 1) / 3 - 0.5)


def test_a_judge_of_length_finds_nothing_once_lengths_are_equal(given):
    rng = np.random.default_rng(0)
    texts = {
        cell: [["x" * int(n)] for n in rng.integers(1, top, 200)] for cell, top in ((BASE, 20), (DPO, 40))
    }
    evidence = given(texts, {"longest": Longest()})
    assert value(WinRate().measure(evidence), "win_rate", DPO) > 0.6
    # The judge looks at which is longer and not at how much: the log ratio explains most of it, not all.
    assert value(LengthControlled().measure(evidence), NAME, DPO) == pytest.approx(0.5, abs=0.06)


def test_where_length_alone_decides_the_cell_and_the_comparison_say_so(given, marks):
    evidence = given(
        {BASE: [["1"], ["2"], ["11"]], DPO: [["1.0"], ["2.00"], ["11.000"]], SFT: [["1.5"], ["0.1"], ["2"]]},
        {"gold": Longest()},
    )
    evidence.judges["gold"].compare = lambda prompts, a, b: [
        float(len(x) > len(y)) if len(x) != len(y) else 0.5 for x, y in zip(a, b, strict=True)
    ]
    summary = summarise([LengthControlled()], evidence)
    missing = [one.missing for one in summary.comparisons if one.missing]
    assert "length alone decides who wins" in missing


def test_strengths_by_hand_and_their_differences(given, marks):
    wins = {BASE: "1", DPO: "2"}
    texts = {cell: [[mark]] * 3 + [["2" if cell == BASE else "1"]] for cell, mark in wins.items()}
    evidence = given(texts, {"gold": marks()})
    found = BradleyTerry().measure(evidence)
    assert value(found, "elo", BASE) == 0
    assert value(found, "elo", DPO) == pytest.approx(ELO * np.log(3))
    (difference,) = BradleyTerry().differences(evidence, found, "dpo", "base")
    assert np.mean(list(difference.values.values())) == pytest.approx(ELO * np.log(3))


def test_a_label_that_always_wins_has_no_strength_and_says_why(given, marks):
    evidence = given({BASE: [["1"], ["1"]], DPO: [["2"], ["2"]]}, {"gold": marks()})
    assert "no bound" in value(BradleyTerry().measure(evidence), "elo", DPO)


def test_judges_agree_as_counted_by_hand(given, marks):
    texts = {BASE: [["1"], ["5"], ["11"], ["2"]], DPO: [["2"], ["1.25"], ["3"], ["2"]]}
    evidence = given(texts, {"gold": marks(), "longest": Longest()})
    found = Agreement().measure(evidence)
    # gold: better, worse, worse, equal; length: equal, better, worse, equal.
    assert value(found, "agreement", DPO) == 0.5
    chance = 0.25 * 0.25 + 0.5 * 0.25 + 0.25 * 0.5
    assert value(found, "agreement.kappa", DPO) == pytest.approx(1 - 0.5 / (1 - chance), abs=1e-12)
    assert value(found, "agreement", BASE) == "base is the reference of the comparison"


def test_every_two_of_three_judges_agree_as_scikit_learn_counts(given, marks):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    texts = {cell: [[f"{mark}"] for mark in rng.choice([1, 2, 2.5, 11], 40)] for cell in (BASE, DPO, SFT)}
    turned = Longest()
    turned.compare = lambda prompts, a, b: Longest().compare(prompts, b, a)
    summary = summarise(
        [Agreement()], given(texts, {"gold": marks(), "longest": Longest(), "shortest": turned})
    )
    pairs = {"@longest": ("gold", "longest"), "@shortest": ("gold", "shortest")}
    pairs |= {"@longest@shortest": ("longest", "shortest")}
    assert set(summary.metrics) == {
        f"{name}{pair}" for name in ("agreement", "agreement.kappa") for pair in pairs
    }
    ours, theirs = ([text for (text,) in texts[cell]] for cell in (DPO, BASE))
    judgments = {
        "gold": [int(np.sign(float(a) - float(b))) for a, b in zip(ours, theirs, strict=True)],
        "longest": [int(np.sign(len(a) - len(b))) for a, b in zip(ours, theirs, strict=True)],
        "shortest": [int(np.sign(len(b) - len(a))) for a, b in zip(ours, theirs, strict=True)],
    }
    for pair, (one, other) in pairs.items():
        measured = summary.cells[DPO]
        same = metrics.accuracy_score(judgments[one], judgments[other])
        beyond = metrics.cohen_kappa_score(judgments[one], judgments[other])
        assert measured[f"agreement{pair}"].value == pytest.approx(same, abs=1e-9)
        assert measured[f"agreement.kappa{pair}"].value == pytest.approx(beyond, abs=1e-9)
    assert "shortest and longest" in summary.metrics["agreement@longest@shortest"].description


def test_one_judge_has_nobody_to_agree_with(given, marks):
    found = Agreement().measure(given({BASE: [["1"]], DPO: [["1"]]}, {"gold": marks()}))
    assert {one.reason for one in found} == {"the recipe names fewer than two judges"}


class TwoPeople(Longest):
    """One prefers the longer answer, the other the one with the larger number."""

    def by_rater(self, prompts, a, b):
        def side(x, y):
            return 0.5 if x == y else float(x > y)

        return [
            {"ann": side(len(x), len(y)), "bob": side(float(x), float(y))} for x, y in zip(a, b, strict=True)
        ]


def test_a_judge_is_compared_with_a_second_person_as_counted_by_hand(given, marks):
    """The judge is bob's equal: it agrees with him always, with ann as often as he does."""
    texts = {BASE: [["1"], ["5"], ["11"], ["2"], ["7"]], DPO: [["2"], ["1.25"], ["3"], ["2"], ["9.5"]]}
    judges = {"gold": marks(), "two": TwoPeople()}
    found = Agreement().measure(given(texts, judges))
    (measure,) = [one for one in found if one.metric == "agreement.person"]
    # Ann and bob: a tie of ann's, opposite, alike, equal texts, alike.
    assert measure.values == pytest.approx({"p0": 0.75 - 0.5, "p1": 0.5 - 0, "p2": 0.0, "p4": 0.0})
    assert (measure.label, measure.judge) == (DPO.label, "gold")
    assert "agreement.person" in summarise([Agreement()], given(texts, judges)).metrics


def test_judges_who_are_one_instrument_are_nobodys_second_person(given, marks):
    found = Agreement().measure(given({BASE: [["1"]], DPO: [["2"]]}, {"gold": marks(), "longest": Longest()}))
    assert {one.metric for one in found if one.metric.startswith("agreement.person")} == set()
