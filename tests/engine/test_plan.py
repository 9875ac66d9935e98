"""The plan: start order, what `--only` brings along, what counts as a departure, and what a key holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.commands.plan import requested
from alignbench.engine import keys
from alignbench.engine.cells import cells_of
from alignbench.errors import RecipeError
from alignbench.recipe import configs
from alignbench.recipe import resolve as resolving
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe, own_budget

VERSIONS = {"torch": "2.13.0"}


def recipe(**changed: object) -> Recipe:
    fields = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox", "limit": 64},
        "methods": {
            "hot": {"method": "frozen", "start": "cold", "training": {"batch": 4}},
            "cold": {"method": "frozen"},
            "other": {"method": "frozen", "budget": {"steps": 3}},
        },
        "seeds": [0, 1],
    }
    return Recipe.model_validate({**fields, **changed})


def key(given: Recipe, label: str = "cold", **changed: object) -> str:
    cell = next(cell for cell in cells_of(resolve(given)) if cell.label == label)
    fields = {"versions": VERSIONS, "data": "d" * 64, "parents": {"base": "p" * 64}, "files": {}, **changed}
    return keys.cell_key(resolve(given), cell, **fields)  # pyright: ignore[reportArgumentType]


def test_a_label_is_planned_with_what_its_block_says():
    block = {"method": "frozen", "start": "cold", "budget": {"steps": 3}, "training": {"batch": 4}}
    labels = resolve(recipe(methods={"own": block, "cold": {"method": "frozen"}}, budget={"steps": 9})).labels
    own, cold = labels["own"], labels["cold"]
    assert (own.start, own.parents, own.budget.steps, own.training.batch) == ("cold", ("cold",), 3, 4)
    assert (cold.start, cold.parents, cold.budget.steps, cold.training.batch) == ("base", (), 9, 16)


def test_a_label_comes_after_its_start_and_base_comes_first():
    assert [str(cell) for cell in cells_of(resolve(recipe()))] == [
        *("base/seed-0", "cold/seed-0", "hot/seed-0", "other/seed-0"),
        *("base/seed-1", "cold/seed-1", "hot/seed-1", "other/seed-1"),
    ]


def test_a_label_with_seeds_of_its_own_brings_base_and_its_start_along():
    methods = {"cold": {"method": "frozen"}, "hot": {"method": "frozen", "start": "cold", "seeds": [7]}}
    given = recipe(methods=methods)
    assert [str(cell) for cell in cells_of(resolve(given))] == [
        *("base/seed-0", "cold/seed-0", "base/seed-1", "cold/seed-1"),
        *("base/seed-7", "cold/seed-7", "hot/seed-7"),
    ]
    assert [str(one) for one in resolve(given).labels["hot"].departures] == ["seeds: 7 instead of 0, 1"]


def test_more_seeds_leave_the_cells_that_are_there_as_they_are():
    few, more = (recipe(methods={"cold": {"method": "frozen", "seeds": s}}) for s in ([0], [0, 1]))
    assert key(few) == key(more)


def test_only_brings_along_what_a_label_starts_from():
    assert {cell.label for cell in cells_of(resolve(recipe()), ["hot"])} == {"base", "cold", "hot"}
    assert {cell.label for cell in cells_of(resolve(recipe()), ["base"])} == {"base"}


def test_only_names_a_label_that_is_not_there():
    with pytest.raises(
        RecipeError, match="--only names warm, which the recipe does not have; it has base, cold, hot"
    ):
        cells_of(resolve(recipe()), ["warm"])


def test_another_batch_or_budget_is_a_departure_and_an_own_knob_is_none():
    given = recipe()
    found = {label: [str(one) for one in resolve(given).labels[label].departures] for label in given.methods}
    assert found == {
        "hot": ["training.batch: 4 instead of 16"],
        "cold": [],
        "other": ["budget: 3 steps instead of 1 epoch"],
    }


def test_a_budget_of_the_chain_pays_for_the_starts_too():
    chain = {"epochs": 3, "scope": "chain"}
    methods = {
        "first": {"method": "frozen", "budget": {"epochs": 0.5}},
        "second": {"method": "frozen", "start": "first", "budget": {"epochs": 1}},
        "third": {"method": "frozen", "start": "second", "budget": chain},
        "fourth": {"method": "frozen", "start": "third", "budget": {"epochs": 4, "scope": "chain"}},
    }
    given = recipe(methods=methods)
    left = [own_budget(given, label).epochs for label in methods]
    assert left == [0.5, 1, 1.5, 1]
    with pytest.raises(ValueError, match="'third' has nothing left of epochs 1"):
        recipe(methods={**methods, "third": {**methods["third"], "budget": {**chain, "epochs": 1}}})
    with pytest.raises(ValueError, match="'third' pays for its chain in steps"):
        recipe(methods={**methods, "third": {**methods["third"], "budget": {"steps": 9, "scope": "chain"}}})


@pytest.mark.parametrize(
    "changed",
    [
        {"model": {"id": "sandbox", "quantization": "fp4"}},
        {"model": {"id": "sandbox", "adapter": {"rank": 8}}},
        {"model": {"id": "sandbox", "chat_template": "{{ messages }}"}},
        {"training": {"batch": 8}},
        {"training": {"schedule": "linear"}},
        {"budget": {"steps": 5}},
        {"evaluation": {"prompts": 10}},
        {"evaluation": {"sampling": {"temperature": 0.5}}},
        {"methods": {"cold": {"method": "frozen", "budget": {"steps": 1}}}},
        {"methods": {"cold": {"method": "few-shot"}}},
    ],
)
def test_every_field_that_can_change_a_policy_or_its_answers_changes_the_key(changed: dict):
    assert key(recipe(**changed)) != key(recipe())


@pytest.mark.parametrize(
    "changed", [{"data": "e" * 64}, {"parents": {"base": "q" * 64}}, {"versions": {"torch": "2.14.0"}}]
)
def test_the_rows_the_start_and_the_versions_change_the_key(changed: dict):
    assert key(recipe(), **changed) != key(recipe())


def test_a_plugin_s_source_changes_the_key(monkeypatch: pytest.MonkeyPatch):
    before = key(recipe())
    monkeypatch.setattr("alignbench.plugins.source_digest", lambda found: "edited")
    assert key(recipe()) != before


def test_the_seed_and_the_label_change_the_key():
    given = recipe()
    cells = [cell for cell in cells_of(resolve(given)) if cell.label != "base"]
    resolved = resolve(given)
    found = {keys.cell_key(resolved, one, versions=VERSIONS, data="d", parents={}, files={}) for one in cells}
    assert len(found) == len(cells)


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluation": {"judges": ["gold"], "metrics": ["reward"]}},
        {"methods": {"cold": {"method": "frozen"}, "another": {"method": "frozen"}}},
    ],
)
def test_what_cannot_change_a_policy_does_not_change_its_key(changed: dict):
    assert key(recipe(**changed)) == key(recipe())


def test_a_run_s_folder_names_cell_by_label_and_seed():
    cell = cells_of(resolve(recipe()))[-1]
    assert cell.folder(Path("runs/x")) == Path("runs/x/cells/other/seed-1")


def test_what_metrics_ask_for_is_planned_once_however_many_share_it(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"source": "un", "target": "one"}\n')
    fields = {"prompts": ["Name a customer."], "samples": 7, "max_new_tokens": 5}
    harness = {"harness": {"translation": "pairs.jsonl"}}
    given = recipe(
        evaluation={"metrics": [{"words": fields}, "kl", {"diversity": {**fields, "samples": 9}}, harness]}
    )
    assert requested(given, tmp_path) == [
        {"metrics": ["words", "diversity"], "prompts": 1, "answers": 9, "max tokens": 45},
        {"metrics": ["harness"], "prompts": 1, "answers": 1, "max tokens": None},
    ]


TWO = """
model: {id: sandbox}
data: {train: sandbox, limit: 24, max_length: 128}
methods:
  asked: {method: few-shot, start: base, shots: 1}
  again: {method: few-shot, start: asked, shots: 2}
