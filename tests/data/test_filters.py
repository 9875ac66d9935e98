"""Row filters: personal data, lengths and duplicates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignbench.data.filters import PII, Dedupe, Length, luhn
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Text

from .conftest import Prepare, WriteRows, pairs

PROMPT: Any = ({"role": "user", "content": "q"},)


def text(content: str) -> Text:
    return Text(id="1", text=content)


def masked(content: str, **config: Any) -> str:
    row = PII(PII.Config(**config)).keep(text(content))
    assert isinstance(row, Text)
    return row.text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Write to bob.s+news@mail.example.co.uk, please", "Write to [email], please"),
        ("ボブはbob@example.jpです", "ボブは[email]です"),
        ("Call +44 20 7946 0958 or (555) 123-4567.", "Call [phone] or [phone]."),
        ("1-555-123-4567, 03-1234-5678, 09012345678", "[phone], [phone], [phone]"),
        ("card 4111 1111 1111 1111, or 378282246310005", "card [card], or [card]"),
        ("from 192.168.0.1 to 2001:db8::1 and ::ffff:10.0.0.1", "from [ip] to [ip] and [ip]"),
    ],
)
def test_personal_data_is_masked_by_its_kind(text: str, left: str):
    assert masked(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "the card 4111111111111112 fails Luhn's check",
        "years 2020 2021 2022, pages 100-200, 1999-2003, on 2024-01-15",
        "at 12:30:45, version 10.5.1, 999.1.1.1, 256.256.256.256",
        "std::vector, a :: b, e=mc2@home, user@localhost",
        "ISBN 978-3-16-148410-0, order 123456789",
    ],
)
def test_what_only_looks_alike_stays(text: str):
    assert masked(text) == text


def test_only_the_kinds_asked_for_are_masked():
    assert masked("a@b.org at 10.0.0.1", kinds=["ip"]) == "a@b.org at [ip]"


def test_every_text_of_a_row_is_looked_at():
    mail = "write a@b.org"
    rows = [
        Pair(id="1", prompt=PROMPT, chosen="fine", rejected=mail),
        Demonstration(id="2", prompt=({"role": "user", "content": mail},), response="fine"),
        Ranking(id="3", prompt=PROMPT, answers=("fine", mail), ranks=(1, 2)),
        text(mail),
        Prompt(id="5", prompt=({"role": "user", "content": mail},)),
    ]
    drop = PII(PII.Config(action="drop"))
    assert [drop.keep(row) for row in rows] == [None] * 5
    assert drop.counts == {"dropped: email": 5}
    mask = PII()
    assert all("[email]" in repr(mask.keep(row)) and "a@b.org" not in repr(mask.keep(row)) for row in rows)


@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_exactly_one_last_digit_passes_luhns_check(digits: str):
    assert sum(luhn(f"{digits}{last}") for last in range(10)) == 1


def test_the_first_of_equal_texts_stays():
    dedupe = Dedupe()
    rows = [
        Pair(id="1", prompt=PROMPT, chosen="A  b", rejected="c"),
        Pair(id="2", prompt=PROMPT, chosen="a b\n", rejected="C"),
        Pair(id="3", prompt=PROMPT, chosen="c", rejected="a b"),
    ]
    assert [row.id for row in rows if dedupe.keep(row)] == ["1", "3"]
    assert dedupe.counts == {"dropped: duplicate": 1}


def test_answers_are_measured_in_characters_or_words():
    row = Pair(id="1", prompt=PROMPT, chosen="three little words", rejected="one")
    assert Length().keep(row) is row
    assert Length(Length.Config(max=18)).keep(row) is row
    long, short = Length(Length.Config(max=17)), Length(Length.Config(min=2, unit="words"))
    assert long.keep(row) is None
    assert short.keep(row) is None
    assert (long.counts, short.counts) == ({"dropped: too long": 1}, {"dropped: too short": 1})


def test_filters_work_in_their_order_and_are_counted_in_the_record(write: WriteRows, table: Prepare):
    rows = pairs(60)
    rows[0]["chosen"] = "ask a@b.org"
    rows[1]["chosen"] = "hm"
    write([*rows, *rows[2:5]])
    made = table("data.jsonl", filters=["dedupe", "pii", {"length": {"min": 4}}])
    assert made.record["filters"] == [
        {"name": "dedupe", "counts": {"dropped: duplicate": 3}},
        {"name": "pii", "counts": {"masked: email": 1}},
        {"name": "length", "counts": {"dropped: too short": 1}},
    ]
    texts = [
        row.chosen
        for split in ("train", "validation", "test")
        for row in made.kept(split)
        if isinstance(row, Pair)
    ]
    assert len(texts) == 59
    assert "ask [email]" in texts
