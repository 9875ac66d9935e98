"""A callback for a transformers trainer: it logs to this run, keeps its budget and stops on numbers that are not
finite."""

from __future__ import annotations

import math
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignbench.api.config import TOTALS
from alignbench.errors import Diverged, PluginError
from alignbench.models import counting, meter


class Observer(TrainerCallback):
    """Logs what a transformers trainer logs, stops it at the budget, and raises Diverged on a NaN.

    What its model computes is counted as that of all others is.
    """

    def __init__(self, run: Any):
        self.run = run
        """A cell: `Run`, and `trained`, which takes a training off its budget."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ):
        # This filter replaces a loss that is not finite by the mean of the steps before it.
        args.logging_nan_inf_filter = False
        model = getattr(model, "get_base_model", lambda: model)()
        if isinstance(model, PreTrainedModel):
            counting.count(model)
        elif self.run.budget.unit in ("tokens", "flops"):
            raise PluginError(
                f"what a {type(model).__name__} computes is not counted, and the budget is {self.run.budget}",
                "train a transformers model, or set a budget in epochs, rows, steps or seconds",
            )
        self.left = self.before = self.run.left
        meter.begin("train")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        control.should_training_stop |= self._spent(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        meter.end()
        self.run.trained(epochs=state.epoch or 0, rows=self._rows(args, state), steps=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ):
        numbers = {
            name: float(value) for name, value in (logs or {}).items() if isinstance(value, (int, float))
        }
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(numbers.get(name, 0.0))]
        if bad:
            raise Diverged(
                f"the {bad[0]} is not finite at step {state.global_step}", "lower the learning rate"
            )
        self.run.log(state.global_step, **numbers)

    def _rows(self, args: TrainingArguments, state: TrainerState) -> float:
        """Rows read: several answers to one prompt are one row."""
        answers = getattr(args, "num_generations", None) or 1
        return state.global_step * args.train_batch_size * args.gradient_accumulation_steps / answers

    def _spent(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Whether the budget is spent; where it counts everything, whether another step like the last is too much."""
        if (unit := self.run.budget.unit) in TOTALS:
            last, self.before = self.before - self.run.left, self.run.left
            return self.before < last / 2
        done = {"epochs": state.epoch or 0, "rows": self._rows(args, state), "steps": state.global_step}
        return done[unit] >= self.left
