"""The sandbox's annotators as a judge: people who agree with each other about as often as people do."""

from __future__ import annotations

from statistics import fmean

import pytest

from alignbench import sandbox
from alignbench.errors import DataError
from alignbench.judges.annotators import Annotators
from alignbench.judges.gold import Gold
from alignbench.metrics.agreement import alike
from alignbench.rows import Prompt


@pytest.fixture(scope="module")
def pairs():
    """The first two answers of each of many rows."""
    rows = list(sandbox.rows("test", 600))
    prompts = [Prompt(id=row["id"], prompt=tuple(row["prompt"])) for row in rows]
    return prompts, [row["answers"][0] for row in rows], [row["answers"][1] for row in rows]


def test_two_different_annotators_rank_each_pair_and_the_judgment_is_their_mean(pairs):
    judge = Annotators()
    for ratings, judgment in zip(judge.by_rater(*pairs), judge.judge_pairs(*pairs), strict=True):
        assert len(ratings) == 2
        assert ratings.keys() <= sandbox.ANNOTATORS.keys()
        assert judgment.preference == fmean(ratings.values())


def test_they_agree_with_each_other_and_with_gold_as_the_annotators_of_the_rows_do(pairs):
    ratings = [list(one.values()) for one in Annotators().by_rater(*pairs)]
    each_other = fmean(alike(*one) for one in ratings)
    gold = Gold().compare(*pairs)
    with_gold = fmean(alike(one, truth) for ones, truth in zip(ratings, gold, strict=True) for one in ones)
    assert 0.6 < each_other < 0.8
    assert each_other < with_gold + 0.05
    assert with_gold < 0.9


def test_a_judgment_depends_on_nothing_but_the_pair_and_exchanging_the_answers_inverts_it(pairs):
    prompts, a, b = pairs
    judge = Annotators()
    together = judge.by_rater(*pairs)
    assert judge.by_rater(prompts[5:6], a[5:6], b[5:6]) == [together[5]]
    turned = judge.by_rater(prompts, b, a)
    assert [{who: 1 - one for who, one in of.items()} for of in together] == turned


def test_another_seed_asks_other_annotators(pairs):
    other = Annotators(Annotators.Config(seed=1))
    assert other.by_rater(*pairs) != Annotators().by_rater(*pairs)


def test_they_cannot_rank_answers_to_what_is_not_of_the_sandbox():
    foreign = [Prompt(id="p", prompt=({"role": "user", "content": "What is RLHF?"},))]
    with pytest.raises(DataError, match="the annotators judge reads only the sandbox's own prompts"):
        Annotators().by_rater(foreign, ["a"], ["b"])
    with pytest.raises(DataError, match="the annotators judge"):
        Annotators.check_prompts(Annotators.Config(), foreign)