evaluation: {prompts: 2, sampling: {max_new_tokens: 2}, judges: [gold], metrics: [length]}
"""


@pytest.mark.parametrize("more", [(), ("--fork",)])
def test_a_run_resolves_its_recipe_once_and_builds_each_config_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
):
    resolved, built = Counter[str](), Counter[str]()
    label, completed = resolving._label, configs._completed
    monkeypatch.setattr(
        resolving,
        "_label",
        lambda recipe, name, parents: resolved.update([name]) or label(recipe, name, parents),
    )
    monkeypatch.setattr(
        configs, "_completed", lambda value: built.update([type(value).__qualname__]) or completed(value)
    )
    monkeypatch.setattr(configs, "_built", {})
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "recipe.yaml").write_text(TWO)
    done = CliRunner().invoke(
        app, ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), *more]
    )
    assert done.exit_code == 0, done.output
    assert resolved == {"asked": 1, "again": 1}
    assert built["FewShot.Config"] == 2, "one for each label"


def test_another_source_of_a_judge_or_metric_is_another_evaluation():
    plan = resolve(recipe(evaluation={"prompts": 4, "judges": ["gold"]}))
    changed = {
        name: one.model_copy(update={"digest": "other"}) if name.startswith("judges ") else one
        for name, one in plan.sources.items()
    }
    assert changed != plan.sources
    one, other = (
        keys.evaluation_key(of, {"base/seed-0": "c"}, VERSIONS)
        for of in (plan, plan.model_copy(update={"sources": changed}))
    )
    assert one != other


def test_what_is_asked_of_cells_holds_the_prompts_that_choose_a_temperature():
    grid = {"prompts": 4, "sampling": {"temperature": [0, 1]}}
    few, more = (recipe(evaluation={**grid, "tuning_prompts": n}) for n in (10, 20))
    assert keys.asked_of_cells(few) != keys.asked_of_cells(more)
    one = {"prompts": 4, "sampling": {"temperature": 1}}
    few, more = (recipe(evaluation={**one, "tuning_prompts": n}) for n in (10, 20))
    assert keys.asked_of_cells(few) == keys.asked_of_cells(more), "nothing is chosen"
