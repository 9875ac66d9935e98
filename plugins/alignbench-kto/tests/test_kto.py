"""The laws of the contract for each loss of unpaired preferences."""

from __future__ import annotations

from alignbench.testing import MethodSuite


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
