"""A training that blew up with finite numbers is known by its gradient or its loss, and a healthy one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.testing.sessions import open_session
from alignbench.training.blow_up import Trace
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.policy_io import load_method


def trace(*logs: tuple[float, float]) -> Trace:
    """The trace of logs of one step each: the norm of the gradient, and the loss."""
    found = Trace()
    for step, (norm, loss) in enumerate(logs, 1):
        found.add(step, norm, loss, norm, loss)
    return found


@pytest.mark.parametrize(
    "logs",
    [
        [(0.6, 0.69), (3.0, 0.81), (2.0, 0.6)],  # the largest growth in the sandbox
        [(0.0, 0.0), (0.0, 0.0), (2.0, -0.01)],  # nothing to learn at first
        [(0.5, 0.69), (0.1, 0.1), (0.0, 0.0)],  # all is learnt
        [(21.0, 3.8), (5000.0, 3.7), (4.0, 3.6)],  # one long gradient, which is clipped
    ],
)
def test_a_healthy_training_has_no_sign(logs):
    assert not trace(*logs).blown_up(given_rows=True)


def test_a_gradient_of_a_thousand_times_its_first_length_is_a_sign_after_it_vanished_too():
    found = trace((0.1, 0.69), (5e9, 2.6), (0.0, 2.6))
    assert found.blown_up(given_rows=False) == "the norm of the gradient rose from 0.1 to 5e+09"


def test_a_loss_that_ends_far_above_its_first_is_a_sign_on_given_rows_alone():
    found = trace((1.0, 1.9), (33.0, 6.2), (0.2, 4.9))
    assert found.blown_up(given_rows=True) == "the loss rose from 1.9 to 4.9"
    assert not found.blown_up(given_rows=False)


@pytest.mark.parametrize(("learning_rate", "blew_up"), [(1e-3, False), (1.0, True)])
def test_it_is_a_warning_in_the_row(tmp_path: Path, learning_rate: float, blew_up: bool):
    recipe = {
        "model": {"id": "sandbox", "adapter": {"rank": 4}},
        "data": {"train": "sandbox", "limit": 48, "max_length": 128},
        "training": {"batch": 4, "threads": 1},
        "budget": {"steps": 4},
        "methods": {"dpo": {"start": "base", "learning_rate": learning_rate}},
        "evaluation": {"prompts": 4, "judges": ["gold"]},
    }
    session = open_session(tmp_path, recipe)
    run = CellContext(session, label="dpo", seed=0, method="dpo", start="base", folder=tmp_path)
    run.align(load_method("dpo", session.plan.labels["dpo"].config))
    warned = [str(one) for one in run.ledger.warnings.values()]
    assert bool(warned) == blew_up
    if blew_up:
        assert "a training blew up: the norm of the gradient rose from" in warned[0]
        assert "lower the learning rate of 1" in warned[0]
