"""Rows fall into splits by their conversation, user or prompt, whatever else is in the file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from alignbench.data.split import conversation_key, order_of, prompt_key, split_of
from alignbench.recipe.schema import Where
from alignbench.rows import Prompt, Text


def row(text: str, **extra: str) -> Prompt:
    return Prompt(id=text, prompt=({"role": "user", "content": text},), extra=extra)


SHARES = st.floats(0, 0.49)


@given(
    texts=st.sets(st.text(), min_size=1, max_size=30), seed=st.integers(0, 99), validation=SHARES, test=SHARES
)
def test_adding_rows_moves_no_other(texts: set[str], seed: int, validation: float, test: float):
    where = Where(validation=validation, test=test, seed=seed)
    alone = {text: split_of(row(text), where) for text in texts}
    assert alone == {text: split_of(row(text), where) for text in sorted(texts, reverse=True)}
    ordered = sorted((row(text) for text in texts), key=lambda one: order_of(one, seed))
    fewer = [one for one in ordered if one.id != ordered[0].id]
    assert sorted(fewer, key=lambda one: order_of(one, seed)) == ordered[1:]


@given(user=st.text(min_size=1), texts=st.sets(st.text(), min_size=2, max_size=5), seed=st.integers(0, 9))
def test_the_rows_of_one_user_stay_together(user: str, texts: set[str], seed: int):
    assert len({split_of(row(text, user=user), Where(seed=seed, by="user")) for text in texts}) == 1


def talk(*texts: str, system: str | None = None) -> Prompt:
    turns = tuple(
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)
    )
    first = () if system is None else ({"role": "system", "content": system},)
    return Prompt(id="/".join(texts), prompt=first + turns)


@given(st.lists(st.text(), min_size=3, max_size=3), st.integers(0, 9))
def test_a_conversation_stays_together_wherever_it_is_cut(texts: list[str], seed: int):
    cuts = [talk(*texts), talk(texts[0]), talk(*texts, system="be kind")]
    assert len({split_of(one, Where(seed=seed)) for one in cuts}) == 1
    assert len({conversation_key(one) for one in cuts}) == 1


@given(st.text(), st.integers(0, 9))
def test_a_row_of_one_turn_falls_where_its_prompt_does(text: str, seed: int):
    assert conversation_key(row(text)) == prompt_key(row(text).prompt)
    assert split_of(row(text), Where(seed=seed)) == split_of(row(text), Where(seed=seed, by="prompt"))


@given(text=st.text(), seed=st.integers(0, 9))
def test_without_a_user_equal_prompts_stay_together(text: str, seed: int):
    one, two = row(text), Prompt(id="other", prompt=row(text).prompt)
    where = Where(seed=seed, by="user")
    assert split_of(one, where) == split_of(two, where)


@given(text=st.text(), small=SHARES, more=SHARES)
def test_a_larger_test_share_takes_rows_and_gives_none_back(text: str, small: float, more: float):
    small, more = sorted((small, more))
    if split_of(row(text), Where(test=small, validation=0)) == "test":
        assert split_of(row(text), Where(test=more, validation=0)) == "test"


def test_the_shares_are_kept():
    found = [split_of(row(f"question {n}"), Where(validation=0.1, test=0.2)) for n in range(4000)]
    assert abs(found.count("test") / 4000 - 0.2) < 0.02
    assert abs(found.count("validation") / 4000 - 0.1) < 0.015


def test_the_seed_divides_otherwise():
    rows = [row(f"question {n}") for n in range(100)]
    first, second = ([split_of(one, Where(seed=seed, test=0.5)) for one in rows] for seed in (0, 1))
    assert first != second


def test_plain_text_is_divided_by_itself():
    one, two = Text(id="1", text="same"), Text(id="2", text="same")
    assert split_of(one, Where(test=0.5)) == split_of(two, Where(test=0.5))
