"""Preferences written by a judge: which rows come out, which do not, and the file that others can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignbench import feedback
from alignbench.api.config import Labelling, Revising, Sampling
from alignbench.api.judge import Judge, PairwiseJudgment, Score
from alignbench.api.policy import Answer
from alignbench.errors import DataError, PluginError
from alignbench.feedback.labelling import agreement_with_people, label, load, principles
from alignbench.feedback.revising import revise
from alignbench.judges.language_model import Self
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Named
from alignbench.rows import Pair, Prompt, Ranking


class Parrot:
    """Answers with given texts; one that ends in `...` was cut."""

    can = frozenset({"answer"})

    def __init__(self, *texts: str):
        self.texts, self.asked = texts, []

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling, key: int, *, samples: int = 1):
        self.asked += prompts
        return [
            Answer(
                p.id,
                self.texts[n % len(self.texts)],
                (1,),
                not self.texts[n % len(self.texts)].endswith("..."),
                n,
            )
            for p in prompts
            for n in range(samples)
        ]


class Table(Judge):
    """Prefers by a table of (a, b); unknown pairs are abstentions."""

    def __init__(self, table: dict[tuple[str, str], PairwiseJudgment | float]):
        super().__init__()
        self.table, self.principles = table, []

    def score(self, prompts, answers):
        return [Score(None) for _ in answers]

    def judge_pairs(self, prompts, a, b, principles=None):
        self.principles.append(principles)
        found = [
            self.table.get((x, y), PairwiseJudgment(None, reason="no judgment"))
            for x, y in zip(a, b, strict=True)
        ]
        return [one if isinstance(one, PairwiseJudgment) else PairwiseJudgment(one) for one in found]


PROMPTS = [
    Prompt(id="one", prompt=({"role": "user", "content": "q"},), extra={"user": "u", "annotator": "human-3"})
]


def labelled(judge: Judge, *texts: str, **how):
    return label(judge, Parrot(*texts), PROMPTS, Labelling(answers=len(texts), **how), key=1)


def test_a_comparison_is_a_pair_with_the_judges_probability():
    found = labelled(Table({("x", "y"): 0.2}), "x", "y")
    assert found.rows == [
        Pair(
            id="one/0-1",
            prompt=PROMPTS[0].prompt,
            chosen="y",
            rejected="x",
            preference=0.8,
            extra={"user": "u", "judge": "table"},
        )
    ]


def test_a_plain_label_has_no_probability():
    assert [row.preference for row in labelled(Table({("x", "y"): 0.2}), "x", "y", soft=False).rows] == [1.0]


def test_equal_answers_are_not_compared():
    found = labelled(Table({("x", "y"): 0.9}), "x", "x", "y")
    assert found.facts["compared"] == 1


def test_answers_that_were_cut_are_not_compared():
    found = labelled(Table({("x", "y"): 0.9}), "x", "y", "long...")
    assert found.facts["compared"] == 1


def test_where_most_answers_were_cut_the_row_says_how_little_is_learnt():
    said: list[str] = []
    run: Any = SimpleNamespace(record=SimpleNamespace(warning=lambda name, step, text: said.append(text)))
    how = Labelling(sampling=Sampling(max_new_tokens=16))
    for cut in (27, 46):
        feedback._warn_of_cut_answers(run, {"prompts": 27, "unfinished": cut, "kept": 1}, how)
    (warning,) = said
    assert warning.startswith(
        "46 of 54 answers were cut at 16 tokens and are not compared: 1 comparisons are left"
    )


@pytest.mark.parametrize(
    ("message", "how", "reason"),
    [
        (PairwiseJudgment(None, reason="refused"), {}, "refused"),
        (PairwiseJudgment(0.5), {}, "tie"),
        (PairwiseJudgment(0.55), {"ties": 0.1}, "tie"),
        (PairwiseJudgment(0.7, orders=(0.9, 0.45)), {"consistent": True}, "the orders disagree"),
    ],
)
def test_what_labels_nothing_is_counted_under_its_reason(message: PairwiseJudgment, how: dict, reason: str):
    found = labelled(Table({("x", "y"): message}), "x", "y", **how)
    assert found.rows == []
    assert found.facts["dropped"] == {reason: 1}


def test_a_judgment_that_both_orders_share_is_kept():
    found = labelled(Table({("x", "y"): PairwiseJudgment(0.7, (0.9, 0.55), 0.8)}), "x", "y", consistent=True)
    assert len(found.rows) == 1
    assert found.facts["consistent"] == 1.0
    assert found.facts["mass"] == 0.8


def test_how_often_the_first_place_wins_is_told():
    found = labelled(Table({("x", "y"): PairwiseJudgment(0.6, (0.9, 0.3), 1.0)}), "x", "y")
    assert found.facts["first"] == 1.0


def test_all_comparisons_of_a_prompt_make_a_ranking():
    wins = {("x", "y"): 0.9, ("x", "z"): 0.8, ("y", "z"): 0.3}
    (row,) = labelled(Table(wins), "x", "y", "z", form="rankings").rows
    assert isinstance(row, Ranking)
    assert (row.id, row.answers, row.ranks) == ("one", ("x", "y", "z"), (1, 3, 2))


def test_a_ranking_keeps_the_probability_of_each_comparison():
    wins = {("x", "y"): 0.9, ("x", "z"): 0.5, ("y", "z"): 0.3}
    (soft,) = labelled(Table(wins), "x", "y", "z", form="rankings").rows
    assert isinstance(soft, Ranking)
    assert soft.preferences == (0.9, None, 0.3)
    (torn,) = labelled(Table(wins), "x", "y", "z", form="rankings", ties=0.25).rows
    assert torn.preferences == (0.9, None, None)  # pyright: ignore[reportAttributeAccessIssue]
    (hard,) = labelled(Table(wins), "x", "y", "z", form="rankings", soft=False).rows
    assert (hard.ranks, hard.preferences) == (soft.ranks, ())  # pyright: ignore[reportAttributeAccessIssue]


def test_answers_that_are_nearly_as_good_share_a_rank():
    wins = {("x", "y"): 0.52, ("x", "z"): 0.9, ("y", "z"): 0.9}
    (row,) = labelled(Table(wins), "x", "y", "z", form="rankings", ties=0.05).rows
    assert row.ranks == (1, 1, 2)


def test_a_prompt_of_ties_alone_gives_no_ranking():
    assert labelled(Table({("x", "y"): 0.5}), "x", "y", form="rankings").rows == []
    (sure,) = labelled(Table({("x", "y"): 0.0}), "x", "y", form="rankings").rows
    assert (sure.ranks, sure.preferences) == ((2, 1), (0.0,))  # pyright: ignore[reportAttributeAccessIssue]
    # As worths the two are further apart than `ties`, as a comparison they are not.
    assert labelled(Table({("x", "y"): 0.58}), "x", "y", form="rankings", ties=0.1).rows == []


def test_a_principle_is_drawn_for_each_comparison_and_stays_with_it():
    wins = dict.fromkeys([("x", "y"), ("x", "z"), ("y", "z")], 0.9)
    one, two = Table(wins), Table(wins)
    for judge in (one, two):
        label(judge, Parrot("x", "y", "z"), PROMPTS, Labelling(answers=3), ("kind", "brief"), key=4)
    assert one.principles == two.principles
    assert set(one.principles[0]) <= {"kind", "brief"}
    assert len(one.principles[0]) == 3


def test_a_judge_that_would_lose_the_principle_labels_nothing():
    asked = Self(Self.Config(compare="{question} {a} {b}"))
    parrot = Parrot("x", "y")
    with pytest.raises(PluginError, match="loses it: its question has no placeholder for a principle"):
        label(asked, parrot, PROMPTS, Labelling(), ("kind",), key=0)
    assert not parrot.asked, "refused before anything is spent"


def test_the_labels_are_a_file_that_any_recipe_can_read(tmp_path: Path):
    found = labelled(Table({("x", "y"): 0.2}), "x", "y")
    found.save(tmp_path)
    (row,) = open_source(Named(name="preferences.jsonl"), tmp_path).rows("train", None, 0)
    assert row == found.rows[0]
    assert load(tmp_path) == found


def test_rankings_survive_the_file_too(tmp_path: Path):
    wins = {("x", "y"): 0.2, ("x", "z"): 0.7}
    for soft in (True, False):
        found = labelled(Table(wins), "x", "y", "z", form="rankings", soft=soft)
        assert len(found.rows) == 1
        found.save(tmp_path)
        assert load(tmp_path).rows == found.rows


# --- compared with the labels of people


class Favours(Judge):
    """Prefers by a function of both answers and the principle."""

    def __init__(self, prefers):
        super().__init__()
        self.prefers = prefers

    def score(self, prompts, answers):
        return [Score(None) for _ in answers]

    def judge_pairs(self, prompts, a, b, principles=None):
        return [self.prefers(*one) for one in zip(a, b, principles or [""] * len(a), strict=True)]


HUMAN = [
    Pair(
        id=str(n),
        prompt=({"role": "user", "content": f"q{n}"},),
        chosen=f"good {n}",
        rejected=f"bad {n}",
        preference=0.2 if n >= 30 else 1.0,
    )
    for n in range(40)
]
"""In the last quarter the label prefers the second answer."""


def good(a: str, b: str, principle: str) -> PairwiseJudgment:
    return PairwiseJudgment(
        0.9 if a.startswith("good") else 0.1, (0.9, 0.9) if a.startswith("good") else (0.1, 0.1)
    )


def test_labels_are_held_against_those_of_people():
    found = agreement_with_people(Favours(good), HUMAN, Labelling(), key=0)
    assert (found["asked"], found["n"], found["accuracy"]) == (40, 40, 0.75)
    assert found["ci95"][0] < 0.75 < found["ci95"][1]
    assert 0.3 < found["kappa"] < 0.7, "one half is chance"
    assert found["alpha"] == pytest.approx(found["kappa"], abs=0.05)
    assert (found["consistent"], found["first"]) == (1.0, 0.5)


def test_a_judge_that_follows_the_place_agrees_with_people_as_chance_does():
    def place(a: str, b: str, principle: str) -> PairwiseJudgment:
        return PairwiseJudgment(0.6, (0.9, 0.3))

    found = agreement_with_people(Favours(place), HUMAN[:30], Labelling(), key=0)
    assert 0.2 < found["accuracy"] < 0.8
    assert found["kappa"] == 0.0
    assert (found["consistent"], found["first"]) == (0.0, 1.0)


def test_what_would_label_nothing_is_no_disagreement_with_people():
    def torn(a: str, b: str, principle: str) -> PairwiseJudgment:
        return PairwiseJudgment(0.6, (0.9, 0.3)) if a.endswith(("1", "2")) else good(a, b, principle)

    found = agreement_with_people(Favours(torn), HUMAN[:30], Labelling(consistent=True), key=0)
    assert found["dropped"] == {"the orders disagree": 6}
    assert (found["n"], found["accuracy"]) == (24, 1.0)


def test_a_judge_is_held_against_people_by_its_principles():
    def turncoat(a: str, b: str, principle: str) -> PairwiseJudgment:
        return good(a, b, "") if principle == "kind" else good(a, b, "").swapped()

    found = agreement_with_people(Favours(turncoat), HUMAN[:30], Labelling(), ("kind",), key=0)
    assert found["accuracy"] == 1.0
    assert (
        0
        < agreement_with_people(Favours(turncoat), HUMAN[:30], Labelling(), ("kind", "x"), key=0)["accuracy"]
        < 1
    )


def test_what_a_judge_abstains_from_is_counted_for_each_file_of_labels():
    judge = Table({("x", "y"): 0.9})
    judge.abstained["neither option"] = 3
    assert labelled(judge, "x", "y").facts["abstained"] == {}


def test_what_a_judge_would_have_said_instead_is_among_the_facts_of_its_labels():
    class Rambles(Table):
        def judge_pairs(self, prompts, a, b, principles=None):
            self.abstained["neither option"] += len(prompts)
            self.first_words.update(["Both"] * len(prompts))
            return [PairwiseJudgment(None, mass=0.002, reason="neither option")] * len(prompts)

    judge = Rambles({})
    judge.first_words = Counter(Earlier=7)
    facts = labelled(judge, "x", "y").facts
    assert facts["first_words"] == {"Both": 1}
    assert facts["mass"] == 0.002


# --- constitutions


def test_the_built_in_constitution_has_principles_and_no_comments():
    found = principles("built-in", Path())
    assert len(found) == 8
    assert not any(line.startswith("#") for line in found)


def test_a_constitution_of_ones_own_is_a_file(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("# mine\n\nBe kind.\nBe brief.\n", encoding="utf-8")
    assert principles("mine.txt", tmp_path) == ("Be kind.", "Be brief.")


@pytest.mark.parametrize("content", [None, "# nothing\n", b"\xff\xfe"])
def test_a_constitution_that_cannot_be_used_is_named(tmp_path: Path, content: str | bytes | None):
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"mine\.txt"):
        principles("mine.txt", tmp_path)


# --- revisions


class Writer:
    """Answers, criticises and revises by rote."""

    def __init__(self):
        self.asked: list[str] = []

    def answer(self, prompts, sampling, key, *, samples=1):
        found = []
        for prompt in prompts:
            text = prompt.prompt[-1]["content"]
            self.asked.append(text)
            result = (
                "better" if "Write a reply" in text else "too short" if "falls short" in text else "first"
            )
            found.append(Answer(prompt.id, result, (1,), True))
        return found


def test_an_answer_is_criticised_and_revised_by_a_principle():
    writer = Writer()
    (row,) = revise(writer, PROMPTS, Revising(), ["Be kind."], key=0)  # pyright: ignore[reportArgumentType]
    assert (row.id, row.response) == ("one", "better")
    assert "first" in writer.asked[1]
    assert "Be kind." in writer.asked[1]
    assert "too short" in writer.asked[2]


@pytest.mark.parametrize(("how", "asked"), [({"rounds": 0}, 1), ({"rounds": 2}, 5), ({"critique": False}, 2)])
def test_rounds_and_critiques_can_be_left_out(how: dict, asked: int):
    writer = Writer()
    (row,) = revise(writer, PROMPTS, Revising(**how), ["Be kind."], key=0)  # pyright: ignore[reportArgumentType]
    assert len(writer.asked) == asked
    assert row.response == ("first" if how.get("rounds") == 0 else "better")
