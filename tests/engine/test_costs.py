"""The cost of an answer, compared with plain decoding of the policy it started from."""

from __future__ import annotations

import pytest

from alignbench.engine.collect import _decoding, _judges
from alignbench.results import Cost
from alignbench.worker.run.ledger import Ledger

PLAIN = Cost(answer_tokens=30, answer_forwards=10, answer_seconds=0.5, answer_length=10)
SEARCHED = Cost(
    answer_tokens=240,
    answer_forwards=32,
    answer_seconds=3.2,
    answer_length=8,
    answer_uncached_tokens=120,
    answer_uncached_seconds=1.6,
)


def test_a_decoder_is_held_against_its_start_token_by_token():
    found = _decoding(SEARCHED, "sft", PLAIN)
    assert (found.against, found.forwards, found.tokens) == ("sft", 4, 30)
    assert found.seconds == pytest.approx(0.4)
    assert (found.cached_forwards, found.cached_tokens) == (4, 10)
    assert found.cached_seconds == pytest.approx(8)
    assert (found.uncached_tokens, found.uncached_seconds) == (2, 2)


@pytest.mark.parametrize(("cost", "plain"), [
    (PLAIN, PLAIN), (SEARCHED, Cost()), (Cost(), PLAIN),
], ids=["it decodes plainly, or its start does not", "its start is not a label", "nothing was measured"])  # fmt: skip
def test_where_there_is_nothing_to_hold_it_against_nothing_is_said(cost, plain):
    assert _decoding(cost, "sft", plain) is None


def test_what_a_judge_is_on_each_row_stays_in_the_cell():
    rows = {"a": {"accuracy": 1.0}}
    cell = {"judges": [{"name": "reward-model", "quality": {"accuracy": 1.0, "of_rows": rows}}]}
    assert _judges(cell) == ({"name": "reward-model", "quality": {"accuracy": 1.0}},)
    assert _judges({}) == ()


def test_a_row_that_was_made_of_a_prompt_is_not_another_prompt():
    ledger = Ledger(
        learned={"made": {"a", "b/0-1", "b/0-2"}, "train": {"c"}}, asked={"train": {"a", "b", "user/d"}}
    )
    assert ledger.prompts == len({"a", "b", "c", "user/d"})
