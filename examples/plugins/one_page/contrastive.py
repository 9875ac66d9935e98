"""Contrastive decoding on one page: the token that the start likes most in comparison with the base."""

from __future__ import annotations

from collections.abc import Sequence as Many
from math import log
from pathlib import Path

from pydantic import Field

import alignbench as ab


class Contrastive(ab.Method):
    """argmax log p_start - log p_base among tokens with at least a share of the likeliest one's probability.

    Source: Li et al. 2023 (arXiv:2210.15097).
    """

    api = 2
    consumes = ()
    on_decoders = False

    class Config(ab.MethodConfig):
        """Which tokens may be chosen."""

        share: float = Field(0.1, gt=0, le=1)
        """Least probability of a token, as a share of the likeliest token's."""

    def align(self, run: ab.Run) -> ab.Policy:
        return Contrast(ab.DecodingBase(run.start), ab.DecodingBase(run.policy("base")), self.config.share)

    def restore(self, folder: Path, run: ab.Run) -> ab.Policy:
        return self.align(run)


class Contrast(ab.Decoder):
    """Two models on one prompt."""

    def __init__(self, expert: ab.DecodingBase, amateur: ab.DecodingBase, share: float):
        self.expert, self.amateur, self.share = expert, amateur, share

    def answer(self, prompts: Many[ab.Prompt], sampling: ab.Sampling, key: int, *, samples: int = 1):
        asked = self.expert.tokenised(prompts)
        return [self.one(prompt, sampling, sample) for prompt in asked for sample in range(samples)]

    def one(self, prompt: ab.Prompt, sampling: ab.Sampling, sample: int) -> ab.Answer:
        """Return the answer to one prompt, token by token."""
        good, bad, ids, path = self.expert.new_tree(), self.amateur.new_tree(), (), prompt.prompt_ids
        while len(ids) < sampling.max_new_tokens and not self.expert.ends & set(ids[-1:]):
            path = prompt.prompt_ids + ids
            ((first,),) = self.expert.ask([(good, [ab.Query(path, likeliest=16)])])
            ((other,),) = self.amateur.ask([(bad, [ab.Query(path, options=first.tokens)])])
            pairs = list(zip(first.tokens, first.probabilities, other.probabilities, strict=True))
            kept = [(log(p / max(q, 1e-9)), t) for t, p, q in pairs if p >= self.share * pairs[0][1]]
            ids = (*ids, max(kept)[1])
        ended = bool(self.expert.ends & set(ids[-1:]))
        text, asked = self.expert.decode(ids), 2 * len(ids)  # of both models, which read each token once
        return ab.Answer(prompt.id, text, ids, ended, sample, asked, 2 * len(path))
