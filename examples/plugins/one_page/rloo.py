"""RLOO on one page: each answer is compared with the others to its prompt."""

from __future__ import annotations

from pydantic import Field

from alignbench import Method, MethodConfig, NamedJudge, Policy, Prompt, Run, Sampling, ScoringGroup
from alignbench.rollouts import draw, leave_one_out


class RLOO(Method):
    """Policy gradient on a judge's scores, with the mean of the others as baseline.

    Source: Ahmadian et al. 2024 (arXiv:2402.14740).
    """

    api = 2
    consumes = (Prompt,)

    class Config(MethodConfig):
        """Who scores, and how the answers are drawn."""

        judge: NamedJudge = NamedJudge(name="self", config={"wording": "sandbox"})
        """Whose scores are the reward."""
        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        answers: int = Field(4, ge=2)
        """Answers to each prompt."""
        max_new_tokens: int = Field(16, ge=1)
        """Tokens after which an answer is cut."""

    def align(self, run: Run) -> Policy:
        import torch

        config, policy, rows = self.config, run.adapt(dropout=False), run.rows(Prompt)
        judge, sampling = run.judge(config.judge), Sampling(max_new_tokens=config.max_new_tokens)

        def groups(step):
            drawn = draw(run, policy, rows, step, run.batch, config.answers, sampling)
            scores = judge.score(drawn.prompts, [one.text for one in drawn.answers])
            values = torch.tensor([float("nan") if one.value is None else one.value for one in scores])
            gains, items = leave_one_out(values.view(-1, config.answers)), drawn.sequences()
            parts = [items[at : at + config.answers] for at in range(0, len(items), config.answers)]
            return list(zip(parts, gains, strict=True))

        def sequences(batch):
            return {"answers": ScoringGroup([one for part, _ in batch for one in part])}

        def loss(scores, batch):
            logps = scores["answers"].sums().view(len(batch), -1)
            return -(torch.stack([gain for _, gain in batch]).to(logps.device) * logps).mean(1), {}

        run.train(policy, groups, sequences, loss, learning_rate=config.learning_rate)
        return policy
