"""Chooses the weights of a training by what a judge says of their answers, not by their loss."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from alignbench.api.config import Select
from alignbench.api.method import Rows, Run
from alignbench.api.policy import Policy
from alignbench.rows import Demonstration, Prompt

if TYPE_CHECKING:
    from alignbench.api.judge import Judge


class Selection:
    """Evaluates a policy now and then while it trains, and keeps the weights whose answers score best.

    A validation loss rises long before answers get worse, so that it would stop too early (InstructGPT,
    arXiv:2203.02155, appendix C.1). Both curves are logged.
    """

    def __init__(self, run: Run, policy: Policy, select: Select, state: MutableMapping[str, Any]):
        self.run, self.policy, self.select, self.state = run, policy, select, state
        self.judge: Judge = run.judge(select.by)
        self.demonstrations: Rows[Demonstration] = run.rows(Demonstration, "validation")
        self.prompts = list(run.rows(Prompt, "validation"))[: select.prompts]
        state.setdefault("selection", {"evaluated": 0, "score": None, "weights": []})

    def on_step_end(self, step: int, progress: float) -> None:
        """Evaluate the policy wherever another share of the training is done."""
        best = self.state["selection"]
        if progress * self.select.evaluations < best["evaluated"] + 1 - 1e-9:
            return
        best["evaluated"] = int(progress * self.select.evaluations + 1e-9)
        key = int(self.run.rng("selection").integers(2**62))
        answers = self.policy.answer(self.prompts, self.select.sampling, key)
        scores = [one.value for one in self.judge.score(self.prompts, [one.text for one in answers])]
        known = [score for score in scores if score is not None]
        score = sum(known) / len(known) if known else float("-inf")
        scored = self.policy.logprobs([row.sequences()[0] for row in self.demonstrations])
        tokens = sum(len(one.logps) for one in scored)
        nll = -sum(float(one.logps.sum()) for one in scored) / max(tokens, 1)
        self.run.log(step, validation_nll=nll, validation_score=score)
        if best["score"] is None or score > best["score"]:
            best |= {"score": score, "weights": [weight.detach().clone() for weight in self._weights()]}

    def restore_best(self) -> None:
        """Put the best weights back."""
        import torch

        with torch.no_grad():
            for weight, kept in zip(self._weights(), self.state["selection"]["weights"], strict=True):
                weight.copy_(kept)

    def _weights(self) -> list[Any]:
        return list(self.policy.parameters())  # pyright: ignore[reportAttributeAccessIssue]
