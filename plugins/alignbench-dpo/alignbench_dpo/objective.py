"""What a training step of the family does: scores to pairs, pairs to a loss, and the numbers that are logged."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Any

import torch
from torch import Tensor

from alignbench import (
    GroupScores,
    Pair,
    PerToken,
    Rows,
    Run,
    ScoringGroup,
    Sequence,
    TrainablePolicy,
)
from alignbench.reference import ahead, check_first_loss, logprobs
from alignbench_dpo.catalogue import LOSSES
from alignbench_dpo.losses import MOMENTUM, Answers, Pairs, matched, pair_loss, token_nll


class Objective:
    """One loss of the family over one training."""

    def __init__(self, run: Run, rows: Rows[Pair], policy: TrainablePolicy, config: Any):
        self.run, self.policy, self.config = run, policy, config
        self.reference = logprobs(run, rows) if LOSSES[config.loss].reference else None
        self.state: dict[str, Any] = {"checked": self.reference is None}
        self._step: Pairs | None = None
        self._place: dict[int, int] = {}
        """Where each row of the step stands in it, by its identity: two rows may be equal."""

    @property
    def whole_step(self) -> bool:
        """Whether the loss needs a number or an order of all rows of a step."""
        return LOSSES[self.config.loss].whole_step

    def sequences(self, rows: list[Pair]) -> Mapping[str, ScoringGroup]:
        """Return the chosen and the rejected answers; those of a pair share their prompt's computation."""
        start = self.run.start if LOSSES[self.config.loss].kl else None
        return {name: ScoringGroup(items, kl_from=start) for name, items in sequences(rows).items()}

    def before_step(self, rows: list[Pair]) -> None:
        """Score all rows of a step, for a loss that compares each with the others."""
        groups = {name: ScoringGroup(items, self.policy) for name, items in sequences(rows).items()}
        pairs = self._pairs(self.run.score(groups), rows)
        self._place = {id(row): place for place, row in enumerate(rows)}
        if self.config.loss == "beta_dpo":
            mean = self.config.beta * pairs.margin.mean().item()
            before = self.state.get("mean_margin", mean)
            self.state["mean_margin"] = MOMENTUM * before + (1 - MOMENTUM) * mean
            self._step = Pairs(pairs.chosen, pairs.rejected, shift=mean - before)
        else:
            self._step = matched(pairs, self.config.loss)

    def loss(
        self, scores: Mapping[str, GroupScores], rows: list[Pair]
    ) -> tuple[Tensor | list[Tensor | PerToken], Mapping[str, Tensor | PerToken]]:
        """Return the loss of a micro-batch's pairs, [n] and for some an NLL per token, and numbers to log."""
        config, pairs = self.config, self._of_step(self._pairs(scores, rows), rows)
        chosen, rejected = pairs.chosen, pairs.rejected
        preference = torch.tensor([row.preference for row in rows], device=chosen.logps.device)
        losses = pair_loss(pairs, preference, config.loss, config)
        if not self.state["checked"]:
            self.state["checked"] = True
            still = Pairs(chosen.at_reference(), rejected.at_reference(), pairs.matched, pairs.shift)
            if not self.whole_step:
                known = pair_loss(still, preference, config.loss, config)
                check_first_loss(losses, known, scores["chosen"].tolerance)
        numbers: dict[str, Tensor | PerToken] = {
            "rewards/chosen": config.beta * chosen.ratio.detach(),
            "rewards/rejected": config.beta * rejected.ratio.detach(),
            "rewards/margins": config.beta * pairs.margin.detach(),
            "rewards/accuracies": ahead(pairs.margin.detach(), scores["chosen"].tolerance),
            "logps/chosen": chosen.logps,
            "logps/rejected": rejected.logps,
        }
        if chosen.kl is not None and rejected.kl is not None:
            numbers |= {"kl/chosen": chosen.kl.detach(), "kl/rejected": rejected.kl.detach()}
        if not LOSSES[config.loss].token_nll:
            return losses, numbers
        numbers["nll_loss"] = scores["chosen"].per_token(-scores["chosen"].logps)
        return [losses, *token_nll(scores, preference, config)], numbers

    def _pairs(self, scores: Mapping[str, GroupScores], rows: list[Pair]) -> Pairs:
        made = []
        for name, items in sequences(rows).items():
            logps = scores[name].sums()
            reference = torch.zeros_like(logps) if self.reference is None else self.reference(items)
            kl = scores[name].kl.sum(-1) if LOSSES[self.config.loss].kl else None
            made.append(Answers(logps, reference, scores[name].mask.sum(-1), kl))
        return Pairs(*made)

    def _of_step(self, pairs: Pairs, rows: list[Pair]) -> Pairs:
        """Add what the rows of a micro-batch need to know of the whole step."""
        step = self._step
        if step is None:
            return pairs
        places = torch.tensor([self._place[id(row)] for row in rows], device=pairs.margin.device)

        def some(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[places]

        chosen = Answers(**{**vars(pairs.chosen), "matched": some(step.chosen.matched)})
        rejected = Answers(**{**vars(pairs.rejected), "matched": some(step.rejected.matched)})
        return Pairs(chosen, rejected, some(step.matched), step.shift)


def sequences(rows: Many[Pair]) -> Mapping[str, list[Sequence]]:
    """Return the chosen and the rejected answers of pairs, which share their prompts."""
    chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
    return {"chosen": list(chosen), "rejected": list(rejected)}
