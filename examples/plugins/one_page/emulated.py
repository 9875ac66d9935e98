"""Emulated fine-tuning on one page: what a training changed in one model, added to another as it answers."""

from __future__ import annotations

from collections.abc import Sequence as Many
from pathlib import Path

import numpy as np

import alignbench as ab


class Emulated(ab.Method):
    """p_start (p_tuned / p_base)^strength of 64 tokens. Source: Mitchell et al. 2023, arXiv:2310.12962."""

    api = 2
    consumes = ()
    on_decoders = False

    class Config(ab.MethodConfig):
        tuned: ab.AdapterLabel = "base"
        """The label whose difference to the base is added; the base itself has none."""
        strength: float = 1.0
        """By what the difference is multiplied."""

    def align(self, run: ab.Run) -> ab.Policy:
        models = [ab.DecodingBase(p) for p in (run.start, run.policy(self.config.tuned), run.policy("base"))]
        if models[0].tokenizer.get_vocab() != models[2].tokenizer.get_vocab():
            raise ab.PluginError("the start has other tokens", "start from a model of the base's family")
        return Emulation(models, self.config.strength)

    def restore(self, folder: Path, run: ab.Run) -> ab.Policy:
        return self.align(run)


class Emulation(ab.Decoder):
    """Three models on one prompt: the start, and two that differ by a training."""

    follows: frozenset[ab.Setting] = frozenset({"temperature"})

    def __init__(self, models: Many[ab.DecodingBase], strength: float):
        self.models, self.strength = models, strength

    def answer(self, prompts: Many[ab.Prompt], sampling: ab.Sampling, key: int, *, samples: int = 1):
        asked = self.models[0].tokenised(prompts)
        return [self.one(prompt, sampling, key, sample) for prompt in asked for sample in range(samples)]

    def one(self, prompt: ab.Prompt, sampling: ab.Sampling, key: int, sample: int) -> ab.Answer:
        start, ids, ended = self.models[0], (), False
        trees, noise = [model.new_tree() for model in self.models], start.noise(key, prompt.id, sample)
        while len(ids) < sampling.max_new_tokens and not ended:
            query, said = ab.Query(prompt.prompt_ids + ids, likeliest=64), []
            for model, tree in zip(self.models, trees, strict=True):
                ((reply,),) = model.ask([(tree, [query])])
                said.append(np.log(np.maximum(reply.probabilities, 1e-30)))
                query = ab.Query(query.path, options=reply.tokens)
            gumbel = np.random.default_rng([noise % 2**63, len(ids)]).gumbel(size=len(query.options))
            best = np.argmax(said[0] + self.strength * (said[1] - said[2]) + sampling.temperature * gumbel)
            ids, ended = (*ids, query.options[best]), query.options[best] in start.ends
        return ab.Answer(prompt.id, start.decode(ids), ids, ended, sample, 3 * len(ids), 3 * len(query.path))
