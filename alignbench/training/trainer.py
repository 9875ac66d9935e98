"""The one trainer: transformers' loop around a step that serves every gradient method alike."""

from __future__ import annotations

import math
import random
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import Module, ParameterList
from transformers import Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from alignbench import heartbeat
from alignbench.api.config import Budget
from alignbench.api.method import LossFn, ScoreFn, ScoringGroup
from alignbench.errors import Diverged, ModelError
from alignbench.models import ModelPolicy
from alignbench.models.forward import Group, Layout, Scores, lay_out, read, response_states
from alignbench.recipe.schema import Training
from alignbench.rows import Sequence
from alignbench.training import optimizer as optimizers
from alignbench.training.batches import cut
from alignbench.training.budget import Spent, rate
from alignbench.training.checkpoint import Checkpoints
from alignbench.training.gradients import Gradients
from alignbench.training.steps import Batches, Steps

LOG_STEPS = 10
"""Steps between two looks at the device: the only times at which the host waits for it."""

FULL = 4096
"""Tokens of a forward below which unpacking 4-bit weights costs more than recomputing activations."""

Given = Mapping[str, ScoringGroup | Many[Sequence]]
Numbers = Mapping[str, Tensor | float]
Log = Callable[[int, Mapping[str, float]], None]
Look = Callable[[int, float], float]
"""Called after each step with its number and the share of the training that is done; returns how many seconds
of what it did are not the training's."""


@dataclass(frozen=True)
class Record:
    """What one training did and cost."""

    steps: int
    rows: float
    """Rows drawn, counting a row each time it is drawn."""
    tokens: int
    """Positions with gradient."""
    generated: int
    """Positions generated between the steps."""
    seconds: float
    forwards: int
    """Model calls, those without gradient included."""
    peak_memory_bytes: int
    """Of the device; on a CPU, of the whole process."""
    micro_batch: int
    """Rows of one forward, after all halving."""
    checkpointing: bool
    """Whether activations were recomputed at the end."""
    notes: tuple[str, ...] = ()
    """What was changed on the way to fit the memory."""


def train(
    policy: ModelPolicy,
    batches: Batches,
    sequences: ScoreFn[Any],
    loss: LossFn[Any],
    *,
    learning_rate: float,
    training: Training,
    budget: Budget,
    seed: int,
    folder: Path,
    modules: Mapping[str, Module] | None = None,
    rates: Mapping[Any, float] | None = None,
    passes: int = 1,
    state: MutableMapping[str, Any] | None = None,
    log: Log = lambda step, numbers: None,
    look: Look = lambda step, progress: 0.0,
    spent: Spent | None = None,
    checkpoints: Checkpoints | None = None,
    moving: Many[ModelPolicy] = (),
) -> Record:
    """Train `policy` until `budget` is spent, and return what it cost; see `alignbench.api.method.Run.train`.

    `spent` is the running account of the cell: what it holds already is taken off the budget. `f(step)` ends
    the training early by returning no rows; a budget in epochs is for a view of rows only.
    With `checkpoints` it goes on from the last of them, and leaves one at its end: called again, it trains no
    step more. `moving` are further adapters whose weights change on the way, by the method's own hand.
    Raises Diverged where a loss or gradient is not finite: no weight has changed since the step before it.
    """
    spent = Spent() if spent is None else spent
    begun, before, generated = time.perf_counter(), Spent(**vars(spent)), policy.base.generated
    trainer = AdapterTrainer(
        policy,
        Steps(batches, training.batch, seed, budget, spent, passes),
        sequences,
        loss,
        learning_rate=learning_rate,
        training=training,
        seed=seed,
        folder=folder,
        modules=modules or {},
        rates=rates or {},
        log=log,
        look=look,
        spent=spent,
        checkpoints=checkpoints,
        moving=moving,
        state=state,
    )
    kept = checkpoints.last() if checkpoints is not None else None
    if kept is not None:
        trainer.go_on(kept)
    if trainer.args.max_steps > 0 and not trainer.over:
        with heartbeat.training():
            trainer.train()
            trainer.keep(over=True)
        heartbeat.stop_if_asked()
    return Record(
        steps=spent.steps - before.steps,
        rows=spent.rows - before.rows,
        tokens=trainer.tokens,
        generated=trainer.generated - generated,
        seconds=time.perf_counter() - begun - trainer.aside + trainer.seconds_before,
        forwards=trainer.forwards,
        peak_memory_bytes=_peak_memory(policy.base.device),
        micro_batch=trainer.micro_batch,
        checkpointing=trainer.checkpointing,
        notes=tuple(trainer.notes),
    )


