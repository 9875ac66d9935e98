"""A judge as a row filter: what it accepts stays, and its agreement with the labels is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignbench import layout
from alignbench.api.config import NamedJudge
from alignbench.api.judge import Judge, Score
from alignbench.judges.inspector import Inspector
from alignbench.rows import Demonstration, Pair, Ranking, UnpairedPreference
from alignbench.testing.sessions import open_session

ASKED = ({"role": "user", "content": "q"},)
HALF = Inspector.Config(judge=NamedJudge(name="self"))


class ByLength(Judge):
    """Scores an answer by its length; abstains on a question mark."""

    def score(self, prompts, answers):
        return [Score(float(len(answer)) if answer != "?" else None) for answer in answers]


def inspected(*rows, **config):
    made = Inspector(HALF.model_copy(update=config))
    made.judge = ByLength()
    return made.keep_all(rows), made.counts


def pair(chosen: str, rejected: str) -> Pair:
    return Pair(id=f"{chosen}{rejected}", prompt=ASKED, chosen=chosen, rejected=rejected)


def test_a_pair_whose_label_the_judge_does_not_share_is_dropped():
    good, bad = pair("long", "x"), pair("x", "long")
    kept, counts = inspected(good, bad)
    assert kept == [good, None]
    assert counts == {
        "comparisons: the judge agrees": 1,
        "comparisons: the judge disagrees": 1,
        "dropped: the judge disagrees": 1,
    }


def test_a_row_on_which_the_judge_abstains_stays():
    row = pair("?", "x")
    kept, counts = inspected(row)
    assert kept == [row]
    assert counts == {"comparisons: the judge abstains": 1}


@pytest.mark.parametrize(("agree", "stays"), [(0.6, True), (0.7, False)])
def test_a_ranking_stays_where_enough_of_its_comparisons_are_shared(agree: float, stays: bool):
    row = Ranking(id="r", prompt=ASKED, answers=("aaa", "a", "aa"), ranks=(1, 2, 3))  # two of three shared
    assert (inspected(row, agree=agree)[0] == [row]) is stays


def test_a_poor_demonstration_is_dropped():
    good = Demonstration(id="g", prompt=ASKED, response="long enough")
    poor = Demonstration(id="p", prompt=ASKED, response="no")
    kept, counts = inspected(good, poor)
    assert kept == [good, None]
    assert counts == {"dropped: the judge's score is too low": 1}


def test_an_answer_that_is_called_undesirable_may_be_poor():
    row = UnpairedPreference(id="v", prompt=ASKED, response="no", desirable=False)
    assert inspected(row)[0] == [row]


def test_what_a_judge_computes_for_a_filter_is_in_the_record_of_the_data_and_the_same_each_time(
    tmp_path: Path,
):
    rows = [{"prompt": f"sum {n} plus 1", "chosen": f"{n + 1}.", "rejected": "no"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"id": "sandbox"},
        "data": {
            "train": str(tmp_path / "rows.jsonl"),
            "max_length": 128,
            "filters": ["dedupe", {"judge": {"judge": "self", "agree": 0.0}}],
            "split": {"test": 0.25, "validation": 0.0},
        },
        "training": {"batch": 2, "threads": 1},
        "methods": {"sft": {}},
        "evaluation": {"prompts": 2, "sampling": {"temperature": 1.0, "max_new_tokens": 8}},
    }
    records = []
    for name in ("one", "two"):
        open_session(tmp_path / name, recipe, root=tmp_path)
        records.append((tmp_path / name / "run" / layout.DATA / layout.RECORD).read_bytes())
    assert records[0] == records[1]
    free, judged = json.loads(records[0])["filters"]
    assert "cost" not in free
    assert judged["cost"]["judge_calls"] == 2 * len(rows), "each comparison in both orders"
    assert judged["cost"]["tokens"] > 20 * judged["cost"]["judge_calls"] / 2
    assert judged["cost"]["flops"] > judged["cost"]["tokens"]


def test_what_a_server_says_of_its_tokens_is_what_its_filter_took():
    class Asked(ByLength):
        def compare(self, prompts, a, b):
            self.record_cost(judge_calls=2 * len(a), judge_tokens=70 * len(a))
            return super().compare(prompts, a, b)

    made = Inspector(HALF)
    made.judge = Asked()
    made.keep_all([pair("long", "x"), pair("x", "long")])
    made.keep_all([pair("longer", "x")])
    assert made.cost == {"judge_calls": 6, "tokens": 210}
