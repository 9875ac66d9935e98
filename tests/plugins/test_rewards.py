"""Reward functions: what each gives, how they add up, and what a wrong field says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

import alignbench as ab
from alignbench import NamedJudge, NamedReward, PairwiseJudgment, Prompt, Score, plugins
from alignbench.errors import RecipeError
from alignbench.recipe.load import load
from alignbench.rewards import reward, trains_reward_model
from alignbench.rewards.functions import ExactAnswer, Length, RegularExpression


def ask(**extra) -> Prompt:
    return Prompt(id="0", prompt=({"role": "user", "content": "?"},), extra=extra)


def test_a_pattern_is_found_anywhere_and_across_lines():
    made = RegularExpression(RegularExpression.Config(pattern="<a>.+</a>"))
    assert made.score([ask()] * 3, ["x <a>1\n2</a> y", "<a></a>", ""]) == [1, 0, 0]


def test_an_exact_answer_is_the_last_match_and_that_of_its_own_row():
    made = ExactAnswer(ExactAnswer.Config(column="result", pattern=r"= *(\d+)"))
    prompts = [ask(result=4), ask(result="4"), ask(result=4), ask(result=4), ask()]
    answers = ["2 = 2, so = 4", "= 5", "4", "=4.", "= 4"]
    assert made.score(prompts, answers) == [1, 0, 0, 1, None]


def test_the_right_length_is_worth_most_and_a_wrong_one_at_least_minus_one():
    made = Length(Length.Config(words=4))
    assert made.score([ask()] * 4, ["a b c d", "a b c", "", "a " * 40]) == [0, -0.25, -1, -1]


class Judge:
    scores = True

    def score(self, prompts, answers):
        return [Score(None if answer == "?" else 10.0) for answer in answers]


def test_judge_and_functions_are_added_by_weight_and_one_that_says_nothing_gives_none():
    run = SimpleNamespace(judge=lambda named: Judge(), root=None)
    functions = [NamedReward(name="regex", config={"pattern": "a", "weight": 0.5}), NamedReward(name="exact")]
    scored = reward(run, NamedJudge(name="any"), functions)  # type: ignore[arg-type]
    prompts = [ask(answer="a"), ask(answer="a"), ask(answer="?"), ask()]
    assert scored(prompts, ["a", "b", "?", "a"]) == [11.5, 10.0, None, None]


def test_a_judge_that_only_compares_gives_each_answer_its_mean_share_against_the_others_to_its_prompt():
    class Longer(ab.Judge):
        scores = False

        def score(self, prompts, answers):
            raise AssertionError("it gives no scores")

        def judge_pairs(self, prompts, a, b, principles=None):
            return [
                PairwiseJudgment(
                    None if "?" in one + two else (len(one) > len(two)) + (len(one) == len(two)) / 2
                )
                for one, two in zip(a, b, strict=True)
            ]

    run = SimpleNamespace(judge=lambda named: Longer(), root=None)
    scored = reward(run, NamedJudge(name="any"))  # type: ignore[arg-type]
    other, alone = replace(ask(), id="1"), replace(ask(), id="2")
    prompts = [ask(), ask(), ask(), other, other, other, alone]
    answers = ["a", "bbb", "cc", "a", "b", "?", "a"]
    assert scored(prompts, answers) == [0.0, 1.0, 0.5, 0.5, 0.5, None, None]


@pytest.mark.parametrize(
    ("named", "line", "words"),
    [
        ("[lenght]", 5, "Did you mean 'length'?"),
        ("\n      - regex:\n          pattern: '('", 7, "is not a regular expression"),
        ("\n      - length:\n          word: 3", 7, "did you mean 'words'?"),
    ],
)
def test_check_tells_a_wrong_reward_at_its_place(tmp_path, named, line, words):
    pytest.importorskip("alignbench_grpo")
    file = tmp_path / "recipe.yaml"
    head = "model: sandbox\ndata: {train: sandbox}\nbudget: {steps: 1}\nmethods:\n"
    body = f"  grpo: {{rewards: {named}}}\n" if line == 5 else f"  grpo:\n    rewards:{named}\n"
    line += line != 5
    file.write_text(head + body)
    with pytest.raises(RecipeError) as caught:
        load(file)
    problems = [(one.line, f"{one.what} {one.fix}") for one in caught.value.problems]
    assert any(words in found for _, found in problems), problems


@pytest.mark.parametrize(
    ("judge", "functions", "trained"),
    [
        (None, [], True),
        (None, [NamedReward(name="length")], False),
        (NamedJudge(name="gold"), [], False),
        (NamedJudge(name="reward-model"), [], False),
        (NamedJudge(name="reward-model", config={"train_on": "train"}), [NamedReward(name="length")], True),
    ],
)
def test_a_reward_model_of_the_training_rows_needs_comparisons(judge, functions, trained: bool):
    assert trains_reward_model(judge, functions) is trained
    fields = {"judge": judge, "rewards": functions}
    for name in ("grpo", "online-dpo", "trl-grpo"):
        kind = plugins.load("methods", name)
        assert (ab.Pair in kind(kind.Config(**fields)).reads()) is trained
