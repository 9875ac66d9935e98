"""A decoder on one page: of n answers, the one that the start itself finds likeliest per token."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path

from pydantic import Field

import alignbench as ab


class LikeliestOfN(ab.Method):
    """Draws n answers and keeps the one with the highest mean log-probability.

    Source: the length-normalised score of Wu et al. 2016 (arXiv:1609.08144, section 7), on samples.
    """

    api = 2
    consumes = ()
    on_decoders = False

    class Config(ab.MethodConfig):
        """How many answers."""

        n: int = Field(4, ge=2)
        """Answers drawn for each that is given."""

    def align(self, run: ab.Run) -> ab.Policy:
        return Likeliest(run.start, self.config.n)

    def restore(self, folder: Path, run: ab.Run) -> ab.Policy:
        return self.align(run)


class Likeliest(ab.Decoder):
    """The start, asked n times."""

    def __init__(self, start: ab.Policy, n: int):
        self.start, self.n, self.base, self.follows = start, n, ab.DecodingBase(start), start.follows

    def answer(self, prompts: Many[ab.Prompt], sampling: ab.Sampling, key: int, *, samples: int = 1):
        drawn = self.start.answer(prompts, sampling, key, samples=samples * self.n)
        ids = {one.id: one.prompt_ids for one in self.base.tokenised(prompts)}
        scores = self.start.logprobs([ab.Sequence(ids[one.prompt_id], one.ids) for one in drawn])
        means = [float(one.logps.mean()) for one in scores]
        answers = []
        for number, at in enumerate(range(0, len(drawn), self.n)):
            group = range(at, at + self.n)
            best = drawn[max(group, key=lambda place: means[place])]
            # What all of them cost, and their scores, which read each from its beginning.
            tokens = sum(drawn[i].tokens + len(ids[best.prompt_id]) + len(drawn[i].ids) for i in group)
            asked = sum(drawn[i].forwards + 1 for i in group)
            answers.append(replace(best, sample=number % samples, forwards=asked, tokens=tokens))
        return answers
