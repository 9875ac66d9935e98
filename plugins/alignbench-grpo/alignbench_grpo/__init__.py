"""Policy gradients on groups of answers: each answer is compared with the others to its prompt, without a critic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignbench import Method, MethodConfig, NamedJudge, NamedReward, Pair, Policy, Prompt, Row, Run
from alignbench.rewards import trains_reward_model


class GroupConfig(MethodConfig):
    """What is rewarded, and how the answers are drawn."""

    judge: NamedJudge | None = None
    """Whose scores are the reward. With no `rewards` either: a reward model of the training rows."""
    rewards: list[NamedReward] = []
    """Reward functions, added to the judge's score where one is named: `length`, `{regex: {pattern: ...}}`."""
    learning_rate: float = Field(1e-5, gt=0, le=1)
    """Peak learning rate of the adapter."""
    answers: int = Field(8, ge=2)
    """Answers to each prompt, its group; the recipe's batch counts prompts."""
    rollout_batch_size: int | None = Field(None, ge=1)
    """Prompts answered before their groups are learnt from; none: those of one step."""
    epochs: int = Field(1, ge=1)
    """Epochs over the rollouts before new ones are drawn."""
    temperature: float = Field(1.0, gt=0)
    """Of the rollouts, and of every log-probability taken of them."""
    max_new_tokens: int = Field(256, ge=1)
    """Tokens after which a rollout is cut."""
    beta: float = Field(0.04, ge=0)
    """Weight of the KL from the start; 0 computes none."""
    clip: float = Field(0.2, gt=0, lt=1)
    """How far a ratio of probabilities may fall below 1 before its gradient is cut."""
    clip_high: float | None = Field(None, gt=0)
    """How far it may rise above 1; none: as far as it may fall. DAPO: 0.28."""
    missing_eos_penalty: float = Field(1.0, ge=0)
    """Taken off the reward of an answer that does not end by itself."""


class Grouped(Method):
    """What the methods of this plugin share: they read prompts, and comparisons where a reward model is trained."""

    api = 2
    consumes = (Prompt,)

    def reads(self) -> tuple[type[Row], ...]:
        trained = trains_reward_model(self.config.judge, self.config.rewards)
        return (Prompt, Pair) if trained else (Prompt,)

    def align(self, run: Run) -> Policy:
        from alignbench_grpo.training import GroupTraining

        return GroupTraining(run, self.config).train()


class GRPO(Grouped):
    """Each answer's advantage is its reward relative to its group; clipped ratios, and a KL from the start in the loss.

    Sources: Shao et al. 2024 (arXiv:2402.03300); `scale: none` and `normalise: constant`: Dr. GRPO, Liu et al. 2025
    (arXiv:2503.20783); `clip_high` and `normalise: token`: DAPO, Yu et al. 2025 (arXiv:2503.14476); `ratio: sequence`:
    GSPO, Zheng et al. 2025 (arXiv:2507.18071).
    """

    api = 2

    class Config(GroupConfig):
        """How advantages are scaled, and what the loss is a mean of."""

        scale: Literal["group", "batch", "none"] = "group"
        """What a group's rewards are divided by: their standard deviation, that of all rollouts, or nothing."""
        normalise: Literal["sequence", "token", "constant"] = "sequence"
        """The loss is a mean over answers of means over tokens, a mean over all tokens, or a sum over an answer's
        tokens divided by `max_new_tokens`."""
        ratio: Literal["token", "sequence"] = "token"
        """Whose probability the ratio is of; `sequence`: the geometric mean over the answer."""


class RLOO(Grouped):
    """REINFORCE with the mean reward of the other answers as baseline; the KL from the start is in the reward.

    Sources: Kool et al. 2019 (https://openreview.net/forum?id=r1lgTGL5DE); Ahmadian et al. 2024 (arXiv:2402.14740).
    """

    api = 2

    class Config(GroupConfig):
        """The same, with fewer answers and a larger KL, as its authors have it."""

        answers: int = Field(4, ge=2)
        """Answers to each prompt, its group; the recipe's batch counts prompts."""
        beta: float = Field(0.05, ge=0)
        """Reward lost for each nat of KL from the start; 0 computes none."""
