"""RAIN, best-of-n and the distillation keep the laws of the contract."""

from __future__ import annotations

from alignbench.sandbox import TEMPLATES
from alignbench.testing import MethodSuite

QUESTION = {"ask": TEMPLATES["harmless"], "swapped": TEMPLATES["harmless_swapped"]}
"""As the sandbox's model was taught; the plugin's own question is longer than its context."""
SMALL = {"question": QUESTION, "pairs": 8, "searches": 8, "least_searches": 2, "candidates": 4}


class TestRAIN(MethodSuite):
    method = "rain"
    config = SMALL

    def test_what_it_measures_before_it_answers_is_a_departure_with_its_size(self, aligned):
        cost, found = aligned[0].ledger.cost, {one.what: one.own for one in aligned[0].ledger.departures}
        assert found["a search of its own"] == f"{cost.searched_tokens:,} tokens"
        assert f"{cost.generated_tokens:,} tokens" in found["answers of its own"]
        assert "rows of its own" not in found


class TestBestOfN(MethodSuite):
    method = "best-of-n"
    config = {"question": QUESTION, "pairs": 8, "n": 4}


class TestRainSFT(MethodSuite):
    method = "rain-sft"
    config = {**SMALL, "prompts": 24, "max_new_tokens": 12, "learning_rate": 1e-3}

    def test_the_search_and_its_answers_are_departures_with_their_sizes(self, aligned):
        ledger = aligned[0].ledger
        departures = {one.what: one.own for one in ledger.departures}
        assert departures["a search of its own"] == f"{ledger.cost.searched_tokens:,} tokens"
        assert departures["rows of its own"] == f"{len(ledger.learned['made']):,}"
