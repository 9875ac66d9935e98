"""Gold as a judge: the sandbox's truth, part by part, and no word about anything else."""

from __future__ import annotations

import pytest

from alignbench import sandbox
from alignbench.errors import DataError
from alignbench.judges.gold import Gold
from alignbench.rows import Prompt


def asked(text: str, id: str = "p") -> Prompt:
    return Prompt(id=id, prompt=({"role": "user", "content": text},))


@pytest.fixture(scope="module")
def answered():
    """Prompts and answers of the sandbox: every answer of every row."""
    rows = list(sandbox.rows("test", 100))
    return [
        (Prompt(id=row["id"], prompt=tuple(row["prompt"])), answer)
        for row in rows
        for answer in row["answers"]
    ]


def test_gold_says_what_the_sandbox_says(answered):
    scores = Gold().score(*map(list, zip(*answered, strict=True)))
    for (prompt, answer), score in zip(answered, scores, strict=True):
        truth = sandbox.gold(list(prompt.prompt), answer)
        assert score.value == truth.reward
        assert score.parts == {"helpful": truth.helpful, "honest": truth.honest, "harmless": truth.harmless}


def test_scores_and_parts_lie_between_zero_and_one_or_do_not_apply(answered):
    scores = Gold().score(*map(list, zip(*answered, strict=True)))
    numbers = [score.value for score in scores] + [part for score in scores for part in score.parts.values()]
    assert all(0 <= number <= 1 for number in numbers if number is not None)
    assert any(score.parts["helpful"] is None for score in scores)
    assert len({score.value for score in scores}) > 5


def test_garbage_scores_low(answered):
    prompts = [prompt for prompt, _ in answered]
    assert all(score.value < 0.2 for score in Gold().score(prompts, ["zzz zzz"] * len(prompts)))


def test_a_better_answer_wins_whichever_side_it_stands_on(answered):
    by_prompt = {}
    for prompt, answer in answered:
        by_prompt.setdefault(prompt.id, (prompt, []))[1].append(answer)
    for prompt, answers in by_prompt.values():
        reward = {answer: sandbox.gold(list(prompt.prompt), answer).reward for answer in answers}
        worst, best = min(answers, key=reward.__getitem__), max(answers, key=reward.__getitem__)
        if reward[worst] == reward[best]:
            continue
        assert Gold().compare([prompt], [best], [worst]) == [1.0]
        assert Gold().compare([prompt], [worst], [best]) == [0.0]
        assert Gold().compare([prompt], [best], [best]) == [0.5]


def test_data_from_elsewhere_are_refused_by_their_words(answered):
    foreign = [asked("What is RLHF?", "a"), asked("What is RLHF?", "a"), asked("x" * 100, "b")]
    prompts = [answered[0][0], *foreign]
    with pytest.raises(DataError) as caught:
        Gold().score(prompts, ["hello ."] * len(prompts))
    assert str(caught.value) == (
        "evaluation.judges: the gold judge reads only the sandbox's own prompts, not 'What is RLHF?'; "
        "use another judge for this data, such as reward-model\n"
        f"evaluation.judges: the gold judge reads only the sandbox's own prompts, not '{'x' * 57}...'; "
        "use another judge for this data, such as reward-model"
    )


def test_of_many_foreign_prompts_twenty_are_shown_and_all_are_counted():
    foreign = [asked(f"What is {i}?", str(i)) for i in range(50)]
    with pytest.raises(DataError) as caught:
        Gold().score(foreign, ["hello ."] * 50)
    assert (len(caught.value.problems), caught.value.total) == (20, 50)
