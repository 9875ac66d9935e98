"""One training on groups of answers: rounds of rollouts, and epochs over each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignbench import GroupScores, PerToken, Policy, Prompt, Run, Sampling, ScoringGroup, Sequence
from alignbench.rewards import reward
from alignbench.rollouts import Rollouts, advantages, draw, equal_rewards, leave_one_out
from alignbench.spending import affordable
from alignbench_grpo import losses


@dataclass(frozen=True)
class Group:
    """One row of a step: the answers to one prompt, by its place in the round."""

    place: int


class GroupTraining:
    """Draws, rewards and learns from groups.

    All that changes from step to step lies in `state`, so that a checkpoint of weights and `state` is enough to go
    on: the round's number, its rollouts, their advantages, and the steps that are left.
    """

    def __init__(self, run: Run, config: Any):
        self.run, self.config = run, config
        self.leave_one_out = not hasattr(config, "scale")
        self.rows = run.rows(Prompt)
        self.reward = reward(run, config.judge, config.rewards)
        self.policy = run.adapt(dropout=False)
        self.state: dict[str, Any] = {"round": 0, "left": []}

    def train(self) -> Policy:
        """Train until the budget is spent, and return the policy."""
        self.run.train(
            self.policy,
            self.step,
            self.sequences,
            self.loss,
            learning_rate=self.config.learning_rate,
            repeats=self.config.epochs,
            state=self.state,
        )
        return self.policy

    # --- rollouts -------------------------------------------------------------------------------------------

    def step(self, number: int) -> list[Group]:
        """Return the groups of a step, after drawing new ones where all epochs are done."""
        if not self.state["left"] and not self._draw(number):
            return []
        return [Group(place) for place in self.state["left"].pop(0)]

    def _draw(self, step: int) -> bool:
        """Draw and reward one round; False where the budget pays for none."""
        config, state, run = self.config, self.state, self.run
        size = config.rollout_batch_size or run.batch
        most = affordable(run, state, size, first=run.batch)
        if not most:
            return False
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        drawn = draw(run, self.policy, self.rows, state["round"], size, config.answers, sampling, most=most)
        groups = len(drawn.answers) // config.answers
        plan = self._plan(groups)
        items = drawn.sequences()
        wanted = {}
        if config.beta:
            wanted["start"] = ScoringGroup(items, run.start, temperature=config.temperature)
        # With a single step in the round, the policy that learns is the one that drew.
        if len(plan) > 1 or self.leave_one_out:
            wanted["policy"] = ScoringGroup(items, self.policy, temperature=config.temperature)
        scored = run.score(wanted) if wanted else {}
        rewards = self._rewards(drawn)
        logps = {name: one.logps for name, one in scored.items()}
        kl = (logps["policy"] - logps["start"]).sum(1) if {"policy", "start"} <= logps.keys() else None
        self._report(step, drawn, rewards, kl)
        grid = rewards.view(groups, config.answers)
        if self.leave_one_out:
            off = 0.0 if kl is None else config.beta * kl.view_as(grid).to(grid.device)
            found = leave_one_out(grid - off)
        else:
            found = advantages(grid, config.scale)
        state |= {
            "prompts": [list(items[at].prompt) for at in range(0, len(items), config.answers)],
            "responses": [list(one.response) for one in items],
            "advantages": found.flatten(),
            "old": logps.get("policy"),
            "start": None if self.leave_one_out else logps.get("start"),
            "left": plan,
            "round": state["round"] + 1,
        }
        return True

    def _plan(self, groups: int) -> list[list[int]]:
        """The groups of each step, all epochs: in an order of its own for each epoch."""
        size, plan = self.run.batch, []
        for epoch in range(self.config.epochs):
            order = self.run.rng(f"steps/{self.state['round']}/{epoch}").permutation(groups)
            plan += [part.tolist() for part in np.array_split(order, -(-groups // size))]
        return plan

    def _rewards(self, drawn: Rollouts) -> Tensor:
        """Return the reward [N] of each answer; NaN where there is none."""
        found = self.reward(drawn.prompts, [one.text for one in drawn.answers])
        penalty = self.config.missing_eos_penalty
        values = [
            float("nan") if value is None else value - penalty * (not answer.finished)
            for value, answer in zip(found, drawn.answers, strict=True)
        ]
        return torch.tensor(values)

    # --- the step -------------------------------------------------------------------------------------------

    def sequences(self, step: list[Group]) -> Mapping[str, ScoringGroup]:
        """Return what a step scores: all answers of its groups, each group's after one prompt."""
        state, items = self.state, []
        for group in step:
            prompt = tuple(state["prompts"][group.place])
            items += [Sequence(prompt, tuple(state["responses"][at])) for at in self._places(group)]
        return {"answers": ScoringGroup(items, temperature=self.config.temperature)}

    def loss(
        self, scores: Mapping[str, GroupScores], step: list[Group]
    ) -> tuple[Tensor | PerToken, Mapping[str, Tensor | PerToken]]:
        """Return the loss of a micro-batch's groups, per group or per token, and numbers to log."""
        config, answers, state = self.config, scores["answers"], self.state
        logps, mask = answers.logps, answers.mask
        rows = torch.tensor([at for group in step for at in self._places(group)], device=logps.device)
        width = mask.shape[1]
        advantage = state["advantages"].to(logps.device)[rows]
        old = logps.detach() if state["old"] is None else state["old"][rows, :width]
        high = config.clip if config.clip_high is None else config.clip_high
        if self.leave_one_out:
            whole = (logps * mask).sum(1), (old * mask).sum(1)
            found = losses.rloo(*whole, advantage, config.clip, high)
            ratio = torch.exp(whole[0] - whole[1]).detach()
            return self._of_groups(found), {
                "clip_ratio/region_mean": self._of_groups(
                    losses.outside(ratio, advantage, config.clip, high)
                ),
                "val/ratio": self._of_groups(ratio),
            }
        ratio = losses.ratios(logps, old, mask, config.ratio)
        per_token = losses.clipped(ratio, advantage[:, None], config.clip, high).expand_as(logps)
        cut = losses.outside(ratio.detach(), advantage[:, None], config.clip, high)
        numbers: dict[str, Tensor | PerToken] = {
            "clip_ratio/region_mean": self._of_ratios(answers, cut),
            "val/ratio": self._of_ratios(answers, ratio.detach()),
        }
        if state["start"] is not None:
            kl = losses.k3(logps, state["start"][rows, :width])
            numbers["kl"] = answers.per_token(kl.detach())
            per_token = per_token + config.beta * kl
        if config.normalise == "token":
            return answers.per_token(per_token), numbers
        return self._of_groups(
            losses.of_answers(per_token, mask, config.normalise, config.max_new_tokens)
        ), numbers

    def _places(self, group: Group) -> range:
        return range(group.place * self.config.answers, (group.place + 1) * self.config.answers)

    def _of_ratios(self, answers: GroupScores, values: Tensor) -> Tensor | PerToken:
        """Return a value of each ratio as one to log: of each token [N, R], or of each answer [N, 1]."""
        if self.config.ratio == "token":
            return answers.per_token(values.float())
        return self._of_groups(values[:, 0])

    def _of_groups(self, values: Tensor) -> Tensor:
        """Return the mean of each group [n] of values [N]."""
        return values.float().view(-1, self.config.answers).mean(1)

    # --- is it well? ----------------------------------------------------------------------------------------

    def _report(self, step: int, drawn: Rollouts, rewards: Tensor, kl: Tensor | None) -> None:
        """Log a round, and warn of rewards from which nothing can be learnt."""
        run, answers = self.run, drawn.answers
        known = rewards[rewards.isfinite()]
        equal = equal_rewards(rewards.view(-1, self.config.answers))
        numbers = {
            "reward": known.mean().item() if len(known) else 0.0,
            "reward_std": known.std().item() if len(known) > 1 else 0.0,
            "frac_reward_zero_std": equal.float().mean().item(),
            "completions/mean_length": sum(len(one.ids) for one in answers) / len(answers),
            "completions/clipped_ratio": sum(not one.finished for one in answers) / len(answers),
        }
        if kl is not None:
            numbers["objective/kl"] = kl.mean().item()
        run.log(step, **numbers)
        if not len(known):
            run.record.warning("no rewards", step, "no answer got a reward: there is nothing to learn")
        elif bool(equal.all()):
            run.record.warning(
                "equal rewards", step, "all answers to a prompt got the same reward, for every prompt"
            )
        if not any(one.finished for one in answers):
            run.record.warning("no end", step, "no answer ended by itself")
