"""Answers that a method draws from its own policy while it trains, in groups of answers to one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignbench.api.config import Sampling
from alignbench.api.method import Rows, Run
from alignbench.api.policy import Answer, Policy
from alignbench.rows import Prompt, Sequence

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Rollouts", "advantages", "draw", "equal_rewards", "leave_one_out"]


@dataclass(frozen=True)
class Rollouts:
    """The answers to some prompts, `samples` to each: prompt by prompt, sample by sample."""

    prompts: list[Prompt]
    """Of each answer: a prompt stands there `samples` times."""
    answers: list[Answer]
    samples: int

    def sequences(self) -> list[Sequence]:
        """What is scored; the answers to one prompt share its tokens, so that it is computed once."""
        pairs = zip(self.prompts, self.answers, strict=True)
        return [Sequence(prompt.prompt_ids, answer.ids) for prompt, answer in pairs]


def draw(
    run: Run,
    policy: Policy,
    rows: Rows[Prompt],
    number: int,
    size: int,
    samples: int,
    sampling: Sampling,
    *,
    most: int | None = None,
) -> Rollouts:
    """Return the rollouts of round `number` (from 0): `samples` answers of `policy` to each of `size` prompts.

    The prompts come in the one order that all methods share, and the noise depends on seed, round and prompt. With
    `most`, only the first so many of the round's prompts are answered.
    """
    prompts = run.draw(rows, number, size)[:most]
    key = int(run.rng(f"rollouts/{number}").integers(2**62))
    answers = policy.answer(prompts, sampling, key, samples=samples)
    return Rollouts([prompt for prompt in prompts for _ in range(samples)], answers, samples)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return each reward [G, K] minus the mean of the others of its group (https://openreview.net/forum?id=r1lgTGL5DE).

    NaN means no reward: such an answer is left out of the group's means, and its advantage is 0, as that of an
    answer alone in its group is.
    """
    known = rewards.isfinite()
    others = known.sum(1, keepdim=True) - 1
    total = rewards.nan_to_num(0.0).sum(1, keepdim=True)
    mean = (total - rewards.nan_to_num(0.0)) / others.clamp(min=1)
    return (rewards - mean).masked_fill(~known | (others < 1), 0.0)


def equal_rewards(rewards: Tensor) -> Tensor:
    """Return for each group of rewards [G, K] whether those that are known are equal, bool [G]: nothing to learn."""
    known = rewards.isfinite()
    most = rewards.masked_fill(~known, float("-inf")).amax(1)
    least = rewards.masked_fill(~known, float("inf")).amin(1)
    return ~(most - least >= 1e-6)


def advantages(rewards: Tensor, scale: str = "group") -> Tensor:
    """Return each reward [G, K] minus the mean of its group, NaN (no reward) as 0.

    `scale`: divided by the standard deviation of its `group` (arXiv:2402.03300) or of the whole `batch`, or `none`
    (arXiv:2503.20783).
    """
    known = rewards.isfinite()
    count = known.sum(1, keepdim=True)
    mean = rewards.nan_to_num(0.0).sum(1, keepdim=True) / count.clamp(min=1)
    off = (rewards - mean).masked_fill(~known, 0.0)
    if scale == "group":
        deviation = ((off**2).sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        return off / (deviation + 1e-4)
    if scale == "batch":
        inside = rewards[known]
        return off / (inside.std() + 1e-4) if len(inside) > 1 else off
    return off
