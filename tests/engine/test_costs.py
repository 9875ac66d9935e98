"""What an answer costs, beside the plain decoding of the policy it started from."""

from __future__ import annotations

import pytest

from alignbench.engine.cell import _uncached
from alignbench.engine.record import _decoding
from alignbench.method import Answer
from alignbench.results import Cost


def answered(prompt: int, length: int) -> Answer:
    # The last token of an answer is drawn and not read.
    return Answer("one", "", tuple(range(length)), finished=True, tokens=prompt + length - 1)


def test_without_a_cache_every_token_reads_all_before_it():
    by_hand = [sum(7 + at for at in range(4)), sum(3 + at for at in range(2)), 0]
    answers = [answered(7, 4), answered(3, 2), Answer("none", "", (), finished=True, tokens=5)]
    assert _uncached(answers) == sum(by_hand) / 3


PLAIN = Cost(
    answer_tokens=30, answer_forwards=10, answer_seconds=0.5, answer_length=10, answer_uncached_tokens=245
)
SEARCHED = Cost(answer_tokens=240, answer_forwards=32, answer_seconds=3.2, answer_length=8)


def test_a_decoder_is_held_against_its_start_token_by_token():
    found = _decoding(SEARCHED, "sft", PLAIN)
    assert (found.against, found.forwards, found.tokens) == ("sft", 4, 30)
    assert found.seconds == pytest.approx(0.4)
    assert (found.cached_forwards, found.cached_tokens) == (4, 10)
    assert found.cached_seconds == pytest.approx(8)
    assert found.uncached_tokens == pytest.approx(30 / 24.5)


@pytest.mark.parametrize(("cost", "plain"), [
    (PLAIN, PLAIN), (SEARCHED, SEARCHED), (SEARCHED, Cost()), (Cost(), PLAIN),
], ids=["it decodes plainly", "its start is a decoder", "its start is no label", "nothing was measured"])  # fmt: skip
def test_where_there_is_nothing_to_hold_it_against_nothing_is_said(cost, plain):
    assert _decoding(cost, "sft", plain) is None
