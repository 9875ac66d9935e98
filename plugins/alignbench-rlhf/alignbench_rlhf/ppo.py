"""PPO with a per-token KL penalty: policy, reference, critic and reward model are adapters on one base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alignbench import (
    Answer,
    GroupScores,
    PerToken,
    PluginError,
    Policy,
    Prompt,
    Run,
    Sampling,
    ScoringGroup,
    Sequence,
    Text,
    TrainablePolicy,
)
from alignbench.rewards import reward_model
from alignbench.rollouts import draw
from alignbench.spending import affordable, counts_everything
from alignbench_rlhf import losses

LEAST = 2
"""Rollouts of a round at least: advantages are whitened over a round."""

OFF = {True: 1e-3, False: 1e-2}
"""How far the first ratios of a round may be off 1: at most in float32, on average in less."""


@dataclass(frozen=True)
class Item:
    """One row of a step: a rollout by its place in the round, and the texts of its pretraining loss."""

    rollout: int
    texts: tuple[Text, ...] = ()


class PPO:
    """One training: rounds of rollouts, and epochs over each.

    All that changes from step to step lies in `state`, so that a checkpoint of weights and `state` is enough
    to go on: the round's number, its rollouts, the minibatches that are left, and the KL coefficient.
    """

    def __init__(self, run: Run, config: Any):
        self.run, self.config = run, config
        self.rows = run.rows(Prompt)
        self.texts = run.rows(Text) if config.ptx_coef else None
        if self.texts is not None and not len(self.texts):
            raise PluginError(
                "`ptx_coef` mixes in plain text, and there is none", "name a source in data.pretraining"
            )
        self.reward = reward_model(run, **config.reward_model.model_dump())
        self.policy = run.adapt(name="policy", dropout=False)
        self.critic, self.head = self._critic()
        self.reference: Policy = run.start
        self.moving = None
        if config.reference_decay is not None:
            self.reference = self.moving = run.adapt(name="reference", dropout=False)
        self.state: dict[str, Any] = {"round": 0, "left": [], "beta": config.beta}

    def train(self) -> Policy:
        """Train until the budget is spent, and return the policy."""
        config = self.config
        learning_rates: dict[Policy | nn.Module, float] = {self.head: config.head_learning_rate}
        if self.critic is not self.policy:
            learning_rates[self.critic] = config.critic_learning_rate
        self.run.train(
            self.policy,
            self.minibatch,
            self.sequences,
            self.loss,
            learning_rate=config.learning_rate,
            modules={"value": self.head},
            learning_rates=learning_rates,
            repeats=config.ppo_epochs,
            state=self.state,
            proxy=self.reward.score,
        )
        return self.policy

    def _critic(self) -> tuple[TrainablePolicy, nn.Linear]:
        """The critic begins as the reward model, whose score of what stands there is a fair first guess."""
        head = nn.Linear(self.reward.head.in_features, 1).to(self.reward.head.weight.device)
        if self.config.critic == "shared-trunk":
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            return self.policy, head
        head.load_state_dict(self.reward.head.state_dict())
        return self.run.adapt(self.reward.adapter, name="critic", dropout=False), head

    # --- rollouts -------------------------------------------------------------------------------------------

    def minibatch(self, step: int) -> list[Item]:
        """Return the rollouts of a step, after drawing new ones where all epochs are done; [] ends it."""
        state, run = self.state, self.run
        self._check_first_ratios(step)
        if not state["left"] and not self._draw(step):
            return []
        chosen = state["left"].pop(0)
        if self.texts is None:
            return [Item(place) for place in chosen]
        found = run.draw(self.texts, step, len(chosen) * self.config.ptx_texts)
        return [Item(place, tuple(found[at :: len(chosen)])) for at, place in enumerate(chosen)]

    def _draw(self, step: int) -> bool:
        """Draw, score and plan one round; False where the training has to stop."""
        config, state, run = self.config, self.state, self.run
        wanted = affordable(run, state, config.rollout_batch_size, first=run.batch)
        if wanted < LEAST and counts_everything(run):
            return False
        self._move_reference()
        sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
        size, number = config.rollout_batch_size, state["round"]
        drawn = draw(run, self.policy, self.rows, number, size, 1, sampling, most=wanted)
        answers, items = drawn.answers, drawn.sequences()
        scored = run.score(
            {
                "policy": ScoringGroup(items, self.policy, temperature=config.temperature),
                "values": ScoringGroup(items, self.critic, self.head),
                "reference": ScoringGroup(items, self.reference, temperature=config.temperature),
            }
        )
        logps, values, mask = scored["policy"].logps, scored["values"].values, scored["policy"].mask
        ended = torch.tensor([answer.finished for answer in answers], device=mask.device)
        score = self.reward.score(items) - config.missing_eos_penalty * ~ended
        rewards = losses.token_rewards(score, logps, scored["reference"].logps, mask, state["beta"])
        if state["round"] == 0:
            values = self.fit(values, rewards, mask)
        advantages, returns = losses.advantages(
            rewards, values, mask, gamma=config.gamma, gae_lambda=config.gae_lambda
        )
        kl = ((logps - scored["reference"].logps) * mask).sum(1)
        surprise = -logps.sum() / mask.sum()
        healthy = self._examine(step, answers, score, kl, surprise, values, returns, mask)
        if config.target_kl is not None:
            observed = kl.mean().item(), config.target_kl
            state["beta"] = losses.adapted(state["beta"], *observed, len(items), config.horizon)
        state |= {
            "prompts": [list(item.prompt) for item in items],
            "responses": [list(item.response) for item in items],
            "logps": logps,
            "values": values,
            "advantages": losses.whiten(advantages, mask),
            "returns": returns,
            "left": self._plan(len(items)),
            "first": None,
            "round": number + 1,
        }
        return healthy

    def fit(self, values: Tensor, rewards: Tensor, mask: Tensor) -> Tensor:
        """Fit the critic's head, once, to the returns by a straight line; return the values so fitted.

        A reward model has only learnt what whole answers are worth to each other: what it says of half an answer
        lies elsewhere and is spread much wider than the returns, so that it would explain less than a constant does,
        and the critic would spend the first rounds on getting there.
        """
        _, returns = losses.advantages(rewards, values, mask, gamma=self.config.gamma, gae_lambda=1.0)
        known, wanted = values[mask], returns[mask]
        spread = known.var(correction=0)
        slope = ((known - known.mean()) * (wanted - wanted.mean())).mean() / spread.clamp(min=1e-12)
        slope = slope.clamp(min=0.0)
        shift = wanted.mean() - slope * known.mean()
        with torch.no_grad():
            self.head.weight.mul_(slope)
            self.head.bias.mul_(slope).add_(shift)
        return (slope * values + shift) * mask

    def _plan(self, number: int) -> list[list[int]]:
        """The minibatches of all epochs over a round: each epoch in an order of its own."""
        size, plan = self.run.batch, []
        for epoch in range(self.config.ppo_epochs):
            order = self.run.rng(f"minibatches/{self.state['round']}/{epoch}").permutation(number)
            parts = -(-number // size)
            plan += [part.tolist() for part in np.array_split(order, parts)]
        return plan

    def _move_reference(self) -> None:
        decay = self.config.reference_decay
        if decay is not None and self.moving is not None and self.state["round"]:
            with torch.no_grad():
                weights = zip(self.moving.parameters(), self.policy.parameters(), strict=True)
                for kept, moved in weights:
                    kept.lerp_(moved, 1 - decay)

    # --- the step -------------------------------------------------------------------------------------------

    def sequences(self, batch: list[Item]) -> Mapping[str, ScoringGroup]:
        """Return what a step scores: the rollouts under policy and critic, and the texts."""
        config, state = self.config, self.state
        items = [
            Sequence(tuple(state["prompts"][item.rollout]), tuple(state["responses"][item.rollout]))
            for item in batch
        ]
        term = "ppo" if config.critic == "shared-trunk" else "value"
        groups = {
            "policy": ScoringGroup(items, self.policy, temperature=config.temperature, term="ppo"),
            "values": ScoringGroup(items, self.critic, self.head, term=term),
        }
        if self.texts is not None:
            texts = [sequence for item in batch for text in item.texts for sequence in text.sequences()]
            groups["texts"] = ScoringGroup(texts, self.policy, term="ptx")
        return groups

    def loss(
        self, scores: Mapping[str, GroupScores], batch: list[Item]
    ) -> tuple[Mapping[str, list[PerToken]], Mapping[str, PerToken]]:
        """Return the terms of the loss, per token, and numbers to log."""
        config, policy, critic = self.config, scores["policy"], scores["values"]
        width = policy.mask.shape[1]
        rows = torch.tensor([item.rollout for item in batch], device=policy.mask.device)
        old, values, advantages, returns = (
            self.state[name][rows, :width] for name in ("logps", "values", "advantages", "returns")
        )
        ratio = torch.exp(policy.logps.detach() - old)
        ppo = policy.per_token(losses.policy_loss(policy.logps, old, advantages, config.clip))
        error = losses.value_loss(critic.values, values, returns, config.value_clip)
        value = critic.per_token(config.value_coef * error)
        terms = {"ppo": [ppo], "value": [value]} if config.critic == "adapter" else {"ppo": [ppo, value]}
        numbers = {
            "loss/policy_avg": ppo,
            "loss/value_avg": critic.per_token(error),
            "policy/clipfrac_avg": policy.per_token((ratio - 1).abs() > config.clip),
            "policy/approxkl_avg": policy.per_token(0.5 * (policy.logps.detach() - old) ** 2),
            "val/ratio": policy.per_token(ratio),
        }
        if self.texts is not None:
            texts = scores["texts"]
            numbers["nll_loss"] = texts.per_token(-texts.logps)
            terms["ptx"] = [texts.per_token(-config.ptx_coef * texts.logps)]
        if self.state["first"] is None:
            off = (ratio - 1).abs()[policy.mask]
            exact = policy.tolerance is not None and policy.tolerance < 1e-4
            self.state["first"] = torch.stack(
                [off.max() if exact else off.mean(), off.new_tensor(OFF[exact])]
            )
        return terms, numbers

    # --- is it well? ----------------------------------------------------------------------------------------

    def _check_first_ratios(self, step: int) -> None:
        """Warn where the first minibatch of a round did not find the policy that drew it."""
        first = self.state.get("first")
        if isinstance(first, Tensor):
            off, limit = first.tolist()
            self.state["first"] = False
            if not off <= limit:
                self.run.record.warning(
                    "ratio",
                    step,
                    f"the first ratios of a round are off 1 by {off:.2g}: rollouts and updates differ",
                )

    def _examine(
        self,
        step: int,
        answers: list[Answer],
        score: Tensor,
        kl: Tensor,
        surprise: Tensor,
        values: Tensor,
        returns: Tensor,
        mask: Tensor,
    ) -> bool:
        """Log the round, record its warnings, and return whether to continue.

        The mean surprise of a policy at its own tokens is an unbiased estimate of its entropy.
        """
        run = self.run
        tokens = mask.sum().clamp(min=1)
        error = ((values - returns)[mask] ** 2).mean()
        spread = returns[mask].var(correction=0)
        found = torch.stack(
            [
                score.mean(),
                score.std(correction=0),
                kl.mean(),
                kl.std(correction=0) / len(kl) ** 0.5,
                tokens / len(answers),
                error,
                spread,
                surprise,
            ]
        ).tolist()
        mean, deviation, nats, doubt, length, error, spread, entropy = found
        finished = sum(answer.finished for answer in answers) / len(answers)
        run.log(
            step,
            **{
                "objective/scores": mean,
                "objective/scores_std": deviation,
                "objective/kl": nats,
                "objective/kl_coef": self.state["beta"],
                "objective/entropy": entropy * length,
                "policy/entropy_avg": entropy,
                "val/explained_variance": 1 - error / max(spread, 1e-12),
                "completions/mean_length": length,
                "completions/clipped_ratio": 1 - finished,
            },
        )
        if nats + 3 * doubt < -1e-3:
            run.record.warning(
                "negative KL", step, f"the KL from the reference is {nats:.3g} nats, below what chance allows"
            )
        if finished == 0:
            run.record.warning("no end", step, "no answer ended by itself")
        if deviation < 1e-6:
            run.record.warning(
                "equal rewards", step, "all rollouts got the same reward: there is nothing to learn"
            )
        # Against the first round's: a critic begins wherever the reward model takes half an answer to be.
        if error > 10 * max(self.state.setdefault("value_error", error), deviation**2):
            run.record.warning(
                "value loss", step, f"the critic's error is {error:.3g} and grows: it diverges"
            )
        if not nats <= self.config.max_kl:
            run.record.warning(
                "KL", step, f"the KL from the reference is {nats:.3g} nats for each answer: stopped"
            )
            return False
        return True
