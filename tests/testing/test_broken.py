"""Plugins that break a law fail their suite, with a sentence that names the law."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alignbench import layout, plugins
from alignbench.api.config import NamedJudge, NamedReward, NamedSource, Sampling
from alignbench.errors import PluginError
from alignbench.evaluation import one_row
from alignbench.recipe.named import open_source
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.rewards import reward
from alignbench.rows import Prompt
from alignbench.testing import JudgeSuite, MethodSuite, MetricSuite, RewardSuite, SourceSuite
from alignbench.testing.sessions import open_session
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.metering import naming_answers
from alignbench.worker.run.policy_io import load_method, save_policy
from alignbench.worker.run.session import Session

BROKEN = Path(__file__).parent / "broken"
ROWS = {"budget": {"rows": 12}}

METHODS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "second_training",
        "a_short_run_answers_every_prompt",
        {},
        "has spent its budget of 2 steps, and trains again",
    ),
    (
        "mean_for_share",
        "its_first_step_is_the_same_whatever_the_micro_batch_is",
        {},
        "a value for each row or each token, unreduced",
    ),
    (
        "padding_in_the_loss",
        "its_first_step_is_the_same_whatever_the_micro_batch_is",
        {},
        "leave out places outside the mask",
    ),
    (
        "optimiser_of_its_own",
        "no_weight_changes_outside_of_a_training",
        {},
        "changed weights without a training",
    ),
    (
        "optimiser_alone",
        "no_weight_changes_outside_of_a_training",
        {},
        "changed weights without a training",
    ),
    (
        "optimiser_beside_the_base",
        "no_weight_changes_outside_of_a_training",
        {},
        "changed weights without a training",
    ),
    (
        "optimiser_before",
        "no_weight_changes_outside_of_a_training",
        {},
        "changed weights without a training",
    ),
    (
        "training_of_its_own",
        "no_weight_changes_outside_of_a_training",
        {},
        "with gradient outside of run.train",
    ),
    ("budget_ignored", "all_its_trainings_together_keep_the_budget", ROWS, "more than its budget"),
    ("forward_patched", "the_base_is_untouched", {}, "left modules of the base patched"),
    ("made_otherwise", "a_hit_in_the_store_equals_a_miss", {}, "found in the store or computed"),
    ("needs_another", "it_needs_no_other_plugin", {}, "in a field of type NamedMethod"),
    ("seed_ignored", "another_seed_trains_another_policy", {}, "does not depend on the seed"),
    ("pairs_in_one_order", "another_seed_trains_another_policy", {}, "in the same order at every seed"),
    ("rows_in_one_order", "another_seed_trains_another_policy", {}, "in the same order at every seed"),
    (
        "folder_of_its_module",
        "it_writes_nothing_outside_its_folder",
        {},
        "outside of its folder: .*rows.cache",
    ),
    ("key_ignored", "an_answer_depends_on_its_prompt_and_the_key_alone", {}, "does not depend on the key"),
    ("noise_by_place", "an_answer_depends_on_its_prompt_and_the_key_alone", {}, "depends on its place"),
    (
        "noise_by_company",
        "an_answer_depends_on_its_prompt_and_the_key_alone",
        {},
        "depends on the other prompts",
    ),
    (
        "equal_samples",
        "an_answer_depends_on_its_prompt_and_the_key_alone",
        {},
        "all samples of a prompt are equal",
    ),
    ("wrong_cost", "what_its_answers_cost_is_what_it_computed", {}, r"its answers name \d+ tokens of \d+"),
    ("restored_otherwise", "a_saved_policy_equals_the_one_that_was_saved", {}, "has other weights"),
    ("dice", "the_same_seed_gives_the_same_answers", {}, "the same seed gives other answers"),
    (
        "temperature_ignored",
        "its_answers_follow_the_settings_it_names_and_no_others",
        {},
        "does not make it greedy",
    ),
    (
        "temperature_unsaid",
        "its_answers_follow_the_settings_it_names_and_no_others",
        {},
        "without saying so in `follows`",
    ),
    ("cost_overstated", "what_its_answers_cost_is_what_it_computed", {}, "far more than the"),
    ("home_folder_of_answers", "it_writes_nothing_outside_its_folder", {}, "wrote to the home folder"),
    ("home_folder", "it_writes_nothing_outside_its_folder", {}, "wrote to the home folder"),
    (
        "start_changed",
        "it_starts_from_its_start_and_leaves_that_alone",
        {},
        "changed the weights of its start",
    ),
    ("start_ignored", "it_starts_from_its_start_and_leaves_that_alone", {}, "did not start from its start"),
    ("validation_rows", "it_learned_from_training_rows_and_rows_it_declared", {}, "are not training rows"),
]
"""The plugin, the law that it breaks, further arguments of the law, and the sentence."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The session of a suite, whatever its method is."""

    class Any_(MethodSuite):
        method = "dpo"

    return open_session(tmp_path_factory.mktemp("broken"), Any_.recipe())


