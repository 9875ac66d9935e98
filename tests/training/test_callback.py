"""A transformers trainer under this run's budget, log and checks."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from alignbench.api.config import Budget
from alignbench.errors import Diverged, PluginError
from alignbench.integrations import callback
from alignbench.models.meter import Tally, metered


class Line(torch.nn.Module):
    """y = w x, whose loss is NaN from one call on."""

    def __init__(self, nan_at: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.calls, self.nan_at = 0, nan_at

    def forward(self, x, labels):
        self.calls += 1
        loss = ((self.weight * x - labels) ** 2).mean()
        return {"loss": loss * math.nan if self.nan_at == self.calls else loss}


class Run:
    """What the callback needs of a run."""

    def __init__(self, budget: Budget):
        self.budget, self.logged, self.account = budget, [], {}
        self.tally, self.begun = Tally(), time.perf_counter()

    @property
    def left(self) -> float:
        work = self.tally.work
        spent = {"tokens": work.positions + work.trained, "flops": work.flops}
        return max(0.0, self.budget.amount - spent.get(self.budget.unit, 0) - self._seconds())

    def _seconds(self) -> float:
        return time.perf_counter() - self.begun if self.budget.seconds else 0.0

    def log(self, step: int, **numbers: float) -> None:
        self.logged.append(step)

    def trained(self, **account: float) -> None:
        self.account = account


def train(
    tmp_path, budget: Budget, nan_at: int | None = None, each_step=lambda: None
) -> tuple[int, list[int]]:
    """Train a stock Trainer for up to 100 steps of 4 rows; return the steps it did, and those it logged."""
    run = Run(budget)
    rows = [{"x": torch.tensor([float(at)]), "labels": torch.tensor([0.5 * at])} for at in range(20)]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=100,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(Line(nan_at), arguments, train_dataset=rows, callbacks=[callback(run)])
    step = trainer.training_step
    trainer.training_step = lambda *given: (each_step(), step(*given))[1]
    trainer.train()
    assert run.account["steps"] == trainer.state.global_step, "it is taken off the budget"
    assert run.account["peak_memory_bytes"] > 1e8, "torch alone takes more"
    return trainer.state.global_step, run.logged


@pytest.mark.parametrize(
    ("budget", "steps"),
    [(Budget(steps=7), 7), (Budget(rows=24), 6), (Budget(epochs=1), 5), (Budget(epochs=2), 10)],
)
def test_it_stops_at_the_budget_of_the_run(tmp_path, budget, steps):
    done, logged = train(tmp_path, budget)
    assert done == steps
    assert logged[:steps] == list(range(1, steps + 1))


def test_it_stops_when_the_time_is_over(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    done, _ = train(tmp_path, Budget(seconds=10), each_step=lambda: clock.forward(4))
    assert done == 2


def test_it_stops_where_the_first_step_takes_all_the_time_there_is(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    done, _ = train(tmp_path, Budget(seconds=10), each_step=lambda: clock.forward(12))
    assert done == 1


def test_a_trainer_that_was_only_prepared_when_the_time_is_over_is_refused(tmp_path):
    """Some tokenise all rows before their first step. Nothing is left then, of which a step could take a part."""
    with pytest.raises(PluginError, match="all of 1e-06 seconds are spent before its first step"):
        train(tmp_path, Budget(seconds=1e-6))


class Clock:
    """Goes forward when it is told to, and not by itself."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def forward(self, seconds: float) -> None:
        self.now += seconds


def test_a_loss_that_is_no_number_stops_it_at_once(tmp_path):
    """transformers itself would log the mean of the steps before and go on."""
    with pytest.raises(Diverged, match="the loss is not finite at step 4"):
        train(tmp_path, Budget(steps=50), nan_at=4)


def test_a_model_that_is_not_counted_cannot_be_trained_under_a_budget_that_counts(tmp_path):
    with pytest.raises(PluginError, match="what a Line computes is not counted"):
        train(tmp_path, Budget(tokens=100))


