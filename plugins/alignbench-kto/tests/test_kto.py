"""The laws of the contract for each loss of unpaired preferences."""

from __future__ import annotations

import json
import math

import pytest

from alignbench import layout, sandbox
from alignbench.rows import UnpairedPreference
from alignbench.testing import MethodSuite
from alignbench.testing.sessions import open_session


class TestKTO(MethodSuite):
    method = "kto"

    def test_the_answers_of_one_prompt_count_as_one_row(self, aligned):
        run = aligned[0]
        assert run.ledger.account.rows == run.ledger.account.steps * run.batch


class TestBCO(MethodSuite):
    method = "kto"
    config = {"loss": "bco"}


class TestUnpairedAPO(MethodSuite):
    method = "kto"
    config = {"loss": "apo_zero", "desirable_weight": 1.2}


@pytest.mark.parametrize("every", [1, 3], ids=["all good", "a third good"])
@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_single_answers_that_are_good_or_bad_train_it(tmp_path, loss, every):
    """One answer to each prompt; where all are good, so is each step."""
    kinds = [number % every == 0 for number in range(64)]
    rows = (
        {"prompt": one["prompt"], "completion": one["answers"][0 if good else -1], "label": good}
        for one, good in zip(sandbox.rows("train", 64), kinds, strict=True)
    )
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        **TestKTO.recipe(),
        "data": {"train": "labelled.jsonl", "max_length": 128},
        "budget": {"epochs": 1},
        "methods": {"tried": {"method": "kto", "loss": loss}},
    }
    session = open_session(tmp_path, recipe)
    assert {type(row) for row in session.table.kept("train")} == {UnpairedPreference}
    run = MethodSuite._align(session, "unpaired")[0]
    logged = [json.loads(line) for line in (run.folder / layout.TRAINING_LOG).read_text().splitlines()]
    assert len(logged) > 0
    assert all(math.isfinite(value) for line in logged for value in line.values())
    assert run.ledger.account.rows == len(session.table.kept("train")), "each prompt once"