@pytest.fixture
def broken(install, prepared: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], MethodSuite]:
    """Install a broken method, and return its suite with a session that holds it."""

    def open(name: str) -> MethodSuite:
        modules = {
            one: (BROKEN / f"{one}.py").read_text() for one in ("honest", "optimiser_of_its_own", name)
        }
        install(
            f"broken-{name}",
            modules=modules,
            methods={
                name: f"{name}:Broken",
                "honest": "honest:Honest",
                "optimiser_of_its_own": "optimiser_of_its_own:Broken",
            },
        )

        class Suite(MethodSuite):
            method = name

        monkeypatch.setattr(prepared, "plan", resolve(Recipe.model_validate(Suite.recipe())))
        prepared.__dict__.pop("_base", None)
        shutil.rmtree(prepared.run / layout.CELLS, ignore_errors=True)
        return Suite()

    return open


def held(suite: MethodSuite, session: Session, law: str, **given: Any) -> None:
    """Call a law of a suite with what it asks for."""
    function = getattr(suite, f"test_{law}")
    wanted = inspect.signature(function).parameters
    if "aligned" in wanted:
        given["aligned"] = suite._align(session, f"first-{suite.method}-{law}")
    function(**{name: given.get(name, session) for name in wanted})


@pytest.mark.parametrize(("name", "law", "given", "sentence"), METHODS, ids=[one[0] for one in METHODS])
def test_a_method_that_breaks_a_law_fails_its_suite(
    name, law, given, sentence, broken, prepared, tmp_path, monkeypatch
):
    suite = broken(name)
    with pytest.raises((AssertionError, PluginError), match=sentence):
        held(suite, prepared, law, tmp_path=tmp_path, monkeypatch=monkeypatch, **given)


@pytest.mark.parametrize("law", sorted({one[1] for one in METHODS}))
def test_what_the_broken_ones_are_made_of_keeps_the_law(law, broken, prepared, tmp_path, monkeypatch):
    held(broken("honest"), prepared, law, tmp_path=tmp_path, monkeypatch=monkeypatch, **ROWS)


def test_a_finished_policy_that_a_method_changes_ends_its_cell(broken, prepared):
    suite = broken("label_changed")
    other = prepared.base.add_adapter("other", seed=0)
    folder = layout.cell_folder(prepared.run, "other", 0) / layout.POLICY
    save_policy(other, folder, method="honest", config={}, start="base")
    with pytest.raises(PluginError, match="'tried' changed the weights of 'other'"):
        suite._align(prepared, "first")


@pytest.mark.parametrize(
    ("name", "departure"),
    [
        ("made_of_a_label", "weights: made of those of other instead of trained"),
        ("optimiser_beside_a_label", "changed weights without a training"),
    ],
)
def test_weights_are_made_of_a_labels_only_where_nothing_is_trained(broken, prepared, name, departure):
    suite = broken(name)
    folder = layout.cell_folder(prepared.run, "other", 0) / layout.POLICY
    save_policy(prepared.base.add_adapter("other", seed=0), folder, method="honest", config={}, start="base")
    said = [str(one) for one in suite._align(prepared, "first")[0].ledger.departures]
    assert [one for one in said if "weights" in one] == [departure]


