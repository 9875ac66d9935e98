"""Judges that a method names: checked against their own fields, kept apart from evaluation judges, written out."""

from __future__ import annotations

import pytest

from alignbench.errors import AlignbenchError
from alignbench.recipe.departures import related
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve

BLOCK = """\
model: {{id: sandbox}}
data: {{train: sandbox}}
methods:
  ours: {{method: rlaif, {block}}}
evaluation: {{{evaluation}}}
"""


def problems(recipe, block: str, evaluation: str = "judges: [gold]") -> list[str]:
    path = recipe(BLOCK.format(block=block, evaluation=evaluation))
    with pytest.raises(AlignbenchError) as caught:
        load(path)
    return [f"{one.field}: {one.what}; {one.fix}" for one in caught.value.problems]


def test_a_judges_fields_are_checked_with_a_suggestion(recipe):
    (found,) = problems(recipe, "judge: {self: {polcy: start}}")
    assert found == "methods.ours.judge.self.polcy: unknown; did you mean 'policy'?"


def test_a_judge_that_is_not_installed_is_named(recipe):
    (found,) = problems(recipe, "judge: slef")
    assert "Did you mean 'self'?" in found


def test_a_method_that_is_built_on_is_checked_too(recipe):
    (found,) = problems(recipe, "optimizer: {dpo: {betta: 1}}")
    assert found == "methods.ours.optimizer.dpo.betta: unknown; did you mean 'beta'?"


def test_gold_never_trains(recipe):
    (found,) = problems(recipe, "judge: gold", "judges: []")
    assert "an evaluation judge and never enters training" in found


def test_gold_does_not_train_by_way_of_a_method_that_is_built_on(recipe):
    (found,) = problems(recipe, "optimizer: {rlaif: {judge: gold}}")
    assert "never enters training" in found


@pytest.mark.parametrize(
    ("judge", "evaluating"),
    [
        ("self", "self"),
        ("{self: {policy: start}}", "self"),
        ("self", "{language-model: {id: sandbox}}"),
        ("{language-model: {id: a/b, quantization: none}}", "{reward-model: {id: a/b}}"),
        ("{http: {url: 'http://localhost:1/v1', model: a/b}}", "{language-model: {id: a/b}}"),
    ],
)
def test_a_judge_that_trains_may_not_evaluate(recipe, judge: str, evaluating: str):
    (found,) = problems(recipe, f"judge: {judge}", f"judges: [gold, {evaluating}]")
    assert "'ours' learns from the judge" in found
    assert "allow it: evaluation.allow" in found


KEYWORDS = """
from alignbench import Judge, Score, Settings

class Keywords(Judge):
    '''Counts words.'''

    api = 2
    trains = True

    class Config(Settings):
        words: list[str] = ["please"]

    def score(self, prompts, answers):
        return [Score(0.0) for _ in answers]
"""


def test_a_judge_with_other_fields_is_still_the_judge_that_trains(recipe, install):
    install(
        "keywords", modules={"keywords_plugin": KEYWORDS}, judges={"keywords": "keywords_plugin:Keywords"}
    )
    (found,) = problems(recipe, "judge: keywords", "judges: [gold, {keywords: {words: [thanks]}}]")
    assert "'ours' learns from the judge" in found


def test_reward_models_of_other_rows_or_other_weights_are_other_judges(recipe):
    for block, evaluation in (
        ("{reward-model: {train_on: train}}", "{reward-model: {train_on: held-out}}"),
        ("{reward-model: {id: a/b}}", "{reward-model: {id: a/c}}"),
    ):
        loaded = load(
            recipe(BLOCK.format(block=f"judge: {block}", evaluation=f"judges: [gold, {evaluation}]"))
        )
        assert "trained on its evaluation judge" not in str(resolve(loaded.recipe).labels["ours"].departures)


def test_a_reward_model_of_the_methods_own_rows_does_not_evaluate(recipe):
    (found,) = problems(recipe, "judge: self", "judges: [gold, {reward-model: {train_on: train}}]")
    assert found == (
        "evaluation.judges[1].reward-model.train_on: a reward model of the methods' own rows cannot evaluate; "
        "set train_on: held-out"
    )


def test_a_judge_that_is_allowed_to_is_printed_as_a_departure(recipe):
    text = BLOCK.format(block="judge: self", evaluation="judges: [gold, self], allow: [self]")
    loaded = load(recipe(text)).recipe
    found = [str(one) for one in resolve(loaded).labels["ours"].departures]
    assert found == ["trained on its evaluation judge, self", "labelled by its own base, as the judge self"]


