"""Activation steering on one page: a layer's states are moved from rejected towards chosen answers."""

from __future__ import annotations

from collections.abc import Sequence as Many
from pathlib import Path

import numpy as np
from pydantic import Field

import alignbench as ab
from alignbench.spending import parts


class Steering(ab.Method):
    """Adds chosen minus rejected answers' mean states to a layer.

    Source: contrastive activation addition, Rimsky et al. 2023 (arXiv:2312.06681).
    """

    api = 2
    consumes = (ab.Pair,)
    on_decoders = False

    class Config(ab.MethodConfig):
        layer: float = Field(0.5, ge=0, lt=1)
        """Where the vector is added, as a share of the layers."""
        strength: float = 1.0
        """By what the vector is multiplied; 0 is the start itself."""
        pairs: int = Field(256, ge=1)
        """Training rows that the vector is made of."""

    def align(self, run: ab.Run) -> ab.Policy:
        base, differences = ab.DecodingBase(run.start), []
        layer = int(self.config.layer * base.layers)
        for part in parts(run, list(run.rows(ab.Pair))[: self.config.pairs]):
            states = base.response_states([one for row in part for one in row.sequences()], layer)
            differences += list(states[::2] - states[1::2])
        run.record.departure("learns from", "the whole budget", f"the states of {len(differences)} pairs")
        return Steered(base, layer, self.config.strength * np.mean(differences, axis=0))

    def restore(self, folder: Path, run: ab.Run) -> ab.Policy:
        base = ab.DecodingBase(run.start)
        return Steered(base, int(self.config.layer * base.layers), np.load(folder / "vector.npy"))


class Steered(ab.Decoder):
    """The start, whose states are moved as it answers."""

    def __init__(self, base: ab.DecodingBase, layer: int, vector: np.ndarray):
        self.base, self.layer, self.vector, self.follows = base, layer, vector, base.policy.follows

    def answer(self, prompts: Many[ab.Prompt], sampling: ab.Sampling, key: int, *, samples: int = 1):
        with self.base.shifted(self.layer, self.vector):
            return self.base.policy.answer(prompts, sampling, key, samples=samples)

    def save(self, folder: Path) -> None:
        super().save(folder)
        np.save(folder / "vector.npy", self.vector)
