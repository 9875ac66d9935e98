"""A callback for a transformers trainer: it logs to this run, keeps its budget, its schedule and its checkpoints, and
stops on numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignbench import heartbeat
from alignbench.api.config import TOTALS
from alignbench.api.method import ExternalRun, Rows
from alignbench.errors import Diverged, PluginError
from alignbench.models import counting, meter
from alignbench.training.budget import rate
from alignbench.training.random_state import random_state, set_random_state
from alignbench.training.trainer import forget_peak, peak_memory

UNBOUNDED = 2**31 - 1
"""Steps and rows where the budget counts everything: how many it pays for shows on the way."""

RECENT = 2
"""The higher price of so many steps is that of the next: answers get longer or shorter as a policy learns."""


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
        self._micro_batches = self._answers = 1
        self._dearest = 0.0
        """The most that a step has cost, without `rows`."""
        self._prices: list[float] = []
        """What a token of the rows, or a prompt that the trainer answers itself, cost in each of the last steps."""
        self._few: int | None = None
        """Rows of the next step, where what is left pays for less than a batch."""
        self._skipped = 0
        """Rows by which the steps so far were smaller than batches."""
        self._data: _Drawn | None = None
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

    def lead(self, trainer: Any, columns: Callable[[Any], Mapping[str, Any]]) -> None:
        """Give a trainer the views that are left to train on, each as the columns that it reads, in their order.

        Under a budget that counts everything the last steps have as many rows as what is left pays for, by the price of
        a token of the rows in the steps before. Where the trainer draws its own answers, it is the price of a prompt.
        Each micro-batch of such a step has as many rows as the others.
        """
        trainer.train_dataset = self._data = _Drawn(self, columns)
        loader = trainer.get_train_dataloader

        def in_time() -> DataLoader[Any]:
            # What accelerate has prepared reads a step ahead, when it is not known yet what this one costs.
            made = loader()
            return DataLoader(made.dataset, batch_sampler=made.batch_sampler, collate_fn=made.collate_fn)

        trainer.get_train_dataloader = in_time

    def cut(self, places: list[int], micro_batch: int) -> list[int]:
        """Return the places of a micro-batch that the step has rows for: all, but where it has fewer."""
        size = len(places) if self._few is None else self._few * len(places) // self.run.batch
        # A batch of groups is read whole, again for each micro-batch, and dealt out later.
        moved = 0 if self._answers > 1 else micro_batch * (len(places) - size)
        return [place - moved - self._skipped * self.views for place in places[:size]]

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
        self._micro_batches = args.gradient_accumulation_steps
        self._answers = getattr(args, "num_generations", None) or 1
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
        if self.left <= 0 and self.run.budget.unit in TOTALS and self._kept is None:
            raise PluginError(
                f"all of {self.run.budget} are spent before its first step",
                "raise the budget: rows that a trainer prepares, and rewards that are trained for it, are a part of it",
            )
        self._begun = self.run.budget.amount - self.left
        if self._rows is not None:
            # A schedule of the trainer's own has changed `lr` already.
            self._peaks = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        forget_peak(args.device)
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
        settings = self.run.training
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
        peak, steps, rows = peak_memory(args.device), self.done + state.global_step, self._read(args, state)
        if self._rows is None:
            self.run.trained(epochs=state.epoch or 0, rows=rows, steps=steps, peak_memory_bytes=peak)
            return
        self.run.trained(
            epochs=rows / self._of_an_epoch,
            rows=rows,
            steps=steps,
            peak_memory_bytes=peak,
            learned=[self.row(number) for number in range(int(rows) * self.views)],
        )

    # --- the budget -----------------------------------------------------------------------------------------

    def _read(self, args: TrainingArguments, state: TrainerState) -> float:
        """Rows read: several answers to one prompt are one row."""
        if self._rows is not None:
            return min((self.done + state.global_step) * self.run.batch - self._skipped, self._amount)
        return state.global_step * args.train_batch_size * args.gradient_accumulation_steps / self._answers

    def _spent(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Find out whether the budget is spent; where it counts everything, whether what is left pays for no more."""
        size = None if self._data is None else self._data.step_size()
        if (unit := self.run.budget.unit) in TOTALS:
            spent, self.before = self.before - self.run.left, self.run.left
            if size is None:
                self._dearest = max(self._dearest, spent)
                return self.before < self._dearest or self.before <= 0
            self._prices = [*self._prices, spent / (size or 1.0)][-RECENT:]
            self._skipped += 0 if self._few is None else self.run.batch - self._few
            if self.before <= 0:  # where nothing was left before the step, it seems to have cost nothing
                return True
            self._few = self._affordable((self.done + state.global_step) * self.run.batch - self._skipped)
            return self._few == 0
        if self._rows is not None:
            return self.done + state.global_step >= math.ceil(self._amount / self.run.batch)
        done = {"epochs": state.epoch or 0, "rows": self._read(args, state), "steps": state.global_step}
        return done[unit] >= self.left

    def _affordable(self, read: int) -> int | None:
        """Return how many rows what is left pays for after the `read` ones; None: a batch, or more."""
        assert self._data is not None
        batch, price = self.run.batch, max(self._prices)
        rows, cost = 0, 0.0
        while rows < batch and (cost := cost + price * self._data.size(read + rows)) <= self.before:
            rows += 1
        if rows == batch:
            return None
        each = self._answers if self._answers > 1 else self.views
        return rows - rows % (self._micro_batches // math.gcd(self._micro_batches, each))

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
            "spending": (self._prices, self._few, self._skipped),
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
        self._prices, self._few, self._skipped = kept["spending"]


class _Drawn(Dataset[Mapping[str, Any]]):
    """Rows in the order of all methods, drawn as they are asked for, a micro-batch at a time."""

    def __init__(self, observer: Observer, columns: Callable[[Any], Mapping[str, Any]]):
        self.observer, self.columns = observer, columns
        self.first = observer.done * observer.run.batch * observer.views
        self._micro_batch = 0
        self._read: dict[int, float] = {}
        """The sizes of what was read since `step_size` was asked last, by place."""

    def __len__(self) -> int:
        return max(0, self.observer._amount * self.observer.views - self.first)

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        return self.columns(self.observer.row(self.first + place))

    def __getitems__(self, places: list[int]) -> list[Mapping[str, Any]]:
        places = self.observer.cut(places, self._micro_batch)
        self._micro_batch += 1
        found = [self[place] for place in places]
        self._read |= {place: _size(row) for place, row in zip(places, found, strict=True)}
        return found

    def size(self, row: int) -> float:
        """Return the size of row `row` of the training, from its very first: that of its views."""
        views = self.observer.views
        return sum(_size(self.columns(self.observer.row(row * views + view))) for view in range(views))

    def step_size(self) -> float:
        """Return the size of the step that has ended, and begin the next."""
        read, self._read, self._micro_batch = self._read, {}, 0
        return sum(read.values())


def _size(row: Mapping[str, Any]) -> float:
    """Return the tokens of a row; 1 where its columns have none, as the prompts that a trainer answers itself."""
    tokens = (one for one in row.values() if isinstance(one, list) and one and isinstance(one[0], int))
    return sum(map(len, tokens)) or 1
