"""Odds ratio preference optimisation: imitation and preference in one loss, without a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from alignbench import GroupScores, Method, MethodConfig, Pair, Policy, Run, Sequence

if TYPE_CHECKING:
    from torch import Tensor


class ORPO(Method):
    """Odds ratio preference optimisation: L = NLL(chosen) + odds_weight * L_OR.

    Source: Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference Model"
    (arXiv:2403.07691). The NLL is over the answer's tokens and its end, as in the paper's text (its code also
    counts the prompt and leaves the end out); both terms see the same tokens.
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """How fast to learn, and how much the preference counts beside the imitation."""

        learning_rate: float = Field(2e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        odds_weight: float = Field(0.1, ge=0)
        """Weight of the odds-ratio term: the paper's lambda (TRL calls it beta). 0 leaves imitation alone."""

    def align(self, run: Run) -> Policy:
        policy = run.adapt()
        loss = _loss(self.config.odds_weight)
        run.train(policy, run.rows(Pair), _sequences, loss, learning_rate=self.config.learning_rate)
        return policy


def _sequences(rows: list[Pair]) -> Mapping[str, list[Sequence]]:
    chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
    return {"chosen": list(chosen), "rejected": list(rejected)}


def _loss(odds_weight: float) -> Callable[..., Any]:
    import torch

    from alignbench_orpo.losses import log_odds_ratio, odds_ratio_loss

    def loss(scored: Mapping[str, GroupScores], rows: list[Pair]) -> tuple[Tensor, Mapping[str, Tensor]]:
        chosen, rejected = scored["chosen"], scored["rejected"]
        preference = torch.tensor([row.preference for row in rows], device=chosen.logps.device)
        nll = -chosen.token_mean(chosen.logps)
        odds = chosen.row_mean(odds_ratio_loss(chosen.means(), rejected.means(), preference))
        ratio = log_odds_ratio(chosen.means().detach(), rejected.means().detach())
        numbers = {
            "chosen": chosen.row_mean(chosen.sums().detach()),
            "rejected": chosen.row_mean(rejected.sums().detach()),
            "margin": chosen.row_mean(chosen.means().detach() - rejected.means().detach()),
            "log_odds": chosen.row_mean(ratio),
            "accuracy": chosen.row_mean((ratio > 0).float()),
            "nll": nll.detach(),
        }
        return nll + odds_weight * odds, numbers

    return loss
