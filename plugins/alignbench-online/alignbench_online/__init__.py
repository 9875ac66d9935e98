"""Learning from judged answers of the policy as it is: online DPO, and rejection sampling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignbench import Method, MethodConfig, NamedJudge, NamedReward, Pair, Policy, Prompt, Row, Run
from alignbench.rewards import trains_reward_model


class OnlineConfig(MethodConfig):
    """Who judges, and how the answers are drawn."""

    judge: NamedJudge | None = None
    """Who judges the answers. With no `rewards` either: a reward model of the training rows."""
    rewards: list[NamedReward] = []
    """Reward functions, added to the judge's score where one is named."""
    learning_rate: float = Field(1e-5, gt=0, le=1)
    """Peak learning rate of the adapter."""
    answers: int = Field(2, ge=2)
    """Answers drawn to each prompt."""
    rollout_batch_size: int | None = Field(None, ge=1)
    """Prompts of a round, answered before any of them is learnt from; none: those of one step."""
    source: Literal["policy", "start"] = "policy"
    """Who answers: the policy as it is in each round, or always the start."""
    temperature: float = Field(1.0, gt=0)
    """Of the answers."""
    max_new_tokens: int = Field(256, ge=1)
    """Tokens after which an answer is cut."""
    missing_eos_penalty: float = Field(1.0, ge=0)
    """Subtracted from the score of an answer that does not end by itself. Where a judge compares the two answers to a
    prompt and only one ends, that one wins, whatever the number is; 0 leaves it to the judge."""


class Online(Method):
    """What both methods share: they read prompts, and comparisons where a reward model is trained."""

    api = 2
    consumes = (Prompt,)

    def reads(self) -> tuple[type[Row], ...]:
        trained = trains_reward_model(self.config.judge, self.config.rewards)
        return (Prompt, Pair) if trained else (Prompt,)


class OnlineDPO(Online):
    """DPO on pairs that the policy itself has just written: the best and the worst of a prompt's answers.

    Sources: Guo et al. 2024 (arXiv:2402.04792); the loss: Rafailov et al. 2023 (arXiv:2305.18290, eq. 7) or Azar et al.
    2023 (arXiv:2310.12036, eq. 17).
    """

    api = 2

    class Config(OnlineConfig):
        """The loss of the pairs."""

        loss: Literal["sigmoid", "ipo"] = "sigmoid"
        """Of the margin; `ipo` takes log-ratios per token."""
        beta: float = Field(0.1, gt=0)
        """Strength of the pull to the start."""

    def align(self, run: Run) -> Policy:
        from alignbench_online.training import PairTraining

        return PairTraining(run, self.config).train()


class RAFT(Online):
    """The best of a prompt's answers is imitated, round by round; with `source: start`, best-of-n is distilled.

    Sources: RAFT: Dong et al. 2023 (arXiv:2304.06767); best-of-n distillation: Gui et al. 2024 (arXiv:2406.00832), the
    supervised part.
    """

    api = 2

    class Config(OnlineConfig):
        """More answers, since one of them is kept."""

        answers: int = Field(4, ge=2)
        """Answers drawn to each prompt, of which the best is kept."""

    def align(self, run: Run) -> Policy:
        from alignbench_online.training import BestTraining

        return BestTraining(run, self.config).train()
