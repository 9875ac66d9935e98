"""The laws every reward function keeps, on answers of the sandbox."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from alignbench import sandbox
from alignbench.api.reward import Reward
from alignbench.rows import Prompt
from alignbench.testing.plugin import PluginSuite

ASKED = 6


class RewardSuite(PluginSuite):
    """Subclass it, name the reward function, and pytest does the rest. It must be installed."""

    group = "rewards"
    reward: ClassVar[str]
    columns: ClassVar[Mapping[str, Any]] = {}
    """Further columns of each row, which a prompt's `extra` holds: the right answer, where the function reads one."""

    @classmethod
    def name(cls) -> str:
        return cls.reward

    @classmethod
    def questions(cls) -> tuple[list[Prompt], list[str]]:
        """Return prompts, two of each, and an answer to each."""
        rows = list(sandbox.rows("train", ASKED))
        prompts = [
            Prompt(
                id=f"{place}.{number}",
                prompt=tuple(row["prompt"]),
                extra=dict(cls.columns),
            )
            for place, row in enumerate(rows)
            for number in range(2)
        ]
        return prompts, [answer for row in rows for answer in row["answers"][:2]]

    def _made(self) -> Reward:
        return self.kind()(self.fields())

    def test_a_reward_is_a_finite_number_or_none(self):
        prompts, answers = self.questions()
        values = self._made().score(prompts, answers)
        assert len(values) == len(answers), "one reward for each answer"
        for value in values:
            assert value is None or math.isfinite(value), f"a reward is not finite: {value}"
        assert any(value is not None for value in values), (
            "it gives no reward at all: where it reads a column of the rows, name that in `columns`"
        )

    def test_what_it_scores_it_does_not_refuse_beforehand(self):
        """`alignbench check` would refuse a recipe that runs."""
        try:
            self.kind().check_prompts(self.fields(), self.questions()[0])
        except Exception as error:
            raise AssertionError(f"it refuses beforehand what it scores: {error}") from error

    def test_no_answer_gets_no_reward(self):
        assert list(self._made().score([], [])) == []

    def test_an_empty_answer_gets_a_finite_reward_or_none(self):
        """A policy may end its answer at once."""
        (value,) = self._made().score(self.questions()[0][:1], [""])
        assert value is None or math.isfinite(value), f"the reward of an empty answer is not finite: {value}"

    def test_a_reward_does_not_depend_on_the_rest_of_the_batch(self):
        prompts, answers = self.questions()
        made = self._made()
        whole = list(made.score(prompts, answers))
        back = list(made.score(prompts[::-1], answers[::-1]))[::-1]
        alone = [made.score([p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
        assert _equal(back, whole), "it depends on the order"
        assert _equal(alone, whole), "it depends on what else is rewarded"

    def test_made_again_it_says_the_same(self):
        prompts, answers = self.questions()
        found = [list(self._made().score(prompts, answers)) for _ in range(2)]
        assert _equal(*found), "made again, it rewards otherwise"


def _equal(found: list[float | None], wanted: list[float | None]) -> bool:
    def marked(values: list[float | None]) -> list[float]:
        return [math.nan if value is None else value for value in values]

    return marked(found) == pytest.approx(marked(wanted), rel=1e-5, abs=1e-7, nan_ok=True)
