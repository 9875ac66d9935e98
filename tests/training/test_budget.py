"""What is spent, and the learning rate that follows from it."""

from __future__ import annotations

import math

import pytest

from alignbench.api.config import Budget
from alignbench.training.budget import Spent, rate


def rates(schedule: str, warmup: float, steps: int = 20) -> list[float]:
    return [rate(schedule, warmup, at / steps, (at + 1) / steps) for at in range(steps)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_no_step_is_wasted_on_a_rate_of_zero(schedule):
    for steps in (1, 2, 3, 20):
        for warmup in (0.0, 0.05, 0.5, 1.0):
            assert all(0 < of <= 1 for of in rates(schedule, warmup, steps)), (steps, warmup)


def test_warm_up_rises_in_equal_parts_to_the_peak():
    assert rates("constant", 0.25)[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_and_linear_fall_from_the_peak_towards_zero():
    assert rates("linear", 0.0, 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates("cosine", 0.0, 4) == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


def test_each_unit_of_a_budget_has_its_share():
    spent = Spent(rows=30, steps=4, tokens=500, seconds=2.0)
    assert spent.share(Budget(rows=60)) == 0.5
    assert spent.share(Budget(steps=16)) == 0.25
    assert spent.share(Budget(tokens=1000)) == 0.5
    assert spent.share(Budget(seconds=8)) == 0.25
    assert spent.share(Budget(epochs=1.5), size=40) == 0.5


def test_a_budget_in_epochs_asks_for_the_size_of_an_epoch():
    with pytest.raises(ValueError, match="rows of an epoch"):
        Spent().share(Budget(epochs=1))
