"""One optimiser step up to its gradient: micro-batches, their scores, their share of the loss, and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import Module, Parameter
from transformers.modeling_layers import GradientCheckpointingLayer

from alignbench.api.config import Training
from alignbench.api.method import GroupScores, LossFn, ScoreFn, ScoringGroup
from alignbench.errors import ModelError, PluginError, first_line
from alignbench.models import ModelPolicy
from alignbench.models.forward.groups import Group, kept_by, read, to_group
from alignbench.models.forward.memory import for_activations, out_of_memory
from alignbench.models.meter import Tally, metered
from alignbench.rows import Ids, Sequence
from alignbench.training.batches import cut, cut_evenly
from alignbench.training.gradients import Gradients
from alignbench.training.reduction import Reduction

RECOMPUTED = 4
"""How many times less a forward keeps where activations are recomputed: the input of each layer, and one layer."""

FULL = 4096
"""Tokens of a forward below which unpacking 4-bit weights costs more than recomputing activations."""


@dataclass(frozen=True)
class StepGradient:
    """What one step computed; its gradient is in the weights."""

    loss: Tensor
    """float32 scalar, detached."""
    numbers: Mapping[str, Tensor | float]


class GradientStep:
    """Computes the gradient of one step after another; gives up speed where the memory does not suffice."""

    def __init__(self, policy: ModelPolicy, sequences: ScoreFn[Any], loss: LossFn[Any], training: Training):
        self.policy, self.base = policy, policy.base
        self.sequences, self.loss, self.training = sequences, loss, training
        self.micro_batch = training.batch if training.micro_batch == "auto" else training.micro_batch
        """Rows of one forward at most."""
        self.capacity: int | None = None
        """Bytes that one forward may keep for its backward pass; None: not chosen yet, or not by memory."""
        self.rows = self.micro_batch
        """The most rows of a forward, of the step with the fewest so far."""
        self.checkpointing = training.checkpointing is True
        """Whether activations are recomputed in the backward pass."""
        self.notes: list[str] = []
        """What was changed to fit the memory."""
        self.beside: dict[ModelPolicy, int] = {}
        """Tokens with gradient of each further adapter that is trained."""
        self.weights: list[Parameter] = []
        self.dropouts: list[Module] = []
        self.base.checkpointing(self.checkpointing)
        self.base.model.eval()  # a fresh adapter is in training mode

    def scored(self, rows: list[Any]) -> list[ModelPolicy]:
        """Return the policy, and every other trainable adapter that scores these rows."""
        groups = self.sequences(rows).values() if rows else ()
        policies = [group.policy for group in groups if isinstance(group, ScoringGroup)]
        found = [self.policy, *(policy for policy in policies if isinstance(policy, ModelPolicy))]
        return [policy for policy in dict.fromkeys(found) if policy.trainable]

    def train(self, weights: list[Parameter], adapters: Collection[str | None]) -> None:
        """Take the gradient with respect to `weights`, with the dropout of these adapters."""
        self.weights = weights
        layers = [module for module in self.base.model.modules() if isinstance(module, LoraLayer)]
        found = [drop for layer in layers for name, drop in layer.lora_dropout.items() if name in adapters]
        self.dropouts = [drop for drop in found if getattr(drop, "p", 0) > 0]

    def run(self, rows: list[Any], distinct: int, number: int) -> StepGradient:
        """Compute the gradient of step `number`, in smaller micro-batches where the memory asks for them.

        `distinct` counts the rows of the table among `rows`. Raises ModelError where nothing can be made smaller.
        """
        if self.capacity is None and self.training.micro_batch == "auto":
            self.capacity = self._choose()
        while True:
            try:
                with self._training_mode():
                    return self._gradient(rows, distinct)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the handler: its traceback holds the tensors that did not fit.
            self._save_memory(rows, distinct, f"from step {number} on", reason)

    def _gradient(self, rows: list[Any], distinct: int) -> StepGradient:
        whole = self._groups(rows)
        lengths = {name: [len(one.response) for one in group.items] for name, group in whole.items()}
        reduction = Reduction(len(rows), lengths)
        loss = torch.zeros((), device=self.base.device)
        gradients = Gradients(self.weights)
        parts = self._parts(rows, whole, distinct)
        self.rows = min(self.rows, math.ceil(distinct * max(map(len, parts)) / len(rows)))
        for part in parts:
            scores = self._scores(whole if len(part) == len(rows) else self._groups(part))
            values, numbers = self.loss(scores, part)
            share = reduction.loss(values, scores, part)
            for one in share.values() if isinstance(share, dict) else [share]:
                if not one.requires_grad:
                    raise PluginError(
                        "the loss does not depend on the policy that is trained",
                        "compute it of `scores`, without detach",
                    )
            loss += gradients.add(share)
            reduction.add(numbers, scores, part)
        return StepGradient(loss, reduction.numbers | gradients.norms())

    def _scores(self, groups: Mapping[str, ScoringGroup]) -> dict[str, GroupScores]:
        """Score the groups of a micro-batch, one forward for each adapter."""
        together: dict[tuple[ModelPolicy, str], dict[str, Group]] = {}
        for name, group in groups.items():
            policy: Any = group.policy or self.policy
            together.setdefault((policy, group.term), {})[name] = to_group(name, group)
        scores: dict[str, GroupScores] = {}
        for (policy, _), same in together.items():
            with torch.set_grad_enabled(policy.trainable), metered(Tally()) as counted:
                scores |= read(policy, same, self.tolerance)
            if policy is not self.policy and counted.work.trained:
                self.beside[policy] = self.beside.get(policy, 0) + counted.work.trained
        return scores

    def _choose(self) -> int | None:
        """Return the bytes that a forward may keep for its backward pass; None where nothing is kept."""
        kind = self.base.device.type
        if not self.policy.trainable:
            return None
        taken = torch.cuda.memory_allocated(self.base.device) if kind == "cuda" else 0
        return for_activations(kind, torch.get_num_threads(), taken)

    def _parts(self, rows: list[Any], groups: Mapping[str, ScoringGroup], distinct: int) -> list[list[Any]]:
        """Cut a step into micro-batches, in its order, each of which fits the memory.

        Rows of a step are as unlike as the longest and the shortest: their number alone would not bound it.
        """
        count = math.ceil(distinct / self.micro_batch)
        if self.capacity is None or (count == 1 and self._keeps(groups) <= self.capacity):
            return list(cut(rows, count))
        sizes = [self._keeps(self._groups([row])) for row in rows]
        return list(cut_evenly(rows, sizes, self.capacity, math.ceil(len(rows) / count)))

    def _keeps(self, groups: Mapping[str, ScoringGroup]) -> float:
        """Return the bytes that a forward keeps for these groups; for a prompt that several share, once."""
        kept, tokens, pairs = kept_by(self.policy), dict[tuple[object, str, int], int](), 0
        seen = set[tuple[object, str, int]]()
        for group in groups.values():
            policy: Any = group.policy or self.policy
            if not getattr(policy, "trainable", False) or (policy, group.term, id(group.items)) in seen:
                continue
            seen.add((policy, group.term, id(group.items)))
            for one in group.items:
                tokens[policy, group.term, id(one)] = len(one.response)
                tokens[policy, group.term, id(one.prompt)] = len(one.prompt)
                pairs += len(one) ** 2
        whole = kept.token * sum(tokens.values()) + kept.pair * pairs
        return whole / (RECOMPUTED if self.checkpointing else 1)

    def weight(self, rows: list[Any]) -> int:
        """Return the tokens of all sequences of these rows, by which the cost of a step is foretold."""
        return sum(len(one) for group in self._groups(rows).values() for one in group.items)

    def prompts(self, rows: list[Any], known: Callable[[Ids], bool]) -> int:
        """Return how many different prompts, of those that are `known`, the policy is trained on in these rows."""
        groups = self._groups(rows).values()
        found = {one.prompt for group in groups if group.policy in (None, self.policy) for one in group.items}
        return sum(map(known, found)) or len(rows)

    def _groups(self, rows: list[Any]) -> dict[str, ScoringGroup]:
        return {name: _group(given) for name, given in self.sequences(rows).items()}

    @property
    def tolerance(self) -> float | None:
        """How far equal policies may differ: see `alignbench.api.method.GroupScores.tolerance`."""
        if self.dropouts:
            return None
        return self.base.tolerance

    @contextmanager
    def _training_mode(self) -> Iterator[None]:
        """Switch on what a step needs and nothing else: the base's own dropout stays off, for all methods."""
        wanted = list(self.dropouts)
        if self.checkpointing:
            modules = self.base.model.modules()
            wanted += [layer for layer in modules if isinstance(layer, GradientCheckpointingLayer)]
        for module in wanted:
            module.training = True
        try:
            yield
        finally:
            for module in wanted:
                module.training = False

    def _save_memory(self, rows: list[Any], distinct: int, since: str, reason: str) -> None:
        """Recompute activations or halve the micro-batch. Raises ModelError where both are done already."""
        for weight in self.weights:
            weight.grad = None
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
        groups = self._groups(rows)
        most = max(map(len, self._parts(rows, groups, distinct)))
        now = math.ceil(distinct * most / len(rows))
        tokens = sum(len(one) for group in groups.values() for one in group.items)
        short = now == 1 or tokens * now / distinct < 2 * FULL
        if self.training.checkpointing == "auto" and not self.checkpointing and short:
            self.checkpointing = True
            self.base.checkpointing(True)
            done = "activations are recomputed"
        elif self.training.micro_batch == "auto" and now > 1:
            self.micro_batch = math.ceil(now / 2)
            done = f"the micro-batch is {self.micro_batch}"
        else:
            raise ModelError(
                f"a micro-batch of {now} does not fit into memory: {reason}",
                "lower data.max_length, or set training.micro_batch and training.checkpointing to auto",
            )
        self.notes.append(f"{since} {done}: {reason}")
        print(self.notes[-1])  # into the log of the cell


def _group(given: ScoringGroup | Many[Sequence]) -> ScoringGroup:
    return given if isinstance(given, ScoringGroup) else ScoringGroup(given)
