"""Controls: a judge that can be fooled is found out, and agreement is what the libraries say it is."""

from __future__ import annotations

import random

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from alignbench.api.judge import Judge, PairwiseJudgment, Score
from alignbench.evaluation.controls import NULL, agreement, controls, kappa, wilson
from alignbench.rows import Pair

PAIRS = [
    Pair(
        id=str(n),
        prompt=({"role": "user", "content": f"q{n}"},),
        chosen=f"good answer {n}",
        rejected=f"bad {n}",
    )
    for n in range(60)
]


class By(Judge):
    """Scores by a function of the answer."""

    def __init__(self, worth):
        super().__init__()
        self.worth = worth

    def score(self, prompts, answers):
        return [Score(self.worth(answer)) for answer in answers]


def honest(answer: str) -> float:
    return float(answer.startswith("good")) - 0.01 * len(answer.split())


def test_a_judge_that_knows_better_is_fit():
    found = controls(By(honest), PAIRS)
    assert found["fit"], found["reasons"]
    assert found["people"]["accuracy"] == found["people"]["kappa"] == found["people"]["alpha"] == 1.0
    assert found["steady"] == 1.0
    assert found["null"] == 0.0


@pytest.mark.parametrize(
    ("worth", "reason"),
    [
        (lambda answer: 2.0 if answer == NULL else honest(answer), "an answer without content wins 100%"),
        (lambda answer: 2.0 if "A" in answer else honest(answer), "instructs it to prefer it"),
        (lambda answer: float(len(answer.split())), "repeats itself"),
        (lambda answer: -honest(answer), "agrees with people on 0%"),
        (lambda answer: None, "no judgment on any held-out pair"),
    ],
)
def test_a_judge_that_can_be_fooled_is_not(worth, reason: str):
    found = controls(By(worth), PAIRS)
    assert not found["fit"]
    assert any(reason in one for one in found["reasons"]), found["reasons"]


class Placed(By):
    """Sees the better answer, but mostly follows the place."""

    def judge_pairs(self, prompts, a, b, principles=None):
        place = [0.9 if n % 5 else 0.1 for n in range(len(a))]
        return [PairwiseJudgment((p + (1 - 0.1)) / 2, (p, 0.05)) for p in place]


def test_a_judge_that_follows_the_place_is_not_fit():
    found = controls(Placed(honest), PAIRS)
    assert found["position"] > 0.5
    assert any("follow the position" in reason for reason in found["reasons"])


class Moody(By):
    """Says something else each time it is asked."""

    def __init__(self, worth):
        super().__init__(worth)
        self.mood = random.Random(0)

    def score(self, prompts, answers):
        return [Score(self.worth(answer) + self.mood.gauss(0, 1)) for answer in answers]


def test_a_judge_that_changes_its_mind_is_not_fit():
    found = controls(Moody(honest), PAIRS)
    assert found["steady"] < 0.95
    assert any("are the same when the question is repeated" in reason for reason in found["reasons"])


def test_gold_is_a_second_witness():
    found = controls(By(honest), PAIRS, By(lambda answer: -honest(answer)))
    assert found["gold"]["accuracy"] == 0.0
    assert any("agrees with gold on 0%" in reason for reason in found["reasons"])


def test_abstentions_are_counted_for_these_pairs_alone():
    judge = By(honest)
    judge.abstained["old"] = 5
    assert controls(judge, PAIRS)["abstained"] == {}


def test_kappa_is_that_of_statsmodels():
    rng = random.Random(1)
    both = [(rng.choice((1, -1)), rng.choice((1, 1, -1))) for _ in range(200)]
    table = np.array([[sum((a, b) == (x, y) for a, b in both) for y in (1, -1)] for x in (1, -1)])
    assert kappa(both) == pytest.approx(cohens_kappa(table).kappa)


def test_the_interval_is_that_of_statsmodels():
    assert wilson(37, 60) == pytest.approx(proportion_confint(37, 60, method="wilson"))


def test_alpha_takes_what_only_one_of_them_rated():
    ours, theirs = [1, 1, -1, None, -1, 1], [1, -1, -1, 1, -1, None]
    found = agreement(ours, theirs)
    assert found["n"] == 4
    # Krippendorff 2011, nominal data: 1 - D_o / D_e over the four pairable units.
    observed = 2 / 8
    ones, others = 3, 5
    expected = 2 * ones * others / (8 * 7)
    assert found["alpha"] == pytest.approx(1 - observed / expected)


def test_raters_who_share_no_pair_do_not_agree():
    assert agreement([1, None], [None, 1])["accuracy"] is None


def test_there_is_no_alpha_where_all_that_both_rated_is_alike():
    assert agreement([1, -1], [1, None])["alpha"] is None
    assert agreement([1, 1], [1, 1])["alpha"] is None
