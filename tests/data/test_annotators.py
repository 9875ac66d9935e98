"""The screening of annotators: what agreement is, and whose rows stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import kendalltau

from alignbench.data.annotators import Annotators, screen
from alignbench.errors import DataError
from alignbench.rows import Ranking

ANSWERS = ("a", "b", "c", "d")


def ranking(who: str, *ranks: int, prompt: str = "why?") -> Ranking:
    turn = {"role": "user", "content": prompt}
    return Ranking(
        id=f"{who} {prompt}", prompt=(turn,), answers=ANSWERS, ranks=ranks, extra={"annotator": who}
    )


GOLD = ranking("gold", 1, 2, 3, 4), ranking("gold", 2, 1, 1, 3, prompt="how?")


def test_agreement_is_the_share_of_golds_comparisons_ordered_alike():
    found = screen([*GOLD, ranking("ann", 1, 2, 4, 3), ranking("bob", 1, 1, 1, 1, prompt="how?")], "gold")
    assert found["ann"].agreement == pytest.approx(5 / 6)
    assert found["bob"].agreement == 0.5  # all ties
    assert found["ann"].prompts == 1
    assert "gold" not in found


@pytest.mark.parametrize("ranks", [(1, 2, 4, 3), (4, 3, 2, 1), (1, 1, 2, 2), (3, 1, 2, 2)])
def test_ranking_agreement_is_kendalls_tau_b(ranks: tuple[int, ...]):
    for gold in GOLD:
        theirs = ranking("ann", *ranks, prompt=gold.prompt[0]["content"])
        wanted = kendalltau(gold.ranks, ranks).statistic
        assert screen([gold, theirs], "gold")["ann"].ranking == pytest.approx(wanted)


@pytest.fixture
def screening(tmp_path: Path) -> Path:
    rows = [*GOLD, ranking("ann", 1, 2, 4, 3), ranking("bob", 4, 3, 2, 1)]
    lines = [
        json.dumps({"prompt": row.prompt[0]["content"], "answers": ANSWERS, "ranks": row.ranks, **row.extra})
        for row in rows
    ]
    (tmp_path / "screening.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_only_rows_of_those_who_passed_stay_and_the_others_are_counted(screening: Path):
    one = Annotators(Annotators.Config(screening="screening.jsonl"))
    one.root = screening
    assert one.keep(ranking("ann", 1, 2, 3, 4, prompt="new")) is not None
    assert one.keep(ranking("bob", 1, 2, 3, 4, prompt="new")) is None
    assert one.keep(ranking("cid", 1, 2, 3, 4, prompt="new")) is None
    assert one.counts == {
        "dropped: annotator bob agrees with gold 0%": 1,
        "dropped: annotator was not screened": 1,
    }


def test_a_screening_without_gold_says_so(screening: Path):
    one = Annotators(Annotators.Config(screening="screening.jsonl", gold="nobody"))
    one.root = screening
    with pytest.raises(DataError, match="'nobody'"):
        one.keep(ranking("ann", 1, 2, 3, 4))
