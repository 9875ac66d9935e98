"""Near-duplicate prompts across splits, against a comparison of all with all."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from alignbench.data.near import SIMILAR, _texts, _trigrams, near_duplicates

from .conftest import Prepare, WriteRows, pairs

LONG = "please explain step by step how a small sailing boat can travel against the wind on a lake"


def asked(*texts: str) -> list[tuple[dict[str, str], ...]]:
    return [({"role": "user", "content": text},) for text in texts]


def test_another_case_another_mark_and_one_more_word_are_near():
    near = [LONG.capitalize() + "!", LONG + " today"]
    assert near_duplicates(asked(*near), asked(LONG)) == 2


def test_scripts_without_spaces_are_compared_by_character_and_texts_without_a_word_never():
    prompts, training = (
        asked("東京の天気はどうですか明日は", "!!!"),
        asked("東京の天気はどうですか明日はね", "🙂"),
    )
    assert near_duplicates(prompts, training) == 1


def test_an_equal_prompt_and_one_of_other_words_are_not_near():
    assert near_duplicates(asked(LONG, "how do I bake rye bread"), asked(LONG)) == 0


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=9).map(" ".join)


@settings(max_examples=200)
@given(st.sets(WORDS, max_size=6), st.sets(WORDS, max_size=6))
def test_the_count_is_that_of_comparing_all_with_all(one: set[str], two: set[str]):
    def near(a: str, b: str) -> bool:
        x, y = (_trigrams(_texts(asked(text)[0])) for text in (a, b))
        return a != b and len(x & y) >= SIMILAR * len(x | y)

    assert near_duplicates(asked(*one), asked(*two)) == sum(any(near(a, b) for b in two) for a in one)


def test_the_record_counts_near_duplicates_of_training_prompts(write: WriteRows, table: Prepare):
    test = [{**row, "prompt": f"{LONG} on day {n}"} for n, row in enumerate(pairs(4))]
    write([*pairs(40), {"prompt": LONG, "chosen": "a", "rejected": "b"}])
    write(test, "test.jsonl")
    record = table("data.jsonl", test="test.jsonl", split={"validation": 0}).record
    assert record["near_duplicates"] == {"test": 4, "validation": 0}
    assert record["overlap"] == {"test": 0, "validation": 0}
