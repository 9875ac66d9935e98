"""What every judge promises: scores, comparisons derived from them, and abstentions that stay visible."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alignbench.api.judge import Judge, PairwiseJudgment, Score
from alignbench.rows import Prompt

PROMPTS = [Prompt(id=str(i), prompt=({"role": "user", "content": "say something"},)) for i in range(4)]


class Longer(Judge):
    """Prefers the longer answer; abstains from an empty one."""

    def score(self, prompts, answers):
        return [Score(float(len(answer)) if answer else None) for answer in answers]


def test_two_scores_make_a_preference():
    assert Longer().compare(PROMPTS, ["aa", "a", "b", ""], ["a", "aa", "a", "a"]) == [1.0, 0.0, 0.5, None]


def test_exchanging_the_answers_exchanges_the_judgments():
    a, b = ["aa", "a", "b", "bbb"], ["a", "aa", "a", ""]
    forth, back = Longer().compare(PROMPTS, a, b), Longer().compare(PROMPTS, b, a)
    assert [None if p is None else 1 - p for p in forth] == back


def test_answers_that_do_not_fit_the_prompts_are_refused():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        Longer().compare(PROMPTS[:2], ["a", "b"], ["a"])


def test_a_judge_trains_no_method_unless_it_says_so():
    from alignbench.judges.gold import Gold
    from alignbench.judges.reward_model import RewardModel

    assert not Longer.trains
    assert not Gold.trains
    assert RewardModel.trains


def test_the_contract_and_every_first_party_judge_import_no_torch():
    code = (
        "import sys, alignbench.judges, alignbench.judges.gold, alignbench.judges.reward_model;"
        "heavy = {'torch', 'transformers', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("orders", "value"), [((0.9, 0.6), 0.75), ((0.9, 0.4), 0.5), ((0.5, 0.9), 0.7), ((0.2, 0.5), 0.35)]
)
def test_a_judgment_is_the_mean_of_both_orders_or_a_tie_and_turns_with_the_answers(orders, value):
    judgment = PairwiseJudgment(sum(orders) / 2, orders)
    assert judgment.value == pytest.approx(value)
    assert judgment.swapped().value == pytest.approx(1 - value)