def test_a_stage_is_held_to_the_weights_of_its_trainings_too(broken, prepared):
    ledger = broken("stage_of_a_broken_one")._align(prepared, "first")[0].ledger
    assert "changed weights without a training" in map(str, ledger.departures)


def test_the_row_that_a_method_cannot_read_is_named(broken, prepared, monkeypatch):
    suite = broken("one_bad_row")
    with pytest.raises(ZeroDivisionError) as caught:
        suite._align(prepared, "first")
    found = str(plugins.blamed(caught.value))
    assert found.startswith(
        "broken-one_bad_row 1.0 failed: ZeroDivisionError: division by zero (one_bad_row.py:"
    )
    assert re.search(r", row train-\d+-\d*[13579]\); report it to the authors of broken-one_bad_row$", found)


def filtered(run: CellContext, tmp_path: Path) -> None:
    data = {"train": "sandbox", "limit": 24, "max_length": 128, "filters": ["odd"]}
    open_session(tmp_path / "filtered", {"model": {"id": "sandbox"}, "data": data})


def judged(run: CellContext, tmp_path: Path) -> None:
    prompts = list(run.rows(Prompt))
    run.judge(NamedJudge(name="odd")).compare(prompts, ["yes"] * len(prompts), ["no"] * len(prompts))


def rewarded(run: CellContext, tmp_path: Path) -> None:
    prompts = list(run.rows(Prompt))
    reward(run, None, [NamedReward(name="odd")])(prompts, ["yes"] * len(prompts))


def answered(run: CellContext, tmp_path: Path) -> None:
    """By a decoder, rebuilt as a cell that starts from it does."""
    folder = tmp_path / "policy"
    save_policy(load_method("odd", {}).align(run), folder, method="odd", config={}, start="base")
    run.restored(folder, "odd").answer(list(run.rows(Prompt)), Sampling(), 0)


def read(run: CellContext, tmp_path: Path) -> None:
    open_session(tmp_path / "read", {"model": {"id": "sandbox"}, "data": {"train": "odd"}})


def measured(run: CellContext, tmp_path: Path, of: str = "samples") -> None:
    kind = plugins.load("metrics", "odd")
    one_row.measured(kind(kind.Config(of=of)), MetricSuite.evidence())


ROW = {
    filtered: r"row \S*[13579]",
    judged: r"row \S*[13579]",
    rewarded: r"row \S*[13579]",
    answered: r"row \S*[13579]",
    read: "row 4 of train, after row-6",
    measured: "row p1",
    partial(measured, of="generations"): "row own-5",
    partial(measured, of="pairs"): "row row1",
    partial(measured, of="texts"): "row t1",
}
"""What the messages end with."""


@pytest.fixture
def odd(install) -> int:
    """Installs plugins that cannot divide; the line where they do."""
    source = (BROKEN / "one_bad_prompt.py").read_text()
    install(
        "broken-odd",
        modules={"one_bad_prompt": source},
        data={"odd": "one_bad_prompt:Reading"},
        filters={"odd": "one_bad_prompt:Filter"},
        judges={"odd": "one_bad_prompt:Judging"},
        methods={"odd": "one_bad_prompt:Answering"},
        metrics={"odd": "one_bad_prompt:Measuring"},
        rewards={"odd": "one_bad_prompt:Rewarding"},
    )
    return next(
        n for n, line in enumerate(source.splitlines(), 1) if line.startswith("    return 1 / (1 - int")
    )


