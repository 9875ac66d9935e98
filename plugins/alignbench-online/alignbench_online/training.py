"""Rounds of answers, judged and learnt from: as pairs, or the best alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from alignbench import (
    GroupScores,
    Judge,
    NamedJudge,
    PerToken,
    Policy,
    Prompt,
    Run,
    Sampling,
    ScoringGroup,
    Sequence,
)
from alignbench.reference import ahead
from alignbench.rewards import reward
from alignbench.rollouts import Rollouts, draw
from alignbench.spending import affordable


@dataclass(frozen=True)
class Item:
    """One row of a step: a prompt, by its place in the round."""

    place: int


class OnlineTraining(ABC):
    """Draws and judges the answers of each round; what is learnt from them is the subclass's.

    All that changes from step to step lies in `state`: weights and `state` are enough to go on.
    """

    def __init__(self, run: Run, config: Any):
        self.run, self.config = run, config
        self.rows = run.rows(Prompt)
        named: NamedJudge | None = config.judge
        self.judge: Judge | None = None
        """Who compares the two answers to a prompt, where it reads both at once."""
        self.reward: Callable[[list[Prompt], list[str]], list[float | None]]
        if named is not None and config.answers == 2 and not config.rewards:
            judge = run.judge(named)
            if type(judge).judge_pairs is not Judge.judge_pairs:
                self.judge = judge
            self.reward = lambda prompts, texts: [one.value for one in judge.score(prompts, texts)]
        else:
            self.reward = reward(run, named, config.rewards)
        self.policy = run.adapt(dropout=False)
        self.state: dict[str, Any] = {"round": 0, "left": []}

    def train(self) -> Policy:
        """Train until the budget is spent, and return the policy."""
        rate = self.config.learning_rate
        self.run.train(
            self.policy, self.step, self.sequences, self.loss, learning_rate=rate, state=self.state
        )
        return self.policy

    def step(self, number: int) -> list[Item]:
        """Return the prompts of a step, after a new round where the last one is used up."""
        if not self.state["left"] and not self._draw(number):
            return []
        return [Item(place) for place in self.state["left"].pop(0)]

    def _draw(self, step: int) -> bool:
        """Draw and reward one round; False where the budget pays for none."""
        config, state, run = self.config, self.state, self.run
        size = config.rollout_batch_size or run.batch
        most = affordable(run, state, size, first=run.batch)
        if not most:
            return False
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        source = self.policy if config.source == "policy" else run.start
        drawn = draw(run, source, self.rows, state["round"], size, config.answers, sampling, most=most)
        scores = self._scores(drawn)
        best, worst, decided = extremes(scores)
        count = len(scores)
        self._report(step, drawn, scores, decided)
        items = drawn.sequences()
        chosen = [items[at * config.answers + place] for at, place in enumerate(best.tolist())]
        rejected = [items[at * config.answers + place] for at, place in enumerate(worst.tolist())]
        state |= {
            "prompts": [list(one.prompt) for one in chosen],
            "chosen": [list(one.response) for one in chosen],
            "rejected": [list(one.response) for one in rejected],
            "decided": decided.float(),
            "left": [list(range(at, min(at + run.batch, count))) for at in range(0, count, run.batch)],
            "round": state["round"] + 1,
            **self._kept(chosen, rejected),
        }
        return True

    def _scores(self, drawn: Rollouts) -> Tensor:
        """Return the scores [G, K] of the answers, NaN where there is none; of a comparison, its two shares.

        An answer that does not end loses `missing_eos_penalty`; in a comparison, it loses against one that does.
        """
        texts, penalty = [one.text for one in drawn.answers], self.config.missing_eos_penalty
        ends = torch.tensor([one.finished for one in drawn.answers]).view(-1, self.config.answers)
        if self.judge is None:
            found = self.reward(drawn.prompts, texts)
            scores = torch.tensor([float("nan") if value is None else value for value in found])
            return scores.view_as(ends) - penalty * ~ends
        shares = self.judge.compare(drawn.prompts[::2], texts[::2], texts[1::2])
        first = torch.tensor([float("nan") if share is None else share for share in shares])
        return (
            ended(torch.stack([first, 1 - first], 1), ends) if penalty else torch.stack([first, 1 - first], 1)
        )

    def _sequences(self, step: list[Item], kind: str) -> list[Sequence]:
        state = self.state
        return [Sequence(tuple(state["prompts"][one.place]), tuple(state[kind][one.place])) for one in step]

    def _column(self, step: list[Item], name: str, like: Tensor) -> Tensor:
        return self.state[name].to(like.device)[torch.tensor([one.place for one in step], device=like.device)]

    def _kept(self, chosen: list[Sequence], rejected: list[Sequence]) -> dict[str, Any]:
        """Return what else a round keeps."""
        return {}

    @abstractmethod
    def sequences(self, step: list[Item]) -> Mapping[str, Any]:
        """Return what a step scores."""

    @abstractmethod
    def loss(self, scores: Mapping[str, GroupScores], step: list[Item]) -> tuple[Any, Mapping[str, Any]]:
        """Return the loss of a micro-batch's prompts, and numbers to log."""

    def _report(self, step: int, drawn: Rollouts, scores: Tensor, decided: Tensor) -> None:
        known = scores[scores.isfinite()]
        answers = drawn.answers
        rewards = {
            "objective/scores": known.mean().item() if len(known) else 0.0,
            "objective/scores_std": known.std(correction=0).item() if len(known) else 0.0,
        }
        self.run.log(
            step,
            **({} if self.judge is not None else rewards),
            **{
                "frac_reward_zero_std": 1 - decided.float().mean().item(),
                "completions/mean_length": sum(len(one.ids) for one in answers) / len(answers),
                "completions/clipped_ratio": sum(not one.finished for one in answers) / len(answers),
            },
        )
        if not bool(decided.any()):
            self.run.record.warning(
                "no preferences", step, "no answer was found better than another to its prompt"
            )


