"""What a step of KTO does: its reference point over the whole step, then the loss of each answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from alignbench import GroupScores, Rows, Run, ScoringGroup, Sequence, TrainablePolicy, UnpairedPreference
from alignbench.reference import ahead, check_first_loss, logprobs
from alignbench_kto import losses

LEAST = 0.75
"""Smallest ratio of the two kinds' total weights that the paper advises, 3 to 4 (arXiv:2402.01306, eq. 9)."""


KINDS = ("chosen", "rejected")
RUNNING = tuple(f"{kind} {what}" for kind in KINDS for what in ("answers", "reward"))
"""What `bco` adds up over the training."""


class Objective:
    """One training on unpaired preferences."""

    def __init__(self, run: Run, rows: Rows[UnpairedPreference], policy: TrainablePolicy, config: Any):
        self.run, self.policy, self.config = run, policy, config
        self.reference = logprobs(run, rows)
        self.state: dict[str, Any] = {"checked": False, "kl": 0.0, **dict.fromkeys(RUNNING, 0.0)}
        self.point = 0.0
        """What a reward of the step is compared with: the KL (`kto`), or the middle of both kinds' rewards (`bco`)."""
        self.desirable: list[bool] = []
        """Of each answer of the step, whether it is desirable."""
        self._check_balance(rows)

    def sequences(self, rows: list[UnpairedPreference]) -> Mapping[str, list[Sequence]]:
        """Return the answers; those to one prompt share its computation."""
        return {"answers": _answers(rows)}

    def before_step(self, rows: list[UnpairedPreference]) -> None:
        """Note the kinds of the step's answers, and take its reference point, so that both are of the whole step.

        The point is scored without gradient; `apo_zero` has none.
        """
        self.desirable = [row.desirable for row in rows]
        if self.config.loss == "apo_zero":
            return
        if self.config.loss == "kto":
            if items := mismatched(rows):
                self.state["kl"] = self._log_ratios(items).mean().clamp(min=0).item()
            self.point = self.state["kl"]
            return
        items, state = _answers(rows), self.state
        scored = self.run.score({"answers": ScoringGroup(items, self.policy)})
        rewards = self.config.beta * (scored["answers"].sums() - self.reference(items))
        for row, reward in zip(rows, rewards.tolist(), strict=True):
            kind = "chosen" if row.desirable else "rejected"
            state[f"{kind} answers"] += 1
            state[f"{kind} reward"] += reward
        self.point = fmean(
            state[f"{kind} reward"] / state[f"{kind} answers"] for kind in KINDS if state[f"{kind} answers"]
        )

    def loss(
        self, scores: Mapping[str, GroupScores], rows: list[UnpairedPreference]
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the loss [n] of a micro-batch's answers, and numbers to log."""
        config, logps = self.config, scores["answers"].sums()
        ratio = logps - self.reference(_answers(rows))
        desirable = torch.tensor([row.desirable for row in rows], device=ratio.device)
        found, tolerance = self._weighted(ratio, desirable), scores["answers"].tolerance
        if not self.state["checked"]:
            self.state["checked"] = True
            known = self._weighted(torch.zeros_like(ratio), desirable)
            check_first_loss(found, known, tolerance)
        numbers: dict[str, Tensor | float] = {
            "rewards/accuracies": ahead(torch.where(desirable, ratio, -ratio).detach(), tolerance)
        }
        if config.loss != "apo_zero":
            numbers["kl" if config.loss == "kto" else "rewards/shift"] = self.point
        return found, numbers | self._of_kinds(config.beta * ratio.detach(), logps, desirable)

    def _of_kinds(self, rewards: Tensor, logps: Tensor, desirable: Tensor) -> dict[str, Tensor]:
        """Return rewards and log-probabilities [n] of each kind of answer, scaled so that their mean is that kind's.

        The trainer divides by all answers of the step. A kind that the step has no answer of is left out.
        """
        numbers: dict[str, Tensor] = {}
        for name, kind in (("chosen", desirable), ("rejected", ~desirable)):
            count = self.desirable.count(name == "chosen")
            if count:
                share = kind * (len(self.desirable) / count)
                numbers |= {f"rewards/{name}": share * rewards, f"logps/{name}": share * logps}
        if {"rewards/chosen", "rewards/rejected"} <= numbers.keys():
            numbers["rewards/margins"] = numbers["rewards/chosen"] - numbers["rewards/rejected"]
        return numbers

    def _weighted(self, ratio: Tensor, desirable: Tensor) -> Tensor:
        config = self.config
        if config.loss == "apo_zero":
            plain = losses.apo_zero(ratio, desirable, config.beta)
        else:
            plain = getattr(losses, config.loss)(ratio, desirable, config.beta, self.point)
        return torch.where(desirable, config.desirable_weight, config.undesirable_weight) * plain

    def _log_ratios(self, items: list[Sequence]) -> Tensor:
        """Return log pi/ref of answers that are not the rows' own, which no table holds."""
        scored = self.run.score(
            {"policy": ScoringGroup(items, self.policy), "start": ScoringGroup(items, self.run.start)}
        )
        return scored["policy"].sums() - scored["start"].sums()

    def _check_balance(self, rows: Rows[UnpairedPreference]) -> None:
        count = Counter(row.desirable for row in rows)
        good = self.config.desirable_weight * count[True]
        bad = self.config.undesirable_weight * count[False]
        if min(good, bad) < LEAST * max(good, bad):
            self.run.record.warning(
                "class weights",
                0,
                f"{count[True]} desirable and {count[False]} undesirable answers have total weights of {good:g} and "
                f"{bad:g}; set desirable_weight or undesirable_weight so that they are about equal",
            )


def _answers(rows: list[UnpairedPreference]) -> list[Sequence]:
    return [sequence for row in rows for sequence in row.sequences()]


def mismatched(rows: list[UnpairedPreference]) -> list[Sequence]:
    """Return each prompt with the answer to another prompt of the step, by a shift past the answers to its own.

    A prompt that the shift brings back to itself is left out: a step of one prompt has none.
    """
    prompts = [row.prompt_ids for row in rows]
    # The rows of a prompt side by side, wherever they stood.
    rows = sorted(rows, key=lambda row: prompts.index(row.prompt_ids))
    past = max(Counter(prompts).values())
    pairs = zip(rows, rows[past:] + rows[:past], strict=True)
    return [
        Sequence(row.prompt_ids, other.response_ids)
        for row, other in pairs
        if row.prompt_ids != other.prompt_ids
    ]
