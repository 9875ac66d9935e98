"""Tuning: equal trials for every method, drawn once, chosen on validation prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignbench import layout, results
from alignbench.engine import keys, tuning
from alignbench.engine.cells import PlannedCell, cells_of
from alignbench.errors import AlignbenchError, RecipeError
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded, Recipe
from alignbench.results import LabelResult, Measured, MetricInfo, Results

SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "beta": [0.1, 0.3]}


def recipe(**changed) -> Recipe:
    fields = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 64},
        "methods": {
            "first": {"method": "dpo", "config": {"beta": 0.2}, "sweep": SPACE},
            "second": {"method": "sft", "sweep": {"learning_rate": SPACE["learning_rate"]}},
            "third": {"method": "sft"},
        },
        "sweep": {"trials": 4},
        "evaluation": {"judges": ["gold"], "metrics": ["reward", "kl"]},
        "seeds": [0, 1, 2],
    }
    return Recipe.model_validate({**fields, **changed})


def test_every_swept_method_gets_the_same_number_of_trials_the_first_as_it_is_written():
    trials = tuning.expanded(recipe())
    assert list(trials.methods) == [
        *("first", "second", "third", "first.1", "first.2", "first.3", "second.1", "second.2", "second.3")
    ]
    assert trials.methods["first"].config["beta"] == 0.2
    drawn = [trials.methods[name].config for name in ("first.1", "first.2", "first.3")]
    assert all(1e-4 <= one["learning_rate"] <= 1e-2 and one["beta"] in (0.1, 0.3) for one in drawn)
    assert len({one["learning_rate"] for one in drawn}) == 3


def test_trials_look_at_validation_prompts_and_at_a_seed_of_their_own():
    trials = tuning.expanded(recipe())
    assert (trials.evaluation.split, trials.seeds, trials.sweep) == ("validation", [100], None)
    assert [one.name for one in trials.evaluation.metrics] == ["reward"]
    assert {cell.seed for cell in cells_of(resolve(trials))} == {100}


def test_the_same_recipe_draws_the_same_settings():
    assert tuning.expanded(recipe()) == tuning.expanded(recipe())


def finished(trials: Recipe, values: dict[str, float | None], *, higher=True) -> Results:
    return Results(
        metrics={"reward": MetricInfo(higher_is_better=higher)},
        labels=tuple(
            LabelResult(label=label, metrics={"reward": Measured(value=values.get(label, 0.1), missing="")})
            for label in ("base", *trials.methods)
        ),
    )


def tune(tmp_path, values, **how):
    given = recipe()
    loaded = Loaded(given, Path("r.yaml"), "")
    seen = []

    def run(trial, out, only):
        seen.append(trial.recipe)
        out.mkdir()
        results.write(finished(trial.recipe, values, **how), out)

    return tuning.tuned(loaded, tmp_path / "sweep", run).recipe, seen[0]


def test_the_best_setting_of_each_method_takes_part_in_the_comparison(tmp_path):
    chosen, trials = tune(tmp_path, {"first.2": 0.9, "first": 0.5, "second": 0.7})
    assert chosen.methods["first"].config == trials.methods["first.2"].config
    assert chosen.methods["second"].config == trials.methods["second"].config
    assert chosen.methods["third"].config == trials.methods["third"].config
    assert (chosen.evaluation.split, chosen.seeds) == ("test", [0, 1, 2])


def test_only_what_is_tuned_and_what_it_stands_on_runs_before_the_comparison():
    trials, names = tuning.tuning(Loaded(recipe(), Path("r.yaml"), ""))
    assert {cell.label for cell in cells_of(resolve(trials.recipe), names)} == {"base", *names}
    assert "third" not in names


def test_where_less_is_better_the_least_is_best(tmp_path):
    chosen, trials = tune(tmp_path, {"first.3": 0.05}, higher=False)
    assert chosen.methods["first"].config == trials.methods["first.3"].config


def test_a_method_whose_trials_all_failed_is_an_error(tmp_path):
    with pytest.raises(AlignbenchError, match="no trial of 'first' has a 'reward'"):
        tune(tmp_path, dict.fromkeys(("first", "first.1", "first.2", "first.3")))


def test_a_method_that_is_not_tuned_beside_others_that_are_departs():
    given = recipe()
    departures = [str(one) for one in resolve(given).labels["third"].departures]
    assert departures == ["tuning: none instead of 4 trials"]
    assert resolve(given).labels["second"].departures == ()


def test_a_field_that_the_method_does_not_have_is_named():
    wrong = recipe(methods={"first": {"method": "dpo", "sweep": {"betta": [1]}}})
    with pytest.raises(RecipeError, match=r"methods\.first\.sweep\.betta: the method has no such field"):
        tuning.expanded(wrong)


def test_no_two_trials_of_a_method_are_alike():
    lists = {"learning_rate": [1e-4, 1e-3], "beta": [0.1, 0.2, 0.3]}
    given = recipe(
        methods={"a": {"method": "dpo", "config": {"beta": 0.2}, "sweep": lists}}, sweep={"trials": 6}
    )
    tried = [block.config for block in tuning.expanded(given).methods.values()]
    assert len(tried) == 6
    assert all(one not in tried[:place] for place, one in enumerate(tried))


def test_values_that_make_too_few_settings_are_refused():
    few = recipe(methods={"a": {"method": "dpo", "sweep": {"beta": [0.1, 0.3]}}})
    with pytest.raises(
        RecipeError, match=r"methods\.a\.sweep: its values make 2 different .* sweep\.trials to 2"
    ):
        tuning.expanded(few)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sweep": None}, "set sweep.trials"),
        ({"seeds": [100]}, "one of the seeds"),
        (
            {"methods": {"a": {"method": "sft", "sweep": {"x": {"low": 2, "high": 1}}}}},
            "low must be below high",
        ),
    ],
)
def test_a_sweep_that_would_not_be_fair_is_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        recipe(**changed)


def test_a_judge_with_a_twin_that_leaves_the_methods_no_rows_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        END_TO_END.replace("[gold]", "[{reward-model: {train_on: held-out, share: 0.5}}]"), encoding="utf-8"
    )
    with pytest.raises(
        RecipeError, match=r"judges\[0\]\.reward-model: holding out the share 0\.5 to 1 leaves no rows"
    ):
        load(path)


def test_settings_chosen_leave_the_key_of_a_cell_to_what_it_computes():
    given = recipe()
    plain = given.model_copy(
        update={"methods": {k: b.model_copy(update={"sweep": {}}) for k, b in given.methods.items()}}
    )
    tuned, untuned = (
        keys.cell_key(one, PlannedCell("second", 0), versions={}, data="", parents={}, files={})
        for one in (resolve(given), resolve(replace_sweep(plain)))
    )
    assert tuned == untuned


def replace_sweep(given: Recipe) -> Recipe:
    return given.model_copy(update={"sweep": None})


END_TO_END = """
model: {id: sandbox}
data: {train: sandbox, limit: 32, max_length: 128}
training: {threads: 1, batch: 8}
budget: {steps: 2}
methods:
  first: {method: sft, sweep: {learning_rate: [1.0e-4, 1.0e-3, 3.0e-3]}}
  second: {method: dpo, learning_rate: 1.0e-4, sweep: {beta: {low: 0.05, high: 0.5, log: true}}}