class PairTraining(OnlineTraining):
    """Online DPO: the best answer against the worst, both compared with the start."""

    def sequences(self, step: list[Item]) -> Mapping[str, list[Sequence]]:
        chosen, rejected = (self._sequences(step, kind) for kind in ("chosen", "rejected"))
        # One object for both, so that their prompt is computed once.
        same = zip(chosen, rejected, strict=True)
        return {"chosen": chosen, "rejected": [Sequence(good.prompt, bad.response) for good, bad in same]}

    def _kept(self, chosen: list[Sequence], rejected: list[Sequence]) -> dict[str, Any]:
        start = self.run.start
        found = self.run.score(
            {"chosen": ScoringGroup(chosen, start), "rejected": ScoringGroup(rejected, start)}
        )
        return {f"{name}_start": one.sums() for name, one in found.items()}

    def loss(
        self, scores: Mapping[str, GroupScores], step: list[Item]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss [n] of pairs; a pair without a preference has none."""
        config, ratios = self.config, {}
        for name in ("chosen", "rejected"):
            logps = scores[name].sums()
            ratios[name] = logps - self._column(step, f"{name}_start", logps)
            if config.loss == "ipo":
                ratios[name] = ratios[name] / scores[name].mask.sum(-1)
        margin = ratios["chosen"] - ratios["rejected"]
        decided = self._column(step, "decided", margin)
        losses = (
            (margin - 1 / (2 * config.beta)) ** 2
            if config.loss == "ipo"
            else -logsigmoid(config.beta * margin)
        )
        return decided * losses, {
            "rewards/chosen": config.beta * ratios["chosen"],
            "rewards/rejected": config.beta * ratios["rejected"],
            "rewards/margins": config.beta * margin,
            "rewards/accuracies": ahead(margin.detach(), scores["chosen"].tolerance),
        }


class BestTraining(OnlineTraining):
    """Rejection sampling: the best answer is imitated."""

    def sequences(self, step: list[Item]) -> Mapping[str, list[Sequence]]:
        return {"best": self._sequences(step, "chosen")}

    def loss(
        self, scores: Mapping[str, GroupScores], step: list[Item]
    ) -> tuple[PerToken, Mapping[str, PerToken]]:
        """Return the negative log-likelihood of each token; of a prompt without a preference, 0."""
        best = scores["best"]
        decided = self._column(step, "decided", best.logps)
        return best.per_token(-best.logps * decided[:, None]), {"nll_loss": best.per_token(-best.logps)}


def ended(shares: Tensor, ends: Tensor) -> Tensor:
    """Return the shares [G, 2] of comparisons in which an answer that ends wins against one that does not."""
    return torch.where(ends.all(1, keepdim=True) | ~ends.any(1, keepdim=True), shares, ends.float())


def extremes(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places [G] of the best and the worst answer of each group [G, K], and whether they differ.

    NaN is not a score; the first of equal ones is taken, for the worst the last.
    """
    known = scores.isfinite()
    best = scores.masked_fill(~known, -torch.inf).argmax(1)
    worst = scores.shape[1] - 1 - scores.masked_fill(~known, torch.inf).flip(1).argmin(1)
    place = torch.arange(len(scores))
    found = (known.sum(1) > 1) & (scores[place, best] > scores[place, worst])
    return best, worst, found
