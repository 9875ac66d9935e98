"""A transformers trainer under this run's budget, log and checks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from alignbench.api.config import Budget
from alignbench.errors import Diverged
from alignbench.integrations import callback


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


def train(tmp_path, budget: Budget, nan_at: int | None = None) -> tuple[int, list[int]]:
    """Train a stock Trainer for up to 100 steps of 4 rows; return the steps it did, and those it logged."""
    logged: list[int] = []
    run = SimpleNamespace(budget=budget, log=lambda step, **numbers: logged.append(step))
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
    trainer.train()
    return trainer.state.global_step, logged


@pytest.mark.parametrize(
    ("budget", "steps"),
    [(Budget(steps=7), 7), (Budget(rows=24), 6), (Budget(epochs=1), 5), (Budget(epochs=2), 10)],
)
def test_it_stops_at_the_budget_of_the_run(tmp_path, budget, steps):
    done, logged = train(tmp_path, budget)
    assert done == steps
    assert logged[:steps] == list(range(1, steps + 1))


def test_it_stops_when_the_time_is_over(tmp_path):
    done, _ = train(tmp_path, Budget(seconds=1e-6))
    assert done == 1


def test_a_loss_that_is_no_number_stops_it_at_once(tmp_path):
    """transformers itself would log the mean of the steps before and go on."""
    with pytest.raises(Diverged, match="the loss is not finite at step 4"):
        train(tmp_path, Budget(steps=50), nan_at=4)
