"""Reinforcement learning from AI feedback: a judge labels a policy's own answers, a method learns from it."""

from __future__ import annotations

from pydantic import Field

from alignbench import Budget, Labelling, Method, MethodConfig, NamedJudge, NamedMethod, Policy, Prompt, Run


class RLAIF(Method):
    """Answers of the policy, preferences of a judge, and an installed method that learns from them.

    Sources: Lee et al. 2023, "RLAIF vs. RLHF" (arXiv:2309.00267): soft labels from both orders, averaged;
    principles drawn for each comparison: Bai et al. 2022, "Constitutional AI" (arXiv:2212.08073), section 4;
    rounds of fresh labels: Xu et al. 2024 (arXiv:2404.10719), Guo et al. 2024 (arXiv:2402.04792).
    """

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

    def align(self, run: Run) -> Policy:
        config, policy = self.config, run.start
        judge = run.judge(config.judge)
        for number in range(config.rounds):
            part = slice(number, None, config.rounds)
            rows = run.label(judge, config.labels, policy=policy, part=part)
            policy = run.stage(
                config.optimizer.name,
                rows=rows,
                start=policy,
                budget=shared_out(run.budget, config.rounds),
                **config.optimizer.config,
            )
        return policy


def shared_out(budget: Budget, rounds: int) -> Budget:
    """Return what one of several rounds may spend; an epoch over its part of the rows is its part already."""
    if budget.epochs is not None:
        return budget
    said = budget.model_dump(exclude_none=True)
    unit = next(name for name in ("rows", "steps", "tokens", "seconds") if name in said)
    each = said[unit] / rounds
    return Budget(**{**said, unit: each if unit == "seconds" else max(1, round(each))})
