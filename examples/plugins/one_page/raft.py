"""Rejection sampling on one page: the best of a prompt's answers is imitated."""

from __future__ import annotations

from pydantic import Field

from alignbench import Method, MethodConfig, NamedReward, Policy, Prompt, Run, Sampling
from alignbench.rewards import reward
from alignbench.rollouts import draw


class RAFT(Method):
    """The likelihood of the best of several answers, by reward functions.

    Source: Dong et al. 2023 (arXiv:2304.06767).
    """

    api = 2
    consumes = (Prompt,)

    class Config(MethodConfig):
        """What is rewarded, and how the answers are drawn."""

        rewards: list[NamedReward] = [NamedReward(name="length", config={"words": 8})]
        """Reward functions, added by their weights."""
        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        answers: int = Field(4, ge=2)
        """Answers to each prompt."""
        max_new_tokens: int = Field(16, ge=1)
        """Tokens after which an answer is cut."""

    def align(self, run: Run) -> Policy:
        config, policy, rows = self.config, run.adapt(dropout=False), run.rows(Prompt)
        score, sampling = reward(run, None, config.rewards), Sampling(max_new_tokens=config.max_new_tokens)

        def best(step):
            drawn = draw(run, policy, rows, step, run.batch, config.answers, sampling)
            found = score(drawn.prompts, [one.text for one in drawn.answers])
            values, items = [-1e9 if one is None else one for one in found], drawn.sequences()
            groups = [range(at, at + config.answers) for at in range(0, len(items), config.answers)]
            return [items[max(group, key=values.__getitem__)] for group in groups]

        def loss(scores, batch):
            return -scores["best"].logps, {}

        run.train(policy, best, lambda batch: {"best": batch}, loss, learning_rate=config.learning_rate)
        return policy