@pytest.mark.parametrize("call", ROW, ids=lambda call: getattr(call, "__name__", None) or call.keywords["of"])
def test_the_row_of_which_a_plugin_raises_is_named(call, odd, prepared, tmp_path):
    run = CellContext(prepared, label="base", seed=0, method="", start="base", folder=tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        call(run, tmp_path)
    found = str(plugins.blamed(caught.value))
    assert re.search(
        rf"\(one_bad_prompt.py:{odd}, {ROW[call]}\); report it to the authors of broken-odd$", found
    )


def test_a_metric_that_fails_of_no_row_alone_names_none(odd):
    with pytest.raises(ZeroDivisionError) as caught:
        measured(None, None, "cells")  # pyright: ignore[reportArgumentType]
    assert re.search(r"\(one_bad_prompt.py:\d+\); report", str(plugins.blamed(caught.value)))


def test_a_decoder_that_a_method_has_just_returned_names_the_row_too(odd, prepared, monkeypatch):
    class Suite(MethodSuite):
        method = "odd"

    monkeypatch.setattr(prepared, "plan", resolve(Recipe.model_validate(Suite.recipe())))
    policy = Suite._align(prepared, "odd")[1]
    with pytest.raises(ZeroDivisionError) as caught:
        policy.answer(prepared.table.prompts("train"), Sampling(), 0)
    assert re.search(rf"\(one_bad_prompt.py:{odd}, row \S*[13579]\)", str(plugins.blamed(caught.value)))


MISTAKES = {
    "LossAlone": "`loss` returned a Tensor; return the loss and a mapping of numbers to log",
    "TextLogged": "the number 'mood' of `loss` is a str; log values per row",
    "Detached": "does not depend on the policy that is trained; compute it of `scores`",
    "MeanOfTheLoss": "return values per row [n] or per token [N, R]; the trainer takes the mean",
    "ListOfSequences": "`sequences` returned a list; return the sequences of each group by its name",
    "Texts": "the group 'chosen' of `sequences` holds a str; give what row.sequences() returns",
    "ListOfRows": "run.train got a list of rows; give it run.rows(View)",
    "Start": "run.train got a policy without trainable weights; train what run.adapt returns",
    "ViewByName": "run.rows got 'pairs', which is no view; give a class of alignbench",
    "StageByItsField": "run.stage got a NamedMethod; give it name and fields: run.stage(named.name, **named.config)",
    "JudgeByName": "run.judge got a str; give it a config field of type NamedJudge",
    "StageWithAWrongField": "the stage 'dpo' cannot have these fields: loss: Input should be 'sigmoid'",
    "NoPolicy": "returned NoneType, which is not a policy",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_what_to_write_instead(mistake, install, prepared, monkeypatch):
    modules = {one: (BROKEN / f"{one}.py").read_text() for one in ("honest", "mistakes")}
    install("broken-mistakes", modules=modules, methods={"mistaken": f"mistakes:{mistake}"})

    class Suite(MethodSuite):
        method = "mistaken"

    monkeypatch.setattr(prepared, "plan", resolve(Recipe.model_validate(Suite.recipe())))
    shutil.rmtree(prepared.run / layout.CELLS, ignore_errors=True)
    with pytest.raises(PluginError, match=re.escape(MISTAKES[mistake])):
        Suite._align(prepared, "first")


RETURNS = {
    "data nothing": "Reading.rows returned a NoneType; yield rows",
    "data dict": "Reading.rows gave as row 2 of train a dict; yield Pair, Demonstration",
    "data number": "Reading.rows gave as row 2 of train one whose id is no text but of type int",
    "data twice": "Reading.rows gave as row 2 of train the id '0' a second time",
    "data text": "Reading.rows gave as row 2 of train a prompt that is no list of turns; write ({",
    "data role": "Reading.rows gave as row 2 of train the turn {'role': 'human'",
    "judges numbers": "Judging.score gave a float for row train-0-",
    "judges short": "Judging.score gave 63 values and was asked for 64; return a Score for each answer",
    "rewards words": "Rewarding.score gave a str for row train-0-",
    "metrics nothing": "Measuring.measure returned a NoneType; return a list of Measure and Missing",
    "metrics dict": "Measuring.measure returned a dict; return a list",
    "metrics numbers": "Measuring.measure gave a float; return a list",
    "metrics nobody": "Measuring.measure measured 'nobody' at seed 0; name the label and seed of a cell",
    "metrics nan": "Measuring.measure gave row p1 the value nan; leave out a row",
    "methods texts": "Dec.answer gave a str for row train-0-",
    "methods backwards": "Dec.answer gave sample 0 of 'train-0-",
}


def ask(run: CellContext, group: str, what: str) -> None:
    """Let a run ask a plugin as it does."""
    prompts, config = list(run.rows(Prompt)), {"what": what}
    if group == "data":
        list(open_source(NamedSource(name="odd", config=config), run.folder).rows("train", None, 0))
    elif group == "judges":
        judge = run.judge(NamedJudge(name="odd", config={"short": what == "short"}))
        judge.score(prompts, ["yes"] * len(prompts))
    elif group == "rewards":
        reward(run, None, [NamedReward(name="odd")])(prompts, ["yes"] * len(prompts))
    elif group == "metrics":
        kind = plugins.load("metrics", "odd")
        one_row.measured(kind(kind.Config(**config)), MetricSuite.evidence())
    else:
        policy = run.align(load_method("odd", config))
        naming_answers(policy)
        policy.answer(prompts, Sampling(), 0)


@pytest.mark.parametrize("case", RETURNS)
def test_what_a_plugin_returns_of_another_kind_is_told_with_what_to_return(case, install, prepared, tmp_path):
    groups = {"data": "Reading", "judges": "Judging", "rewards": "Rewarding", "metrics": "Measuring"}
    install(
        "broken-returns",
        modules={"returns": (BROKEN / "returns.py").read_text()},
        **{group: {"odd": f"returns:{name}"} for group, name in {**groups, "methods": "Answering"}.items()},
    )
    run = CellContext(prepared, label="base", seed=0, method="", start="base", folder=tmp_path)
    with pytest.raises(PluginError, match=re.escape(f"broken-returns 1.0: {RETURNS[case]}")):
        ask(run, *case.split())


# --- judges, metrics and sources ----------------------------------------------------------------------------

JUDGES = [
    ("Company", "a_score_does_not_depend_on_the_rest_of_the_batch", "depends on what else is asked"),
    ("Place", "a_score_does_not_depend_on_the_rest_of_the_batch", "depends on the order"),
    (
        "First",
        "exchanged_answers_exchange_the_preference",
        "does not follow the answers when they are exchanged",
    ),
    ("Moody", "opened_again_it_says_the_same", "opened again, it scores otherwise"),
    ("Endless", "a_score_is_a_finite_number_or_an_abstention", "not finite"),
    ("Mute", "a_score_is_a_finite_number_or_an_abstention", "it abstains on everything"),
    ("Both", "a_score_is_a_finite_number_or_an_abstention", "scores is False, and it gives a score"),
    ("Neither", "exchanged_answers_exchange_the_preference", "it neither scores nor compares"),
    ("Strict", "what_it_scores_it_does_not_refuse_beforehand", "refuses beforehand"),
]


@pytest.mark.parametrize(("name", "law", "sentence"), JUDGES, ids=[one[0] for one in JUDGES])
def test_a_judge_that_breaks_a_law_fails_its_suite(name, law, sentence, install, prepared):
    source = (BROKEN / "judges.py").read_text()
    install("broken-judges", modules={"judges_plugin": source}, judges={"tried": f"judges_plugin:{name}"})

    class Suite(JudgeSuite):
        judge = "tried"

    suite = Suite()
    function = getattr(suite, f"test_{law}")
    given = {"session": prepared, "opened": suite._open(prepared), "asked": suite.questions(prepared)}
    wanted = inspect.signature(function).parameters
    with pytest.raises(AssertionError, match=sentence):
        function(**{one: given[one] for one in wanted})


METRICS = [
    ("Needy", "it_needs_parts_of_the_evidence_that_there_are", "it needs sample, and there are samples"),
    ("Forgetful", "every_cell_has_one_entry_for_each_part", "is missing for some cells"),
    ("Endless", "its_values_are_finite_and_lie_in_its_span", "not finite"),
    ("Wide", "its_values_are_finite_and_lie_in_its_span", "outside of its span"),
    ("Place", "its_values_do_not_depend_on_the_order_of_the_prompts", "depend on the order"),
    ("OneSided", "exchanged_labels_change_the_sign_of_a_difference", "does not change its sign"),
    (
        "Company",
        "measured_alone_a_cell_has_the_numbers_that_it_has_together_with_others",
        "has other numbers",
    ),
]


@pytest.mark.parametrize(("name", "law", "sentence"), METRICS, ids=[one[0] for one in METRICS])
def test_a_metric_that_breaks_a_law_fails_its_suite(name, law, sentence, install):
    source = (BROKEN / "metrics.py").read_text()
    points = {"tried": f"metrics_plugin:{name}", "honest": "metrics_plugin:Honest"}
    install("broken-metrics", modules={"metrics_plugin": source}, metrics=points)

    class Suite(MetricSuite):
        metric = "tried"

    class Kept(MetricSuite):
        metric = "honest"

    getattr(Kept(), f"test_{law}")()
    with pytest.raises(AssertionError, match=sentence):
        getattr(Suite(), f"test_{law}")()


REWARDS = [
    ("Company", "a_reward_does_not_depend_on_the_rest_of_the_batch", "depends on what else is rewarded"),
    ("Place", "a_reward_does_not_depend_on_the_rest_of_the_batch", "depends on the order"),
    ("Moody", "made_again_it_says_the_same", "rewards otherwise"),
    ("Endless", "a_reward_is_a_finite_number_or_none", "not finite"),
    ("Choosy", "what_it_scores_it_does_not_refuse_beforehand", "refuses beforehand what it scores"),
    ("Silent", "a_reward_is_a_finite_number_or_none", "name that in `columns`"),
    ("Short", "a_reward_is_a_finite_number_or_none", "one reward for each answer"),
    ("Shares", "an_empty_answer_gets_a_finite_reward_or_none", "of an empty answer is not finite"),
]


@pytest.mark.parametrize(("name", "law", "sentence"), REWARDS, ids=[one[0] for one in REWARDS])
def test_a_reward_function_that_breaks_a_law_fails_its_suite(name, law, sentence, install):
    source = (BROKEN / "rewards.py").read_text()
    points = {"tried": f"rewards_plugin:{name}", "honest": "rewards_plugin:Honest"}
    install("broken-rewards", modules={"rewards_plugin": source}, rewards=points)

    class Suite(RewardSuite):
        reward = "tried"

    class Kept(RewardSuite):
        reward = "honest"

    getattr(Kept(), f"test_{law}")()
    with pytest.raises(AssertionError, match=sentence):
        getattr(Suite(), f"test_{law}")()


SOURCES = [
    ("Endless", "it_has_rows_and_no_more_than_it_was_asked_for", "more rows than it was asked for"),
    ("Dice", "the_same_seed_gives_the_same_rows", "read again, it has other rows"),
    ("Resampled", "a_larger_limit_only_adds_rows_at_the_end", "a larger limit changes the first rows"),
    ("Doubled", "the_ids_of_the_rows_are_unique", "several rows have one id"),
    ("Tokenised", "it_leaves_the_tokens_to_the_core", "has token ids already"),
    ("Speaker", "its_rows_are_of_the_words_that_conversations_have", "is not a role"),
    ("Promising", "every_row_has_the_view_that_the_source_names", "names the view Pair"),
]


@pytest.mark.parametrize(("name", "law", "sentence"), SOURCES, ids=[one[0] for one in SOURCES])
def test_a_source_that_breaks_a_law_fails_its_suite(name, law, sentence, install):
    source = (BROKEN / "sources.py").read_text()
    points = {"tried": f"sources_plugin:{name}", "honest": "sources_plugin:Honest"}
    install("broken-sources", modules={"sources_plugin": source}, data=points)

    class Suite(SourceSuite):
        source = "tried"

    class Kept(SourceSuite):
        source = "honest"

    getattr(Kept(), f"test_{law}")()
    with pytest.raises(AssertionError, match=sentence):
        getattr(Suite(), f"test_{law}")()
