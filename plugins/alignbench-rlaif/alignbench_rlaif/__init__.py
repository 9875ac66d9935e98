"""Reinforcement learning from AI feedback: a judge labels a policy's own answers, a method learns from it."""

from __future__ import annotations

from pydantic import Field

from alignbench import Labelling, Method, MethodConfig, NamedJudge, NamedMethod, Policy, Prompt, Run
from alignbench.feedback import label
from alignbench.spending import counts_everything


class RLAIF(Method):
    """Answers of the policy, preferences of a judge, and an installed method that learns from them.

    Sources: Lee et al. 2023, "RLAIF vs. RLHF" (arXiv:2309.00267): soft labels from both orders, averaged;
    principles drawn for each comparison: Bai et al. 2022, "Constitutional AI" (arXiv:2212.08073), section 4;
    rounds of fresh labels: Xu et al. 2024 (arXiv:2404.10719), Guo et al. 2024 (arXiv:2402.04792).
    """

    api = 2
    consumes = (Prompt,)

    class Config(MethodConfig):
        """Who labels what, and who learns from it."""

        judge: NamedJudge = NamedJudge(name="self")
        """Who prefers: an installed judge from which methods may learn."""
        labels: Labelling = Labelling()
        """How answers are drawn and preferences become rows."""
        optimizer: NamedMethod = NamedMethod(name="rlhf")
        """The installed method that learns from the labels, with its fields."""
        rounds: int = Field(1, ge=1)
        """How often the policy as it then is answers a part of the prompts, is labelled and trained."""

        labels_share: float = Field(0.5, gt=0, lt=1)
        """Share of a budget in tokens, FLOPs or seconds that the labels may take; the optimizer gets the rest."""

    def align(self, run: Run) -> Policy:
        config, policy = self.config, run.start
        # An epoch over its part of the rows is a round's part already.
        part_of_budget = run.budget if run.budget.epochs else run.budget.part(1 / config.rounds)
        everything = counts_everything(run)
        judge = run.judge(config.judge)
        for number in range(config.rounds):
            part = slice(number, None, config.rounds)
            later = run.left * (1 - 1 / (config.rounds - number))
            share = config.labels_share / (config.rounds - number)
            rows = label(run, judge, config.labels, policy=policy, part=part, share=share)
            if everything:
                part_of_budget = run.budget.of(run.left - later)
            policy = run.stage(
                config.optimizer.name,
                rows=rows,
                start=policy,
                budget=part_of_budget,
                **config.optimizer.config,
            )
        return policy