@pytest.mark.parametrize("unit", ["tokens", "flops"])
def test_what_its_model_computes_is_counted_and_the_budget_kept_to_a_step(tmp_path, unit):
    config = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=32)  # fmt: skip
    ids = torch.arange(3, 13)
    rows = [{"input_ids": ids, "labels": ids} for _ in range(40)]
    each = {"tokens": 4 * 10, "flops": 4 * 10 * 1e5}[unit]
    run = Run(Budget.model_validate({unit: 7 * each}))
    arguments = TrainingArguments(
        str(tmp_path), max_steps=100, per_device_train_batch_size=4, report_to="none", save_strategy="no",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=rows, callbacks=[callback(run)])
    with metered(run.tally):
        trainer.train()
    work = run.tally.work
    assert work.trained == 40 * trainer.state.global_step
    a_step = {"tokens": work.trained, "flops": work.flops}[unit] / trainer.state.global_step
    assert 0 <= run.left < a_step


class Led(Run):
    """What the callback needs of a run whose rows it gives to the trainer, in steps of four."""

    batch, training = 4, SimpleNamespace(schedule="constant", warmup=0.0)

    def draw(self, rows, step, size):
        return [rows[place % len(rows)] for place in range(step * size, (step + 1) * size)]

    def checkpoints(self, rows):
        return SimpleNamespace(last=lambda: None, due=lambda: False)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(("steps", "rows"), [(3.0, 12), (3.4, 13), (3.8, 15)])
def test_the_last_step_takes_the_rows_that_what_is_left_pays_for(tmp_path, micro_batches, steps, rows):
    config = LlamaConfig(vocab_size=90, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=32)  # fmt: skip
    run = Led(Budget(tokens=round(steps * 40)))
    given = [SimpleNamespace(id=str(number)) for number in range(20)]
    leading = callback(run, given)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=leading.steps, per_device_train_batch_size=4 // micro_batches,
        gradient_accumulation_steps=micro_batches, train_sampling_strategy="sequential", logging_steps=1,
        report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    seen: list[int] = []

    def columns(row):
        ids = [int(row.id) + 3, *range(40, 49)]
        return {"input_ids": ids, "labels": ids}

    def collate(batch):
        seen.extend(row["input_ids"][0] - 3 for row in batch)
        return {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}

    trainer = Trainer(
        LlamaForCausalLM(config), arguments, data_collator=collate, train_dataset=given, callbacks=[leading]
    )
    leading.lead(trainer, columns)
    with metered(run.tally):
        trainer.train()
    # Each micro-batch has as many rows as the others.
    rows -= rows % micro_batches
    assert seen == list(range(rows))
    assert run.tally.work.trained == 10 * rows <= run.budget.amount
    assert run.account["rows"] == rows
    assert [one.id for one in run.account["learned"]] == [str(number) for number in range(rows)]


def test_a_resumed_training_that_finds_no_time_left_takes_one_step_and_ends(tmp_path):
    """What it prepares again, before its first step, may take all that was left."""
    run = Led(Budget(seconds=10))
    run.begun -= 11
    assert run.left == 0
    leading = callback(run, [SimpleNamespace(id=str(number)) for number in range(20)])
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = {
        "step": 3, "spending": ([], None, 0), "weights": {}, "optimizer": optimizer.state_dict(), "random": None,
    }  # fmt: skip
    leading._kept = {**kept, "weights": dict(model.named_parameters())}
    args = SimpleNamespace(gradient_accumulation_steps=1, train_batch_size=4, device=torch.device("cpu"))
    control, state = TrainerControl(), TrainerState()
    leading.on_train_begin(args, state, control, model=model, optimizer=optimizer)
    state.global_step = 1
    leading._data = SimpleNamespace(step_size=lambda: 4.0, size=lambda row: 1.0)
    leading.on_step_end(args, state, control)
    assert control.should_training_stop
