"""Direct RLAIF: the judge's score of an answer is the reward, without labels and without a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignbench import (
    GroupScores,
    Method,
    MethodConfig,
    NamedJudge,
    Policy,
    Prompt,
    Run,
    Sampling,
    ScoringGroup,
    Sequence,
)
from alignbench.rollouts import draw, leave_one_out
from alignbench.spending import affordable

if TYPE_CHECKING:
    from torch import Tensor

    from alignbench import Judge


class DirectRLAIF(Method):
    """Policy gradient on a judge's scores; the baseline of an answer is the mean of the other answers to its prompt.

    Sources: Lee et al. 2023 (arXiv:2309.00267), section 2.2.2, "direct RLAIF"; the baseline is REINFORCE
    leave-one-out's (Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE; Ahmadian et al. 2024,
    arXiv:2402.14740) instead of a learnt one.
    """

    api = 2
    consumes = (Prompt,)

    class Config(MethodConfig):
        """The judge, and how far the policy may move from its start."""

        judge: NamedJudge = NamedJudge(name="self")
        """The judge that scores answers; it must be one that methods may learn from."""
        lowest: float = 1.0
        """The score that becomes the reward -1; an answer that does not end gets -1 too."""
        highest: float = 10.0
        """The score that becomes the reward 1."""
        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        answers: int = Field(4, ge=2)
        """Answers drawn for each prompt; the recipe's batch counts answers."""
        beta: float = Field(0.05, ge=0)
        """Reward lost for each nat of KL from the start."""
        temperature: float = Field(1.0, gt=0)
        """Of the answers drawn, and of every log-probability taken of them."""
        max_new_tokens: int = Field(256, ge=1)
        """Tokens after which an answer is cut."""

    def align(self, run: Run) -> Policy:
        policy = run.adapt(dropout=False)
        on_policy = OnPolicy(run, policy, run.judge(self.config.judge), self.config)
        run.train(
            policy,
            on_policy.batch,
            on_policy.sequences,
            loss,
            learning_rate=self.config.learning_rate,
            state=on_policy.state,
        )
        return policy


@dataclass(frozen=True)
class Item:
    """One answer, and how much better it is than its prompt's other answers."""

    sequence: Sequence
    advantage: float
    reward: float
    kl: float


class OnPolicy:
    """Draws and scores the answers of each step."""

    def __init__(self, run: Run, policy: Policy, judge: Judge, config: DirectRLAIF.Config):
        self.run, self.policy, self.judge, self.config = run, policy, judge, config
        self.rows = run.rows(Prompt)
        self.state: dict[str, Any] = {}

    def batch(self, step: int) -> list[Item]:
        """Return the answers of one step, each with its advantage over the others to its prompt; [] ends it."""
        config, each = self.config, self.config.answers
        size = max(1, self.run.batch // each)
        most = affordable(self.run, self.state, size, first=size)
        if not most:
            return []
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        drawn = draw(self.run, self.policy, self.rows, step, size, each, sampling, most=most)
        items, texts = drawn.sequences(), [one.text for one in drawn.answers]
        scored = self.run.score(
            {
                "policy": ScoringGroup(items, self.policy, temperature=config.temperature),
                "start": ScoringGroup(items, self.run.start, temperature=config.temperature),
            }
        )
        kl = scored["policy"].sums() - scored["start"].sums()
        scores = [score.value for score in self.judge.score(drawn.prompts, texts)]
        ended = [one.finished for one in drawn.answers]
        rewards = kl.new_tensor([self.reward(*one) for one in zip(scores, ended, strict=True)])
        advantages = leave_one_out((rewards - config.beta * kl).view(-1, each)).flatten()
        rows = zip(items, advantages.tolist(), rewards.nan_to_num(0.0).tolist(), kl.tolist(), strict=True)
        return [Item(*row) for row in rows]

    def reward(self, score: float | None, finished: bool) -> float:
        """Return a score as a reward in [-1, 1]; NaN where the judge abstained, of which nothing is learnt."""
        if score is None:
            return float("nan")
        low, high = self.config.lowest, self.config.highest
        return min(1.0, max(-1.0, 2 * (score - low) / (high - low) - 1)) if finished else -1.0

    def sequences(self, items: list[Item]) -> Mapping[str, ScoringGroup]:
        """Return what a step scores: its answers, as they were drawn."""
        return {"answers": ScoringGroup([one.sequence for one in items], temperature=self.config.temperature)}


def loss(scores: Mapping[str, GroupScores], items: list[Item]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss [n], -advantage x log-probability of the whole answer, and numbers to log."""
    import torch

    logps = scores["answers"].sums()

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in items], device=logps.device)

    return -column("advantage") * logps, {
        "objective/scores": column("reward"),
        "objective/kl": column("kl"),
    }
