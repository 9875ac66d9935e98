"""A callback for a transformers trainer: it logs to this run, keeps its budget, its schedule and its checkpoints, and
stops on numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignbench import heartbeat
from alignbench.api.config import TOTALS
from alignbench.api.method import ExternalRun, Rows
from alignbench.errors import Diverged, PluginError
from alignbench.models import counting, meter
from alignbench.training.budget import rate
from alignbench.training.random_state import random_state, set_random_state

UNBOUNDED = 2**31 - 1
"""Steps and rows where the budget counts everything: how many it pays for shows on the way."""


class Observer(TrainerCallback):
    """Logs what a transformers trainer logs, stops it at the budget, and raises Diverged on a NaN.

    What its model computes is counted as that of all others is. With `rows` it leads the training as well, see
    `alignbench.integrations.callback`.
    """

    def __init__(self, run: ExternalRun, rows: Rows[Any] | None = None, leave_out: Collection[str] = ()):
        self.run = run
        self.leave_out = {"epoch", *leave_out} if rows is not None else set(leave_out)
        self.order: list[Any] = []
        """The rows of the steps so far, in the order of all methods."""
        self.done = 0
        """Steps that a killed process took."""
        self._rows, self._drawn, self._amount = rows, 0, UNBOUNDED
        """What is trained on, the steps that were drawn of it, and the rows that the budget reaches."""
        self.views = 1
        """Views of a row: a pair is two unpaired answers. A batch of the trainer has so many for each row."""
        self._checkpoints, self._kept = None, None
        self._begun = self._share = self._rate = 0.0
        self._of_an_epoch = 1
        self._dearest = 0.0
        self._peaks: list[float] = []
        if rows is not None:
            self._open(rows)

    # --- what a trainer is given ----------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Optimiser steps that are left to take, for `max_steps`; where the budget counts everything, no bound."""
        return math.ceil(self._amount / self.run.batch) - self.done

    @property
    def whole_steps(self) -> int:
        """Optimiser steps that are left to take with all their rows, for a trainer that cannot take a smaller one."""
        return self._amount // self.run.batch - self.done

    def dataset(self, columns: Callable[[Any], Mapping[str, Any]]) -> Dataset[Mapping[str, Any]]:
        """Return the views that are left to train on, each as the columns that the trainer reads, in their order."""
        return _Drawn(self, columns)

    def row(self, number: int) -> Any:
        """Return the view `number` of the training, from its very first."""
        assert self._rows is not None
        while len(self.order) <= number:
            self.order += self.run.draw(self._rows, self._drawn, self.run.batch)
            self._drawn += 1
        return self.order[number]

    def _open(self, rows: Rows[Any]) -> None:
        """Take up the last checkpoint, and see how many rows the budget reaches."""
        run, budget = self.run, self.run.budget
        left, views = run.left, list(rows)
        self._of_an_epoch = max(1, len({one.id for one in views}))
        self.views, odd = divmod(len(views), self._of_an_epoch)
        if odd:
            raise PluginError(
                f"some rows have more {type(views[0]).__name__} views than others, and batches of another library are "
                "cut by their number",
                "train it on rows of one kind",
            )
        reach = {
            "epochs": round(left * self._of_an_epoch), "rows": round(left), "steps": round(left) * run.batch
        }  # fmt: skip
        self._amount = reach.get(budget.unit, UNBOUNDED)
        self._checkpoints = run.checkpoints(rows)
        self._kept = self._checkpoints.last()
        if self._kept is not None:
            self.done = self._kept["step"]

    # --- what a trainer reports -------------------------------------------------------------------------------

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ):
        # This filter replaces a loss that is not finite by the mean of the steps before it.
        args.logging_nan_inf_filter = False
        whole, model = model, getattr(model, "get_base_model", lambda: model)()
        if isinstance(model, PreTrainedModel):
            counting.count(model)
        elif self.run.budget.unit in ("tokens", "flops"):
            raise PluginError(
                f"what a {type(model).__name__} computes is not counted, and the budget is {self.run.budget}",
                "train a transformers model, or set a budget in epochs, rows, steps or seconds",
            )
        if self._kept is not None:
            self._restore(self._kept, whole, optimizer)
        self.left = self.before = self.run.left
        self._begun = self.run.budget.amount - self.left
        if self._rows is not None:
            # A schedule of the trainer's own has changed `lr` already.
            self._peaks = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        meter.begin("train")

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        if self._kept is not None:
            # Not before: setting up the loader of the rows draws a number.
            set_random_state(self._kept["random"])
            self._kept = None
        if self._rows is not None:
            self._share = self._progress(state.global_step)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ):
        if self._rows is None:
            return
        settings: Any = self.run.training
        now = self._progress(state.global_step + 1)
        share = rate(settings.schedule, settings.warmup, self._share, now)
        self._rate = share * self._peaks[0]
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        control.should_training_stop |= self._spent(args, state)
        if self._rows is not None:
            self.run.progress = self._progress(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        model: Any = None,
        optimizer: Any = None,
        **_: Any,
    ):
        numbers = {
            name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))
        }
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(numbers.get(name, 0.0))]
        step = self.done + state.global_step
        if bad:
            raise Diverged(f"the {bad[0]} is not finite at step {step}", "lower the learning rate")
        if "train_runtime" in numbers:  # the summary at the end is no point of the curves
            return
        numbers = {name: value for name, value in numbers.items() if name not in self.leave_out}
        if self._rows is not None:
            numbers["learning_rate"] = self._rate
        self.run.log(step, **numbers)
        if not control.should_training_stop:
            self._save(step, model, optimizer)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        meter.end()
        steps, rows = self.done + state.global_step, self._read(args, state)
        if self._rows is None:
            self.run.trained(epochs=state.epoch or 0, rows=rows, steps=steps)
            return
        epochs = rows / self._of_an_epoch
        learned = [self.row(number) for number in range(int(rows) * self.views)]
        self.run.trained(epochs=epochs, rows=rows, steps=steps, view=self._rows, learned=learned)

    # --- the budget -----------------------------------------------------------------------------------------

    def _read(self, args: TrainingArguments, state: TrainerState) -> float:
        """Rows read: several answers to one prompt are one row."""
        if self._rows is not None:
            return min((self.done + state.global_step) * self.run.batch, self._amount)
        answers = getattr(args, "num_generations", None) or 1
        return state.global_step * args.train_batch_size * args.gradient_accumulation_steps / answers

    def _spent(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Whether the budget is spent; where it counts everything, whether a step like the dearest is too much."""
        if (unit := self.run.budget.unit) in TOTALS:
            self._dearest = max(self._dearest, self.before - self.run.left)
            self.before = self.run.left
            return self.before < self._dearest
        if self._rows is not None:
            return self.done + state.global_step >= math.ceil(self._amount / self.run.batch)
        done = {"epochs": state.epoch or 0, "rows": self._read(args, state), "steps": state.global_step}
        return done[unit] >= self.left

    def _progress(self, step: int) -> float:
        """Return the share of the budget that is spent when `step` steps of this process are done."""
        budget = self.run.budget
        if budget.unit in TOTALS:
            return 1 - self.run.left / budget.amount
        mine = self.left * min(1.0, (self.done + step) * self.run.batch / max(1, self._amount))
        return (self._begun + mine) / budget.amount

    # --- checkpoints ----------------------------------------------------------------------------------------

    def _save(self, step: int, model: Any, optimizer: Any) -> None:
        """Keep the training where it is time to, at a step that is logged: nothing is pending then."""
        if self._checkpoints is None or not (self._checkpoints.due() or heartbeat.asked_to_stop()):
            return
        kept = {
            "step": step,
            "weights": {name: one for name, one in model.named_parameters() if one.requires_grad},
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
        }
        self._checkpoints.save(step, kept)
        heartbeat.stop_if_asked()

    def _restore(self, kept: Mapping[str, Any], model: Any, optimizer: Any) -> None:
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.data.copy_(kept["weights"][name])
        optimizer.load_state_dict(kept["optimizer"])


class _Drawn(Dataset[Mapping[str, Any]]):
    """Rows in the order of all methods, drawn as they are asked for."""

    def __init__(self, observer: Observer, columns: Callable[[Any], Mapping[str, Any]]):
        self.observer, self.columns = observer, columns
        self.first = observer.done * observer.run.batch * observer.views

    def __len__(self) -> int:
        return max(0, self.observer._amount * self.observer.views - self.first)

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        return self.columns(self.observer.row(self.first + place))
