"""Reinforcement learning from human feedback: a reward model, then PPO against it, on one shared base."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignbench import Method, MethodConfig, Pair, Policy, Row, Run, Text


class RewardModelConfig(MethodConfig):
    """How the reward model is trained."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """Peak learning rate of its adapter."""
    head_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate of its head."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the rows: more than one over-fits (InstructGPT, appendix C.2)."""
    batching: Literal["per-prompt", "shuffled-pairs"] = "per-prompt"
    """All comparisons of a prompt as one element of a batch, or each comparison on its own."""
    share: float = Field(default=0.4, gt=0, lt=1)
    """Share of a budget in tokens, FLOPs or seconds that it may take; PPO gets the rest."""
    gap: bool = False
    """Also measure it on rows that it was trained on, as many as are held out: the gap shows over-fitting."""


class RLHF(Method):
    """A K-wise reward model, then PPO from the start against it with a KL penalty; PPO-ptx with `ptx_coef`.

    Sources: Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155); PPO: Schulman et al. 2017 (arXiv:1707.06347);
    adaptive KL: Ziegler et al. 2019 (arXiv:1909.08593); moving reference: Xu et al. 2024 (arXiv:2404.10719).
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """What is learnt from the rollouts, and how far the policy may go."""

        reward_model: RewardModelConfig = RewardModelConfig()
        """How the reward model is trained."""
        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the policy's adapter."""
        critic_learning_rate: float = Field(5e-5, gt=0, le=1)
        """Peak learning rate of the critic's adapter."""
        head_learning_rate: float = Field(5e-4, gt=0, le=1)
        """Peak learning rate of the value head."""
        critic: Literal["adapter", "shared-trunk"] = "adapter"
        """An adapter of its own, begun as the reward model's, or a head on the policy's own states."""
        rollout_batch_size: int = Field(512, ge=8)
        """Answers drawn before they are learnt from."""
        ppo_epochs: int = Field(4, ge=1)
        """Epochs over the rollouts before new ones are drawn; the recipe's batch is one step of an epoch."""
        temperature: float = Field(1.0, gt=0)
        """Of the rollouts, and of every log-probability taken of them."""
        max_new_tokens: int = Field(256, ge=1)
        """Tokens after which a rollout is cut."""
        beta: float = Field(0.05, ge=0)
        """Reward lost for each nat of KL from the start; with `target_kl`, its first value."""
        target_kl: float | None = Field(None, gt=0)
        """Nats for each answer that beta is adapted to; none: beta stays."""
        horizon: int = Field(10_000, ge=1)
        """Answers over which beta adapts."""
        max_kl: float = Field(100.0, gt=0)
        """Mean nats for each answer above which the training is stopped as diverged."""
        missing_eos_penalty: float = Field(1.0, ge=0)
        """Taken off the score of an answer that does not end by itself."""
        gamma: float = Field(1.0, gt=0, le=1)
        """Discount of later rewards."""
        gae_lambda: float = Field(0.95, ge=0, le=1)
        """Between the critic's word (0) and the observed return (1) in the advantages."""
        clip: float = Field(0.2, gt=0, lt=1)
        """How far the probability of a token may move, as a ratio, before its gradient is cut."""
        value_clip: float = Field(0.2, gt=0)
        """How far a value may move before its gradient is cut, in standard deviations of the reward."""
        value_coef: float = Field(0.1, gt=0)
        """Weight of the value loss."""
        reference_decay: float | None = Field(None, gt=0, lt=1)
        """Share of the reference kept when it follows the policy, before each round; none: it stays."""
        ptx_coef: float = Field(0.0, ge=0)
        """Weight of the mean negative log-likelihood of a token of `data.pretraining`: PPO-ptx above 0."""
        ptx_texts: int = Field(8, ge=1)
        """Pieces of pretraining text for each rollout of a step."""

    def reads(self) -> tuple[type[Row], ...]:
        return (*self.consumes, Text) if self.config.ptx_coef else self.consumes

    def align(self, run: Run) -> Policy:
        from alignbench_rlhf.ppo import PPO

        return PPO(run, self.config).train()
