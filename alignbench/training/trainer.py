"""The one trainer: a loop over optimiser steps, the same for every method that trains."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from alignbench import heartbeat
from alignbench.api.config import TOTALS, Budget, Training
from alignbench.api.method import LossFn, ScoreFn
from alignbench.errors import Diverged
from alignbench.models import ModelPolicy
from alignbench.models.forward.memory import give_back
from alignbench.models.meter import Tally, Work, doing, metered
from alignbench.rows import Ids
from alignbench.training import optimizer as optimizers
from alignbench.training.blow_up import Trace
from alignbench.training.budget import Spent, rate
from alignbench.training.checkpoint import Checkpoints
from alignbench.training.random_state import random_state, seed_all, set_random_state
from alignbench.training.step import GradientStep, StepGradient
from alignbench.training.steps import Batches, Steps

LOG_STEPS = 10
"""Steps between two logs: the only times at which the host waits for the device."""

Log = Callable[[int, Mapping[str, float]], None]
"""Called with the number of a step and the means of the numbers since the last log."""
OnStepEnd = Callable[[int, float], float]
"""Called after each step with its number and the share of the training that is done; returns how many seconds
of what it did are not the training's."""


@dataclass(frozen=True)
class TrainingResult:
    """What one training did and cost."""

    steps: int
    rows: float
    """Rows drawn, counting a row each time it is drawn."""
    work: Work
    """What was computed, between the steps too."""
    seconds: float
    peak_memory_bytes: int
    """Of the device; on a CPU, of the whole process."""
    micro_batch: int
    """The fewest rows of one forward: what fitted into memory."""
    checkpointing: bool
    """Whether activations were recomputed at the end."""
    notes: tuple[str, ...] = ()
    """What was changed on the way to fit the memory."""
    blown_up: str = ""
    """The sign that it blew up with finite numbers; empty where there is none."""
    beside: tuple[tuple[ModelPolicy, int], ...] = ()
    """Further adapters that were trained, each with its tokens with gradient."""