@pytest.mark.parametrize(
    ("model", "message"),
    [("a/b", ()), ("sandbox/early", ("labelled by a relative of its base, sandbox/early",))],
)
def test_a_judge_of_the_policys_family_is_printed_as_a_departure(
    recipe, model: str, message: tuple[str, ...]
):
    judge = f"{{language-model: {{id: {model}, wording: sandbox}}}}"
    loaded = load(recipe(BLOCK.format(block=f"judge: {judge}", evaluation="judges: [gold]"))).recipe
    assert tuple(map(str, resolve(loaded).labels["ours"].departures)) == message


OWN = '"{question} {a} {b} A or B?"'
LOST = (
    "draws a principle for each comparison, and its question has no placeholder for a principle; "
    "write {principle} into it"
)


@pytest.mark.parametrize(
    ("block", "field"),
    [
        (f"judge: {{self: {{compare: {OWN}}}}}, labels: {{constitution: built-in}}", "judge.self.compare"),
        (
            f"optimizer: {{rlaif: {{judge: {{self: {{compare: {OWN}}}}}, labels: {{constitution: built-in}}}}}}",
            "optimizer.rlaif.judge.self.compare",
        ),
    ],
)
def test_a_question_that_has_no_place_for_the_principle_is_refused(recipe, block: str, field: str):
    (found,) = problems(recipe, block)
    assert found.startswith(f"methods.ours.{field}: ")
    assert found.endswith(f"{LOST}, or leave `constitution` out")


def test_comparisons_made_anew_lose_no_principle_either(recipe):
    path = recipe(
        "model: {id: sandbox}\n"
        "data: {train: sandbox, source: {policy: start, judge: {self: {compare: "
        f"{OWN}}}}}, labels: {{constitution: sandbox}}}}}}\n"
        "methods:\n  dpo: {}\nevaluation: {judges: [gold]}\n"
    )
    with pytest.raises(AlignbenchError) as caught:
        load(path)
    (one,) = caught.value.problems
    assert one.field == "data.source.judge.self.compare"
    assert "draws a principle" in one.what


def test_a_judge_of_scores_cannot_follow_a_constitution(recipe):
    judge = "judge: {reward-model: {id: a/b}}, labels: {constitution: built-in}"
    (found,) = problems(recipe, judge)
    assert found.startswith("methods.ours.judge: ")
    assert "compares scores and reads no principle" in found


@pytest.mark.parametrize(
    "block",
    [
        f"judge: {{self: {{compare: {OWN}}}}}",
        'judge: {self: {compare: "{principle} {a} {b}"}}, labels: {constitution: built-in}',
        "judge: self, labels: {constitution: built-in}",
    ],
)
def test_a_question_that_loses_nothing_is_fine(recipe, block: str):
    assert load(recipe(BLOCK.format(block=block, evaluation="judges: [gold]")))


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        ('compare: "{question} A or B?"', "compare: lacks a placeholder; write {a}, {b} into it"),
        ('compare: "{a} {b} {principel}"', "{principel} is not a placeholder; it can use {a}, {b}, {nonce}"),
        ('compare: "{a} {b} {"', "compare: has an unmatched brace; write {{ or }}"),
        ('rate: "{question} from 1 to 10?"', "rate: lacks a placeholder; write {answer} into it"),
    ],
)
def test_a_question_that_cannot_be_filled_in_is_refused(recipe, asking: str, message: str):
    (found,) = problems(recipe, f"judge: {{self: {{{asking}}}}}")
    assert message in found


def test_the_defaults_of_judges_and_methods_are_written_out(recipe):
    loaded = load(recipe(BLOCK.format(block="optimizer: dpo", evaluation="judges: [gold]"))).recipe
    block = loaded.methods["ours"]
    assert block.config["judge"]["config"]["min_mass"] == 0.01
    assert block.config["optimizer"]["config"]["beta"] == 0.1
    assert [judge.name for judge in resolve(loaded).labels["ours"].judges] == ["self"]


def test_a_filter_must_not_read_with_gold(recipe):
    path = recipe(
        "model: {id: sandbox}\ndata: {train: sandbox, filters: [{judge: {judge: gold}}]}\n"
        "methods:\n  dpo: {}\nevaluation: {judges: []}\n"
    )
    with pytest.raises(AlignbenchError, match="never enters training"):
        load(path)


@pytest.mark.parametrize(
    ("judge", "base", "kin"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-0.5B", True),
        ("meta-llama/Llama-3.1-8B", "./llama-small", True),
        ("sandbox/early", "sandbox", True),
        ("google/gemma-2-9b-it", "google/flan-t5-base", False),
        ("", "sandbox", False),
    ],
)
def test_a_judge_of_the_policys_family_is_known_by_its_name(judge: str, base: str, kin: bool):
    assert related(judge, base) == related(base, judge) == kin
