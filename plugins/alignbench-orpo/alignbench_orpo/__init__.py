"""Odds ratio preference optimisation: imitation and preference in one loss, without a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from alignbench import GroupScores, Loss, Method, MethodConfig, Numbers, Pair, Policy, Run, Sequence


class ORPO(Method):
    """Odds ratio preference optimisation: L = NLL(chosen) + odds_weight * L_OR.

    Source: Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model"
    (arXiv:2403.07691). The NLL is over the answer's tokens and its end, as in the paper's text (its code also
    counts the prompt and leaves the end out); both terms see the same tokens.
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """How fast to learn, and how much the preference counts compared with the imitation."""

        learning_rate: float = Field(2e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        odds_weight: float = Field(0.1, ge=0)
        """Weight of the odds-ratio term: the paper's lambda (TRL calls it beta). 0 leaves imitation alone."""

    def align(self, run: Run) -> Policy:
        policy = run.adapt()
        loss = loss_of(self.config.odds_weight)
        run.train(policy, run.rows(Pair), sequences, loss, learning_rate=self.config.learning_rate)
        return policy


def sequences(rows: list[Pair]) -> Mapping[str, list[Sequence]]:
    """Return the chosen and the rejected answers."""
    chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
    return {"chosen": list(chosen), "rejected": list(rejected)}


def loss_of(odds_weight: float) -> Callable[..., Any]:
    """Return the loss with this weight of the odds-ratio term: of tokens [n, R] and of rows [n]."""
    import torch
    from torch.nn.functional import logsigmoid

    from alignbench_orpo.losses import log_odds_ratio, odds_ratio_loss

    def loss(scores: Mapping[str, GroupScores], rows: list[Pair]) -> tuple[Loss, Numbers]:
        chosen, rejected = scores["chosen"].means(), scores["rejected"].means()
        preference = torch.tensor([row.preference for row in rows], device=chosen.device)
        nll = scores["chosen"].per_token(-scores["chosen"].logps)
        odds = odds_ratio_loss(chosen, rejected, preference)
        with torch.no_grad():
            ratio = log_odds_ratio(chosen, rejected)
            numbers = {
                "rewards/chosen": odds_weight * chosen,
                "rewards/rejected": odds_weight * rejected,
                "rewards/margins": odds_weight * (chosen - rejected),
                "rewards/accuracies": ratio > 0,
                "logps/chosen": scores["chosen"].sums(),
                "logps/rejected": scores["rejected"].sums(),
                "log_odds_chosen": ratio,
                "log_odds_ratio": logsigmoid(ratio),
                "nll_loss": nll,
            }
        return [nll, odds_weight * odds], numbers

    return loss
