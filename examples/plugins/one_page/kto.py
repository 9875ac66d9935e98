"""KTO on one page: each answer is good or bad on its own."""

from __future__ import annotations

from pydantic import Field

from alignbench import Method, MethodConfig, Policy, Run, ScoringGroup, Sequence, UnpairedPreference
from alignbench.reference import logprobs


class KTO(Method):
    """1 - s(beta (log pi/ref - KL)), the sign turned for a bad answer.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306, eq. 7).
    """

    api = 2
    consumes = (UnpairedPreference,)

    class Config(MethodConfig):
        """How far the policy may go."""

        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        beta: float = Field(0.1, gt=0)
        """Scale of the log-ratio to the reference."""

    def align(self, run: Run) -> Policy:
        import torch

        policy, rows, beta = run.adapt(), run.rows(UnpairedPreference), self.config.beta
        reference, point = logprobs(run, rows), [0.0]

        def answers(batch):
            return {"answers": [sequence for row in batch for sequence in row.sequences()]}

        def before_step(batch):
            pairs = zip(batch, batch[2:] + batch[:2], strict=True)
            items = [
                Sequence(row.prompt_ids, other.response_ids) for row, other in pairs if row.id != other.id
            ]
            if not items:
                return
            both = {"policy": ScoringGroup(items, policy), "start": ScoringGroup(items, run.start)}
            scored = run.score(both)
            point[0] = max(0.0, (scored["policy"].sums() - scored["start"].sums()).mean().item())

        def loss(scores, batch):
            ratio = scores["answers"].sums() - reference(answers(batch)["answers"])
            sign = torch.tensor([1.0 if row.desirable else -1.0 for row in batch], device=ratio.device)
            return 1 - torch.sigmoid(sign * beta * (ratio - point[0])), {"kl": point[0]}

        rate = self.config.learning_rate
        run.train(policy, rows, answers, loss, learning_rate=rate, before_step=before_step)
        return policy
