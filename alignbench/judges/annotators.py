"""The sandbox's simulated annotators as a judge: what people would say of two answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import fmean
from typing import Any

from pydantic import Field

from alignbench.api.config import Settings
from alignbench.api.judge import Judge, PairwiseJudgment, Score, preference
from alignbench.judges.gold import refuse_foreign
from alignbench.rows import Prompt


class Annotators(Judge):
    """Several of the sandbox's annotators, drawn for each prompt; each ranks the two answers with errors of their own.

    Of two answers it says the share of annotators who prefer the first, ties counting half. It gives no scores.
    Raises DataError for prompts that are not from the sandbox.
    """

    api = 2
    cheap = True
    scores = False

    class Config(Settings):
        """Who is asked."""

        raters: int = Field(default=2, ge=1, le=24)
        """Different annotators for each prompt."""
        seed: int = 0
        """Draws other annotators, and errors other than those of the sandbox's rows."""

    @classmethod
    def check_prompts(cls, config: Any, prompts: Sequence[Prompt]) -> None:
        refuse_foreign(prompts, "annotators")

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        return [Score(None) for _ in prompts]

    def judge_pairs(
        self,
        prompts: Sequence[Prompt],
        a: Sequence[str],
        b: Sequence[str],
        principles: Sequence[str] | None = None,
    ) -> list[PairwiseJudgment]:
        return [PairwiseJudgment(fmean(one.values())) for one in self.by_rater(prompts, a, b)]

    def by_rater(
        self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]
    ) -> list[Mapping[str, float]]:
        refuse_foreign(prompts, "annotators")
        return [self._ranked(*one) for one in zip(prompts, a, b, strict=True)]

    def _ranked(self, prompt: Prompt, a: str, b: str) -> dict[str, float]:
        from alignbench.sandbox.annotators import ANNOTATORS, annotate

        turns: Any = [dict(turn) for turn in prompt.prompt]
        occasion = f"judge|{self.config.seed}"
        asked = Random(f"{occasion}|{turns}").sample(list(ANNOTATORS), self.config.raters)
        found = {}
        for who in asked:
            first, second = annotate(turns, [a, b], who, occasion)
            better = preference(-first, -second)
            assert better is not None
            found[who] = better
        return found
