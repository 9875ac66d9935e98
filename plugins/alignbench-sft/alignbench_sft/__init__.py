"""Supervised fine-tuning: imitate the chosen answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from alignbench import Demonstration, GroupScores, Method, MethodConfig, Policy, Run, Select, Sequence

if TYPE_CHECKING:
    from torch import Tensor


class SFT(Method):
    """Supervised fine-tuning on demonstrations: the mean negative log-likelihood of the answers' tokens.

    Source: Ouyang et al. 2022, "Training language models to follow instructions with human feedback"
    (arXiv:2203.02155), step 1; learning rate for LoRA as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314).
    """

    api = 2
    consumes = (Demonstration,)

    class Config(MethodConfig):
        """How fast it learns, and which of its weights are kept."""

        learning_rate: float = Field(2e-4, gt=0, le=1)
        """Peak learning rate of the adapter."""
        select: Select | None = None
        """Keep the weights whose answers a judge scores best, instead of the last."""

    def align(self, run: Run) -> Policy:
        policy = run.adapt()
        run.train(
            policy,
            run.rows(Demonstration),
            sequences,
            loss,
            learning_rate=self.config.learning_rate,
            select=self.config.select,
        )
        return policy


def sequences(rows: list[Demonstration]) -> Mapping[str, list[Sequence]]:
    """Return the answers, each behind its prompt."""
    return {"response": [sequence for row in rows for sequence in row.sequences()]}


def loss(scores: Mapping[str, GroupScores], rows: list[Demonstration]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the loss of each token [n, R], and numbers to log."""
    response = scores["response"]
    return -response.logps, {"logps/chosen": response.sums()}