sweep: {trials: 3}
evaluation: {prompts: 6, sampling: {max_new_tokens: 8}, judges: [gold], metrics: [reward, length]}
"""


def test_two_methods_with_three_trials_each_are_tuned_and_then_compared(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from alignbench.cli import app

    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(END_TO_END)
    plain = CliRunner()

    def planned() -> dict:
        return json.loads(plain.invoke(app, ["plan", str(path), "--out", str(out), "--json"]).output)

    before = planned()
    assert (before["tuning"]["cells"], before["tuning"]["finished"]) == (7, 0)
    # Who asks for one label first and for all of them later has one run, of one recipe.
    assert plain.invoke(app, ["run", str(path), "--out", str(out), "--only", "first"]).exit_code == 0
    assert plain.invoke(app, ["run", str(path), "--out", str(out)]).exit_code == 0
    trials, compared = results.read(out / layout.SWEEP), results.read(out)
    assert [len(trials.cells_of(label)) for label in ("first", "first.1", "first.2", "second.2")] == [1] * 4
    assert trials.recipe["evaluation"]["split"] == "validation"
    assert {cell.label for cell in compared.cells} == {"base", "first", "second"}
    assert compared.tuning == trials.cost
    assert (trials.cost.train_tokens or 0) > (compared.cost.train_tokens or 0) > 0
    for label in ("first", "second"):
        names = [label, f"{label}.1", f"{label}.2"]
        values = {name: trials.label(name).metrics["reward"].value for name in names}
        best = max(names, key=lambda name: values[name])
        assert compared.recipe["methods"][label]["config"] == trials.recipe["methods"][best]["config"]
    after = planned()
    assert after["tuning"]["finished"] == 7
    assert {cell["state"] for cell in after["cells"]} == {"finished"}
