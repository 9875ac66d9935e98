"""A callback for a transformers trainer: it logs to this run, keeps its budget and stops on numbers that are not
finite."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alignbench.api.method import Run
from alignbench.errors import Diverged


class Observer(TrainerCallback):
    """Logs what a transformers trainer logs, stops it at the budget, and raises Diverged on a NaN."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        # This filter replaces a loss that is not finite by the mean of the steps before it.
        args.logging_nan_inf_filter = False
        self.begun = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any):
        control.should_training_stop |= self._spent(args, state) >= 1

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

    def _spent(self, args: TrainingArguments, state: TrainerState) -> float:
        budget = self.run.budget
        rows = state.global_step * args.train_batch_size * args.gradient_accumulation_steps
        shares = {
            "epochs": (state.epoch or 0, budget.epochs),
            "rows": (rows, budget.rows),
            "steps": (state.global_step, budget.steps),
            "tokens": (state.num_input_tokens_seen, budget.tokens),
            "seconds": (time.perf_counter() - self.begun, budget.seconds),
        }
        return max(spent / limit for spent, limit in shares.values() if limit is not None)
