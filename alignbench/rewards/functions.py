"""Reward functions that come with alignbench: a pattern, an exact answer, a length."""

from __future__ import annotations

import re
from collections.abc import Sequence as Many
from typing import Any

from pydantic import Field, field_validator

from alignbench.api.reward import Reward, RewardConfig
from alignbench.errors import DataError
from alignbench.rows import Prompt


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a regular expression: {error}") from error
    return pattern


class RegularExpression(Reward):
    """1 for an answer in which a pattern is found, 0 for another."""

    api = 2

    class Config(RewardConfig):
        """The pattern."""

        pattern: str = r"\S"
        """A regular expression of Python's `re`, searched for anywhere; `.` matches line ends."""

        _valid = field_validator("pattern")(_compiled)

    def score(self, prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
        found = re.compile(self.config.pattern, re.DOTALL)
        return [float(found.search(answer) is not None) for answer in answers]


class ExactAnswer(Reward):
    """1 for an answer whose result is that of the row's own column, 0 for another; None where the row has none."""

    api = 2

    class Config(RewardConfig):
        """Where the right answer stands, and how the given one is found."""

        column: str = "answer"
        """The column of the data that holds the right answer."""
        pattern: str = r"(.*\S)"
        """A regular expression whose last match in an answer is its result: its first group, or all of it."""

        _valid = field_validator("pattern")(_compiled)

    @classmethod
    def check_prompts(cls, config: Any, prompts: Many[Prompt]) -> None:
        if any(prompt.extra.get(config.column) is not None for prompt in prompts):
            return
        there = sorted({column for prompt in prompts for column in prompt.extra})
        raise DataError(
            f"the reward 'exact' compares answers with the column '{config.column}', which no row has",
            f"name another: rewards: [{{exact: {{column: ...}}}}]; the rows have {', '.join(there) or 'none'}",
        )

    def score(self, prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
        return [self._one(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def _one(self, prompt: Prompt, answer: str) -> float | None:
        wanted = prompt.extra.get(self.config.column)
        if wanted is None:
            return None
        matches = list(re.finditer(self.config.pattern, answer))
        result = matches[-1][1 if matches[-1].re.groups else 0] if matches else None
        return float(result is not None and result.strip().casefold() == str(wanted).strip().casefold())


class Length(Reward):
    """Minus the relative distance of an answer's length from a number of words, -1 at least."""

    api = 2

    class Config(RewardConfig):
        """The length."""

        words: int = Field(50, ge=1)
        """Words of an answer that gets the reward 0, the highest."""

    def score(self, prompts: Many[Prompt], answers: Many[str]) -> list[float | None]:
        words = self.config.words
        return [-min(1.0, abs(len(answer.split()) - words) / words) for answer in answers]
