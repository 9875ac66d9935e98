"""A decoder on one page: of n answers, the one that the start itself finds likeliest per token."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from alignbench import (
    Decoder,
    DecodingBase,
    Method,
    MethodConfig,
    Policy,
    Prompt,
    Run,
    Sampling,
    Sequence,
)


class LikeliestOfN(Method):
    """Draws n answers and keeps the one with the highest mean log-probability.

    Source: the length-normalised score of Wu et al. 2016 (arXiv:1609.08144, section 7), on samples.
    """

    api = 2
    consumes = ()
    on_decoders = False

    class Config(MethodConfig):
        """How many answers."""

        n: int = Field(4, ge=2)
        """Answers drawn for each that is given."""

    def align(self, run: Run) -> Policy:
        return Likeliest(run.start, self.config.n)

    def restore(self, folder: Path, run: Run) -> Policy:
        return self.align(run)


class Likeliest(Decoder):
    """The start, asked n times."""

    def __init__(self, start: Policy, n: int):
        self.start, self.n, self.base, self.follows = start, n, DecodingBase(start), start.follows

    def answer(self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1):
        drawn = self.start.answer(prompts, sampling, key, samples=samples * self.n)
        ids = {one.id: one.prompt_ids for one in self.base.tokenised(prompts)}
        scores = self.start.logprobs([Sequence(ids[one.prompt_id], one.ids) for one in drawn])
        groups = [range(at, at + self.n) for at in range(0, len(drawn), self.n)]
        best = [max(group, key=lambda place: float(scores[place].logps.mean())) for group in groups]
        return [replace(drawn[at], sample=n % samples) for n, at in enumerate(best)]
