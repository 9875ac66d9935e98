"""The laws of the contract for the family: for DPO, for a loss of the whole step, and without a reference."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from alignbench_dpo.catalogue import LOSSES

from alignbench import Budget, layout, sandbox
from alignbench.recipe.resolve import resolve
from alignbench.testing import MethodSuite
from alignbench.testing.sessions import open_session


class TestDPO(MethodSuite):
    method = "dpo"

    @pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.strength])
    def test_every_loss_trains_and_logs_finite_numbers(self, session, monkeypatch, loss):
        block = {
            "method": "dpo",
            "loss": loss,
            "label_smoothing": 0.1 if loss in ("exo_pair", "robust") else 0.0,
        }
        recipe = type(session.recipe).model_validate(
            {**session.recipe.model_dump(exclude_unset=True), "methods": {"tried": block}}
        )
        monkeypatch.setattr(session, "plan", resolve(recipe))
        folder = self._align(session, f"loss-{loss}")[0].folder
        logged = [json.loads(line) for line in (folder / layout.TRAINING_LOG).read_text().splitlines()]
        assert logged
        assert all(math.isfinite(value) for line in logged for value in line.values())

    @pytest.mark.parametrize("amount", [4000, 6000])
    def test_a_budget_of_two_steps_is_kept_to_the_row(self, session, monkeypatch, amount):
        """The reference is scored ahead for as many rows as the rest pays for, and none within a step."""
        training = session.recipe.training.model_copy(update={"batch": 32})
        recipe = session.recipe.model_copy(update={"budget": Budget(tokens=amount), "training": training})
        monkeypatch.setattr(session, "plan", resolve(recipe))
        run = self._align(session, f"tokens-{amount}")[0]
        assert 0.95 * amount <= run.drawn("tokens") <= 1.01 * amount


class TestALossOfTheWholeStep(MethodSuite):
    method = "dpo"
    config = {"loss": "beta_dpo"}


class TestALossOfDistributions(MethodSuite):
    method = "dpo"
    config = {"loss": "tdpo2"}


class TestALossWithoutAReference(MethodSuite):
    method = "dpo"
    config = {"loss": "cpo"}


def test_odpo_trains_on_soft_labels_and_logs_finite_numbers(tmp_path):
    rows = (
        {"prompt": one["prompt"], "chosen": one["answers"][0], "rejected": one["answers"][1], "preference": p}
        for one, p in zip(sandbox.rows("train", 64), itertools.cycle((0.6, 0.8, 0.95, 1.0)), strict=False)
    )
    (tmp_path / "soft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        **TestDPO.recipe(),
        "data": {"train": "soft.jsonl", "max_length": 128},
        "methods": {"tried": {"method": "dpo", "loss": "odpo"}},
    }
    folder = MethodSuite._align(open_session(tmp_path, recipe), "odpo")[0].folder
    logged = [json.loads(line) for line in (folder / layout.TRAINING_LOG).read_text().splitlines()]
    assert logged
    assert all(math.isfinite(value) for line in logged for value in line.values())