class AdapterTrainer(Trainer):
    """transformers' Trainer over whole optimiser steps: a batch is a step's rows, the loss any pure function.

    The loop, its callbacks and its state are transformers'. The step is not: here rows become sequences,
    sequences one forward for each adapter, and their scores the gradient of a loss; and the host never waits
    for the device between two logs.
    """

    def __init__(
        self,
        policy: ModelPolicy,
        steps: Steps,
        sequences: ScoreFn[Any],
        loss: LossFn[Any],
        *,
        learning_rate: float,
        training: Training,
        seed: int,
        folder: Path,
        modules: Mapping[str, Module],
        rates: Mapping[Any, float],
        log: Log,
        spent: Spent,
        look: Look = lambda step, progress: 0.0,
        checkpoints: Checkpoints | None = None,
        moving: Many[ModelPolicy] = (),
        state: MutableMapping[str, Any] | None = None,
    ):
        self.policy, self.base, self.steps = policy, policy.base, steps
        self.sequences, self.loss, self.modules = sequences, loss, modules
        self.training, self.peak_rate, self.rates = training, learning_rate, rates
        self.tell, self.look, self.spent = log, look, spent
        self.checkpoints, self.moving, self.own_state = checkpoints, moving, state
        self.kept: Mapping[str, Any] = {}
        """The checkpoint this training goes on from."""
        self.over = False
        self.seconds_before, self.aside, self.kept_at = 0.0, 0.0, 0
        super().__init__(
            model=self.base.peft,
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=steps.planned,
                per_device_train_batch_size=1,
                learning_rate=learning_rate,
                max_grad_norm=training.max_grad_norm,
                logging_nan_inf_filter=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed % 2**32,
                use_cpu=self.base.device.type == "cpu",
                use_cache=self.base.model.config.use_cache,
            ),
        )
        self.remove_callback(PrinterCallback)
        # Nothing was prepared that could be freed, and the garbage collection beside it takes a second.
        self.accelerator.free_memory = lambda *objects: list(objects)
        self.micro_batch = training.batch if training.micro_batch == "auto" else training.micro_batch
        self.checkpointing = training.checkpointing is True
        self.base.checkpointing(self.checkpointing)
        self.base.model.eval()  # a fresh adapter comes in training mode
        self.notes: list[str] = []
        self.tokens = self.forwards = 0
        self.generated = self.base.generated
        self.pending: list[dict[str, Tensor | float]] = []
        self.diverged_at = torch.full((), -1.0, device=self.base.device)
        self.begun = self.clock = time.perf_counter()
        self.generated_before = self.base.generated
        if self.base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.base.device)

    # --- what transformers' loop asks for -------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        return self.steps

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        rows = next(epoch_iterator, None)
        self.control.should_training_stop |= rows is None
        return [] if rows is None else [rows], None

    def create_optimizer(self, model=None):
        owners = self._owners()
        self.dropouts = self._dropouts({owner.adapter for owner in owners if isinstance(owner, ModelPolicy)})
        groups = [
            {"params": list(owner.parameters()), "peak": self.rates.get(owner, self.peak_rate)}
            for owner in owners
        ]
        self.trained = [weight for group in groups for weight in group["params"]]
        self.optimizer = optimizers.make(self.training.optimizer, groups, self.peak_rate)
        if self.kept and self.steps.first():
            for weight, moments in zip(self.trained, self.kept["optimizer"], strict=True):
                self.optimizer.state[weight] = _to(self.base.device, moments)
        return self.optimizer

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        if self.kept:
            self.state.global_step = self.kept_at
            set_random_state(self.kept["random"])
        self.create_optimizer()
        self.lr_scheduler = _ByBudget(self.optimizer)
        # The loop clears the gradients of what is returned here: only these weights ever have one.
        return ParameterList(self.trained), train_dataloader

    def training_step(self, model, inputs: Any, num_items_in_batch=None) -> Tensor:
        with self._training_mode():
            while (done := self._attempt(inputs)) is None:
                pass
        loss, numbers, tokens = done
        self._charge(inputs, tokens)
        self.pending.append({"loss": loss, **numbers})
        return loss

    def _clip_grad_norm(self, model) -> Tensor:
        step, norm = self.pending[-1], self._norm()
        bad = ~torch.isfinite(norm + step["loss"])
        self.diverged_at = torch.where((self.diverged_at < 0) & bad, self.state.global_step, self.diverged_at)
        optimizers.guard(self.optimizer, norm, self.args.max_grad_norm, self.diverged_at >= 0)
        step["grad_norm"] = norm
        return norm

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        self.control.should_training_stop |= self.steps.progress() >= 1
        aside = self.look(self.state.global_step, self.steps.progress())
        self.clock, self.aside = self.clock + aside, self.aside + aside
        if self.control.should_training_stop or self.state.global_step % LOG_STEPS == 0:
            self._look()
        if self.checkpoints is not None and (heartbeat.asked_to_stop() or self.checkpoints.due()):
            self.keep()
        if not self.control.should_training_stop:
            heartbeat.stop_if_asked()

    def _finalize_training(self, trial, num_train_samples, start_time) -> TrainOutput:
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self.is_in_train = False
        return TrainOutput(self.state.global_step, math.nan, {})

    def floating_point_ops(self, inputs) -> int:
        return 0

    # --- checkpoints ----------------------------------------------------------------------------------------

    def keep(self, *, over: bool = False) -> None:
        """Write a checkpoint of all that the next step depends on. `over`: there is no next step."""
        step = self.state.global_step
        if self.checkpoints is None or (step == self.kept_at and not over):
            return
        if self.diverged_at >= 0:
            self._look()
        self.kept_at = step
        self.checkpoints.save(
            step,
            {
                "step": step,
                "over": over,
                "weights": [policy.tensors() for policy in self._adapters()],
                "modules": {name: module.state_dict() for name, module in self.modules.items()},
                "optimizer": [self.optimizer.state[weight] for weight in self.trained],
                "random": random_state(),
                "state": None if self.own_state is None else dict(self.own_state),
                "pending": self.pending,
                "spent": vars(self.spent),
                "tokens": self.tokens,
                "forwards": self.forwards,
                "generated": self.base.generated - self.generated_before,
                "seconds": time.perf_counter() - self.begun - self.aside + self.seconds_before,
                "micro_batch": self.micro_batch,
                "checkpointing": self.checkpointing,
                "notes": self.notes,
            },
        )

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Be as the training was when it wrote this checkpoint."""
        self.kept, self.kept_at = kept, kept["step"]
        with torch.no_grad():
            for policy, weights in zip(self._adapters(), kept["weights"], strict=True):
                for name, tensor in policy.tensors().items():
                    tensor.copy_(weights[name])
        for name, module in self.modules.items():
            module.load_state_dict(kept["modules"][name])
        if self.own_state is not None:
            self.own_state.clear()
            self.own_state.update(_to(self.base.device, kept["state"]))
        self.pending = _to(self.base.device, kept["pending"])
        vars(self.spent).update(kept["spent"])
        self.tokens, self.forwards, self.notes = kept["tokens"], kept["forwards"], kept["notes"]
        self.base.generated += kept["generated"]
        self.generated = self.base.generated
        self.seconds_before = kept["seconds"]
        self.micro_batch, self.checkpointing = kept["micro_batch"], kept["checkpointing"]
        self.base.checkpointing(self.checkpointing)
        set_random_state(kept["random"])
        self.steps.begin(self.kept_at)
        # Killed between its last step and its end, a training must not take a step more.
        self.over = kept["over"] or self.steps.progress() >= 1

    def _adapters(self) -> list[ModelPolicy]:
        """Every adapter whose weights may change."""
        return list(dict.fromkeys((self.policy, *self.moving)))

    # --- the step -------------------------------------------------------------------------------------------

    def _attempt(self, rows: list[Any]) -> tuple[Tensor, Numbers, int] | None:
        """Return what `_accumulate` does, or None where it did not fit into memory and less is tried next."""
        try:
            return self._accumulate(rows)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        # Outside the handler: its traceback holds the tensors that did not fit.
        self._give_way(rows, reason)
        return None

    def _accumulate(self, rows: list[Any]) -> tuple[Tensor, Numbers, int]:
        """Add up the step's gradient over its micro-batches; return its loss, its numbers and its tokens."""
        whole = self.sequences(rows)
        items = {name: _group(given).items for name, given in whole.items()}
        responses = {name: sum(len(one.response) for one in ones) for name, ones in items.items()}
        loss = torch.zeros((), device=self.base.device)
        totals: dict[str, Tensor | float] = {}
        tokens, gradients = 0, Gradients(self.trained)
        for part in cut(rows, math.ceil(self.steps.rows(rows) / self.micro_batch)):
            given = whole if len(part) == len(rows) else self.sequences(part)
            scores, processed = self._scores(given, len(rows), responses)
            share, numbers = self.loss(scores, part)
            loss += gradients.add(share)
            tokens += processed
            for name, number in numbers.items():
                if isinstance(number, Tensor):
                    number = totals.get(name, 0.0) + number.detach()
                totals[name] = number
        return loss, totals | gradients.norms(), tokens

    def _scores(self, given: Given, rows: int, responses: Mapping[str, int]) -> tuple[dict[str, Scores], int]:
        """Score all groups of a micro-batch, one forward for each adapter; count positions with gradient."""
        by_policy: dict[tuple[ModelPolicy, str], dict[str, Group]] = {}
        for name, group in given.items():
            policy: Any = group.policy if isinstance(group, ScoringGroup) else None
            term = group.term if isinstance(group, ScoringGroup) else ""
            by_policy.setdefault((policy or self.policy, term), {})[name] = _group(group)
        scores: dict[str, Scores] = {}
        tokens = 0
        for (policy, _), groups in by_policy.items():
            with torch.set_grad_enabled(policy.trainable), self.base.using(policy), self.base.arithmetic():
                layout = lay_out(groups, self.base.device)
                states = response_states(self.base, layout)
            for name, group in groups.items():
                scores[name] = self._read(group, states, layout, name, rows, responses[name])
            self.forwards += 1
            tokens += layout.tokens * policy.trainable
        return scores, tokens

    def _read(
        self, group: Group, states: Tensor, layout: Layout, name: str, rows: int, responses: int
    ) -> Scores:
        scores = Scores(layout.spans[name].mask, rows=rows, tokens=responses, tolerance=self.tolerance)
        return read(self.base, group, states, layout, name, scores)

    def _owners(self) -> list[ModelPolicy | Module]:
        """Return every trainable adapter that the first step scores, and the modules."""
        scored: dict[ModelPolicy, None] = {self.policy: None}
        rows = self.steps.first()
        for group in self.sequences(rows).values() if rows else ():
            if isinstance(group, ScoringGroup) and isinstance(group.policy, ModelPolicy):
                scored[group.policy] = None
        return [*(policy for policy in scored if policy.trainable), *self.modules.values()]

    def _charge(self, rows: list[Any], tokens: int) -> None:
        """Take the step off the budget, and set the learning rate that falls to it."""
        before, now = self.steps.progress(), time.perf_counter()
        self.spent.steps += 1
        self.spent.rows += self.steps.drawn(rows)
        self.spent.tokens += tokens + self.base.generated - self.generated
        self.generated = self.base.generated
        self.spent.seconds += now - self.clock
        self.tokens += tokens
        self.clock = now
        share = rate(self.training.schedule, self.training.warmup, before, self.steps.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def _norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm(
            [weight.grad for weight in self.trained if weight.grad is not None]
        )

    def _look(self) -> None:
        """Wait for the device, once, and tell what the steps since the last look did.

        Raises Diverged where one of them was not finite.
        """
        if not self.pending:
            return
        names = list(dict.fromkeys(name for step in self.pending for name in step))
        columns = {name: [step[name] for step in self.pending if name in step] for name in names}
        means = [
            torch.stack([torch.as_tensor(value) for value in column]).mean() for column in columns.values()
        ]
        failed, *numbers = torch.stack([self.diverged_at, *means]).tolist()
        self.pending.clear()
        if failed >= 0:
            raise Diverged(
                f"the loss or gradient of step {int(failed) + 1} is not finite; "
                f"the weights of step {int(failed)} are kept",
                "lower the learning rate, or look at the rows of that step",
            )
        pace = {"learning_rate": self.lr_scheduler.get_last_lr()[0], "seconds": self.spent.seconds}
        self.tell(self.state.global_step, {**dict(zip(names, numbers, strict=True)), **pace})

    # --- modes and memory -----------------------------------------------------------------------------------

    @property
    def tolerance(self) -> float | None:
        """How far equal policies may differ here: see `alignbench.api.method.Scored.tolerance`."""
        if self.dropouts:
            return None
        return 1e-5 if self.base.dtype == torch.float32 else 1e-2

    def _dropouts(self, adapters: Collection[str | None]) -> list[Module]:
        layers = [module for module in self.base.model.modules() if isinstance(module, LoraLayer)]
        found = [drop for layer in layers for name, drop in layer.lora_dropout.items() if name in adapters]
        return [drop for drop in found if getattr(drop, "p", 0) > 0]

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

    def _give_way(self, rows: list[Any], reason: str) -> None:
        """Make the next attempt at a step smaller. Raises ModelError where nothing is left to give up."""
        for weight in self.trained:
            weight.grad = None
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
        rows_now = min(self.micro_batch, self.steps.rows(rows))
        tokens = sum(len(one) for given in self.sequences(rows).values() for one in _group(given).items)
        small = rows_now == 1 or tokens * rows_now / self.steps.rows(rows) < 2 * FULL
        if self.training.checkpointing == "auto" and not self.checkpointing and small:
            self.checkpointing = True
            self.base.checkpointing(True)
            done = "activations are recomputed"
        elif self.training.micro_batch == "auto" and rows_now > 1:
            self.micro_batch = math.ceil(rows_now / 2)
            done = f"the micro-batch is {self.micro_batch}"
        else:
            raise ModelError(
                f"a micro-batch of {rows_now} does not fit into memory: {reason}",
                "lower data.max_length, or set training.micro_batch and training.checkpointing to auto",
            )
        self.notes.append(f"from step {self.state.global_step + 1} on {done}: {reason}")


class _ByBudget(torch.optim.lr_scheduler.LRScheduler):
    """Reports the learning rate that the trainer sets step by step from the budget spent."""

    def get_lr(self) -> list[float | Tensor]:
        return [group["lr"] for group in self.optimizer.param_groups]


def random_state() -> dict[str, Any]:
    """Return every global random state that a step may draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(kept: Mapping[str, Any]) -> None:
    """Set what `random_state` returned."""
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])
    torch.set_rng_state(kept["torch"])
    for device, state in enumerate(kept["cuda"]):
        torch.cuda.set_rng_state(state, device)


def _to(device: torch.device, value: Any) -> Any:
    """Return nested dicts and lists with their tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _to(device, item) for name, item in value.items()}
    return [_to(device, item) for item in value] if isinstance(value, list) else value


def _group(given: ScoringGroup | Many[Sequence]) -> Group:
    return (
        Group(given.items, given.head, given.temperature) if isinstance(given, ScoringGroup) else Group(given)
    )


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