class Trainer:
    """Rows to gradient to weights, step after step, with the log and the checkpoints between them.

    See `alignbench.api.method.Run.train`. `spent` is what the cell has spent: what it holds already is taken off the
    budget. `totals` says what of tokens, FLOPs and seconds is spent by now (default: what this training computes).
    `limit` is another budget at which it ends too. The last step gets the rows for which what is left suffices.
    `f(step)` ends the training early by returning no rows; a budget in epochs is for a view of rows only. `known` says
    which prompts count as rows. With `checkpoints` it continues from the last of them, and leaves one at its end: run
    again, it trains no further step. `moving` are further adapters whose weights the method itself changes meanwhile.
    """

    def __init__(
        self,
        policy: ModelPolicy,
        batches: Batches,
        sequences: ScoreFn[Any],
        loss: LossFn[Any],
        *,
        learning_rate: float,
        training: Training,
        budget: Budget,
        seed: int,
        modules: Mapping[str, Module] | None = None,
        learning_rates: Mapping[Any, float] | None = None,
        repeats: int = 1,
        state: MutableMapping[str, Any] | None = None,
        before_step: Callable[[list[Any]], None] | None = None,
        log: Log = lambda step, numbers: None,
        on_step_end: OnStepEnd = lambda step, progress: 0.0,
        spent: Spent | None = None,
        totals: Callable[[], Mapping[str, float]] | None = None,
        limit: Budget | None = None,
        known: Callable[[Ids], bool] = lambda prompt: True,
        checkpoints: Checkpoints | None = None,
        moving: Many[ModelPolicy] = (),
    ):
        self.spent = Spent() if spent is None else spent
        self.before = Spent(**vars(self.spent))
        self.gradient = GradientStep(policy, sequences, loss, training)
        self.steps = Steps(batches, training.batch, seed, budget, self.spent, repeats, limit)
        self.base, self.training = self.gradient.base, training
        self.learning_rate, self.learning_rates = learning_rate, learning_rates or {}
        self.log, self.on_step_end = log, on_step_end
        self.checkpoints, self.modules, self.state = checkpoints, modules or {}, state
        self.before_step = before_step
        self.adapters = list(dict.fromkeys((policy, *moving)))
        """Every adapter whose weights may change."""
        self.number = self.kept_at = 0
        self.known = known
        self.tally = Tally()
        self.totals = self._own if totals is None else totals
        self.counted = [one for one in self.steps.budgets if one.unit in TOTALS]
        """The budgets of which everything that is computed takes its part."""
        self.price: dict[str, list[float]] = {one.unit: [0.0, 0.0] for one in self.counted}
        """By unit: what the gradients so far took, and the tokens of their sequences."""
        self.around: dict[str, float] = {}
        """By unit: what was spent when the last step began."""
        self.over = self.steps.progress() >= 1
        """Whether no step is left to take."""
        self.pending: list[dict[str, Tensor | float]] = []
        """The numbers of the steps since the last log, still on the device."""
        self.trace = Trace()
        self.diverged_at = torch.full((), -1.0, device=self.base.device)
        """The steps that were finite before the first one that was not; -1 while there is none."""
        self.begun = time.perf_counter()
        forget_peak(self.base.device)
        seed_all(seed)

    # --- the loop -------------------------------------------------------------------------------------------

    def run(self) -> TrainingResult:
        """Train until the budget is spent or there are no more rows; return what it cost.

        Raises Diverged where a loss or gradient is not finite: no weight has changed since the step before it.
        """
        self._train()
        return TrainingResult(
            steps=self.spent.steps - self.before.steps,
            rows=self.spent.rows - self.before.rows,
            work=self.tally.work,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory(self.base.device),
            micro_batch=self.gradient.rows,
            checkpointing=self.gradient.checkpointing,
            notes=tuple(self.gradient.notes),
            blown_up=self.trace.blown_up(given_rows=not callable(self.steps.batches)),
            beside=tuple(self.gradient.beside.items()),
        )

    def _train(self) -> None:
        """Continue from the last checkpoint, until there is no further step."""
        kept = self.checkpoints.last() if self.checkpoints is not None else None
        if kept is not None:
            self.restore(kept)
        if self.over:
            return
        with heartbeat.training(), metered(self.tally), doing("train"):
            self._prepare(kept)
            source = iter(self.steps)
            while self._another() and (rows := next(source, None)):
                self._measure()
                rows = self._affordable(rows)
                if not rows:
                    break
                self.step(rows)
                progress = self.steps.progress()
                self._exclude(self.on_step_end(self.number, progress))
                if progress >= 1 or self.number % LOG_STEPS == 0:
                    self._log()
                if heartbeat.asked_to_stop() or (self.checkpoints is not None and self.checkpoints.due()):
                    self.save()
                if progress >= 1:
                    break
                heartbeat.stop_if_asked()
            self._log()
            self.save(over=True)
        heartbeat.stop_if_asked()

    def step(self, rows: list[Any]) -> None:
        """Take one optimiser step on `rows`."""
        before = Spent(**vars(self.spent))
        if self.before_step is not None:
            self.before_step(rows)
        done = self.gradient.run(rows, self.steps.rows(rows), self.number + 1)
        self._account(rows, before)
        self._update(done)
        give_back()
        self.number += 1

    def _prepare(self, kept: Mapping[str, Any] | None) -> None:
        """Set up the optimiser: its weights are those of the adapters that the first step scores, and modules."""
        first = self.steps.first()
        policies = self.gradient.scored(first)
        groups = [
            {
                "params": list(owner.parameters()),
                "peak": self.learning_rates.get(owner, self.learning_rate),
            }
            for owner in (*policies, *self.modules.values())
        ]
        weights = [weight for group in groups for weight in group["params"]]
        self.gradient.train(weights, {policy.adapter for policy in policies})
        self.optimizer = optimizers.make(self.training.optimizer, groups, self.learning_rate)
        if kept is not None and first:
            for weight, moments in zip(weights, kept["optimizer"], strict=True):
                self.optimizer.state[weight] = _to(self.base.device, moments)

    def _account(self, rows: list[Any], before: Spent) -> None:
        """Take the step off the budget, and set the learning rate that follows from it."""
        progress = self.steps.progress()
        self.spent.steps += 1
        self.spent.rows += self.steps.drawn(rows, partial(self.gradient.prompts, known=self.known))
        self._measure()
        for unit, price in self.price.items():
            price[0] += getattr(self.spent, unit) - getattr(before, unit)
            price[1] += self.gradient.weight(rows)
        share = rate(self.training.schedule, self.training.warmup, progress, self.steps.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def _measure(self) -> None:
        """Read what is spent by now."""
        vars(self.spent).update(self.totals())

    def _own(self) -> dict[str, float]:
        """What this training itself has spent, and what was spent before it."""
        work, before = self.tally.work, self.before
        return {
            "tokens": before.tokens + work.positions + work.trained,
            "flops": before.flops + work.flops,
            "seconds": before.seconds + self.seconds,
        }

    def _another(self) -> bool:
        """Whether what is left pays for more than half of a step like the last, with what was drawn for it.

        Rows of a view can be fewer in the last step, and a method that divides its budget draws fewer itself.
        """
        if not callable(self.steps.batches) or "spending" in (self.state or {}):
            return True
        self._measure()
        enough = True
        for budget in self.counted:
            now, last = getattr(self.spent, budget.unit), self.around.get(budget.unit)
            enough &= last is None or budget.amount - now >= (now - last) / 2
            self.around[budget.unit] = now
        return enough

    def _affordable(self, rows: list[Any]) -> list[Any]:
        """Return the first of a step's rows, as many as what is left pays for: all, but in the last step."""
        for budget in self.counted:
            left = budget.amount - getattr(self.spent, budget.unit)
            if left <= 0:
                return []
            each = self._price(budget.unit)
            while rows and (over := self.gradient.weight(rows) * each / left) > 1:
                rows = rows[: min(len(rows) - 1, int(len(rows) / over) + 1)]
        return rows

    def _price(self, unit: str) -> float:
        """Return what a token of a step's sequences takes: from the steps so far; before the first, an estimate."""
        took, tokens = self.price[unit]
        if tokens:
            return took / tokens
        # Four for each weight: the forward pass, and the backward pass to what lies before it.
        return {"tokens": 1.0, "flops": 4.0 * self.base.size}.get(unit, 0.0)

    def _update(self, done: StepGradient) -> None:
        """Change the weights, unless this step or one before it was not finite; the host does not wait."""
        norm = torch.nn.utils.get_total_norm(
            [weight.grad for weight in self.gradient.weights if weight.grad is not None]
        )
        bad = ~torch.isfinite(norm + done.loss)
        self.diverged_at = torch.where((self.diverged_at < 0) & bad, self.number, self.diverged_at)
        optimizers.guard(self.optimizer, norm, self.training.max_grad_norm, self.diverged_at >= 0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pending.append({"loss": done.loss, **done.numbers, "grad_norm": norm})

    def _exclude(self, seconds: float) -> None:
        """Take seconds out of what the training took."""
        self.begun += seconds

    def _log(self) -> None:
        """Wait for the device, once, and log the means of the steps since the last log.

        Raises Diverged where one of them was not finite.
        """
        if not self.pending:
            return
        names = list(dict.fromkeys(name for step in self.pending for name in step))
        columns = {name: [step[name] for step in self.pending if name in step] for name in names}
        means = [
            torch.stack([torch.as_tensor(value) for value in column]).mean() for column in columns.values()
        ]
        first = [torch.as_tensor(self.pending[0][name]) for name in ("grad_norm", "loss")]
        failed, first_norm, first_loss, *numbers = torch.stack([self.diverged_at, *first, *means]).tolist()
        self.pending.clear()
        if failed >= 0:
            raise Diverged(
                f"the loss or gradient of step {int(failed) + 1} is not finite; "
                f"the weights of step {int(failed)} are kept",
                "lower the learning rate, or look at the rows of that step",
            )
        means = dict(zip(names, numbers, strict=True))
        self.trace.add(self.number, first_norm, first_loss, means["grad_norm"], means["loss"])
        pace = {"learning_rate": self.optimizer.param_groups[0]["lr"], "seconds": self.spent.seconds}
        self.log(self.number, {**means, **pace})

    # --- cost and checkpoints -------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """What the training took, before an interruption included."""
        return time.perf_counter() - self.begun

    def save(self, *, over: bool = False) -> None:
        """Write a checkpoint of all that the next step depends on. `over`: there is no next step."""
        if self.checkpoints is None or (self.number == self.kept_at and not over):
            return
        if self.diverged_at >= 0:
            self._log()
        self.kept_at = self.number
        gradient = self.gradient
        self.checkpoints.save(
            self.number,
            {
                "step": self.number,
                "over": over,
                "weights": [policy.tensors() for policy in self.adapters],
                "modules": {name: module.state_dict() for name, module in self.modules.items()},
                "optimizer": [self.optimizer.state[weight] for weight in gradient.weights],
                "random": random_state(),
                "state": None if self.state is None else dict(self.state),
                "pending": self.pending,
                "spent": vars(self.spent),
                "work": asdict(self.tally.work),
                "price": self.price,
                "around": self.around,
                "seconds": self.seconds,
                "micro_batch": gradient.micro_batch,
                "room": gradient.capacity,
                "checkpointing": gradient.checkpointing,
                "trace": asdict(self.trace),
                "notes": gradient.notes,
                "beside": [[self.adapters.index(one), tokens] for one, tokens in gradient.beside.items()],
            },
        )

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Be as the training was when it wrote this checkpoint."""
        self.number = self.kept_at = kept["step"]
        with torch.no_grad():
            for policy, weights in zip(self.adapters, kept["weights"], strict=True):
                for name, tensor in policy.tensors().items():
                    tensor.copy_(weights[name])
        for name, module in self.modules.items():
            module.load_state_dict(kept["modules"][name])
        if self.state is not None:
            self.state.clear()
            self.state.update(_to(self.base.device, kept["state"]))
        self.pending = _to(self.base.device, kept["pending"])
        vars(self.spent).update(kept["spent"])
        self.tally.work, self.price = Work(**kept["work"]), kept["price"]
        self.around = kept["around"]
        self.begun -= kept["seconds"]
        gradient = self.gradient
        gradient.notes = kept["notes"]
        gradient.micro_batch, gradient.checkpointing = kept["micro_batch"], kept["checkpointing"]
        gradient.capacity = kept["room"]
        gradient.beside = {self.adapters[place]: tokens for place, tokens in kept["beside"]}
        self.base.checkpointing(gradient.checkpointing)
        self.trace = Trace(**kept["trace"])
        self.steps.begin(self.number)
        self.over = kept["over"] or self.steps.progress() >= 1
        set_random_state(kept["random"])


def _to(device: torch.device, value: Any) -> Any:
    """Return nested dicts and lists with their tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _to(device, item) for name, item in value.items()}
    return [_to(device, item) for item in value] if isinstance(value, list) else value


def device_name(device: torch.device) -> str:
    """Return the model of a device, as its driver names it; `cpu` for a processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def forget_peak(device: torch.device) -> None:
    """Reset `peak_memory`; on a CPU it stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: of the device; on a CPU, of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
