"""A run of another recipe, files or environment is shown field by field, and is never overwritten."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from alignbench import plugins
from alignbench.engine import environment, keys, tuning
from alignbench.engine.cells import cells_of
from alignbench.errors import RecipeError
from alignbench.models import arithmetic
from alignbench.models.weights import child
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded, Recipe, canonical

TEXT = """
model: {id: sandbox}
data: {train: rows.jsonl, max_length: 64}
budget: {steps: 4}   # enough
methods:
  dpo: {beta: 0.2, start: base}
evaluation: {prompts: 4, judges: [gold], metrics: [reward, length]}
"""
COMPUTES = ("float32", "bfloat16")
ROW = {"prompt": "a question", "chosen": "yes", "rejected": "no"}


def record(out: Path, loaded: Loaded, **how: bool) -> tuple[str, ...]:
    root = loaded.path.parent
    resolved = resolve(loaded.recipe)
    files = environment.files(resolved, root)
    compute = environment.compute(out, loaded.recipe.model, root)
    return environment.record(out, loaded, resolved, files, compute=compute, **how)


def fork(out: Path, loaded: Loaded) -> Path:
    return environment.fork(out, resolve(loaded.recipe), loaded.path.parent)


@pytest.fixture
def loaded(tmp_path: Path):
    """Loads the recipe with some of its text replaced."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({**ROW, "id": n}) + "\n" for n in range(40)))

    def loaded(old: str = "", new: str = "") -> Loaded:
        path = tmp_path / "recipe.yaml"
        path.write_text(TEXT.replace(old, new) if old else TEXT)
        return load(path)

    return loaded


@pytest.fixture
def out(tmp_path: Path, loaded) -> Path:
    folder = tmp_path / "runs" / "tried"
    folder.mkdir(parents=True)
    assert record(folder, loaded()) == ()
    (folder / "cells").mkdir()
    return folder


def test_the_same_recipe_goes_on(out: Path, loaded):
    assert record(out, loaded("   # enough", "")) == ()


def test_a_run_goes_on_in_the_precision_in_which_it_began(out: Path, loaded, tmp_path: Path, monkeypatch):
    given = loaded()
    monkeypatch.setattr(arithmetic, "SMALL", 0)
    monkeypatch.setattr(child, "compute", lambda: "bfloat16")  # another machine
    assert environment.compute(tmp_path / "fresh", given.recipe.model, tmp_path) == "bfloat16"
    assert environment.compute(out, given.recipe.model, tmp_path) == "float32"
    one = cells_of(resolve(given.recipe))[-1]
    how = {"versions": {}, "data": "", "parents": {}, "files": {}}
    assert len({keys.cell_key(resolve(given.recipe).computing(c), one, **how) for c in COMPUTES}) == 2


def test_a_run_written_down_before_a_field_came_into_being_is_the_same_run(out: Path, loaded):
    file = out / "recipe.json"
    text = json.loads(file.read_text())
    del (
        text["data"]["source"],
        text["evaluation"]["curve"],
        text["methods"]["dpo"]["config"]["label_smoothing"],
    )
    file.write_text(json.dumps(text))
    assert record(out, loaded()) == ()
    assert fork(out, loaded()) == out


def test_a_changed_recipe_is_shown_field_by_field_and_refused(out: Path, loaded):
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    with pytest.raises(RecipeError) as caught:
        record(out, loaded("{beta: 0.2, start: base}", "{beta: 0.5, start: base, training: {batch: 2}}"))
    assert [(one.field, one.what) for one in caught.value.problems[1:]] == [
        ("methods.dpo.config.beta", "was 0.2, is 0.5"),
        ("methods.dpo.training.batch", "was null, is 2"),
    ]
    assert "--fork" in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(RecipeError, match=r"methods.dpo: is no longer there\n.*methods.kdo: is new"):
        record(out, loaded("dpo: {", "kdo: {method: dpo, "))
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before


def test_where_nothing_was_made_yet_a_mended_recipe_starts_afresh(out: Path, loaded):
    (out / "cells").rmdir()
    changed = loaded("steps: 4", "steps: 5")
    assert fork(out, changed) == out
    assert record(out, changed) == ()
    assert '"steps":5' in (out / "recipe.json").read_text()
    (out / "data").mkdir()
    (out / "data" / "COMMIT").touch()
    with pytest.raises(RecipeError, match=r"budget.steps: was 5, is 4"):
        record(out, loaded())


def test_a_fork_is_a_new_folder_and_the_same_one_again(out: Path, loaded):
    changed = loaded("steps: 4", "steps: 5")
    folder = fork(out, changed)
    assert folder.name == "tried-2"
    (folder / "cells").mkdir(parents=True)
    record(folder, changed)
    assert fork(out, changed) == folder
    assert fork(out, loaded()) == out
    assert fork(out, loaded("steps: 4", "steps: 6")).name == "tried-3"


def test_a_fork_of_a_tuned_run_is_the_same_one_again(out: Path, loaded):
    """What is recorded has the chosen settings; the recipe that is given has those to choose from."""

    def swept(values: str) -> Loaded:
        block = (
            f"sweep: {{trials: 2}}\nmethods:\n  dpo: {{beta: 0.2, start: base, sweep: {{beta: {values}}}}}\n"
        )
        return loaded("methods:\n  dpo: {beta: 0.2, start: base}\n", block)

    def run(folder: Path, given: Loaded) -> None:
        trials, _ = tuning.tuning(given)
        (folder / "sweep" / "cells").mkdir(parents=True)
        record(folder / "sweep", trials)
        block = given.recipe.methods["dpo"].model_copy(update={"config": {"beta": 0.5}})
        record(folder, replace(given, recipe=given.recipe.model_copy(update={"methods": {"dpo": block}})))

    first = fork(out, swept("[0.1, 0.5]"))
    assert first.name == "tried-2"
    run(first, swept("[0.1, 0.5]"))
    assert fork(out, swept("[0.1, 0.5]")) == first, "also where only the trials have begun"
    (first / "cells").mkdir()
    assert fork(out, swept("[0.1, 0.5]")) == first
    assert fork(out, swept("[0.3, 0.5]")).name == "tried-3"
    assert fork(out, loaded()) == out


def test_one_byte_of_a_row_is_another_run(out: Path, loaded, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"yes", b"yEs", 1))
    with pytest.raises(RecipeError, match=r"rows.jsonl: was .*, is "):
        record(out, loaded(), allow_env_change=True)


def test_another_library_is_refused_or_allowed_and_then_the_result_is_mixed(out: Path, loaded, monkeypatch):
    now = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda: {**now, "torch": "9.9"})
    with pytest.raises(RecipeError, match=r'versions.torch: was ".*", is "9.9"'):
        record(out, loaded())
    found = f'versions.torch was "{now["torch"]}", is "9.9"'
    assert record(out, loaded(), allow_env_change=True) == (found,)
    assert record(out, loaded()) == (found,), "once allowed it stays on record"


def test_an_edited_plugin_is_another_environment(out: Path, loaded, monkeypatch):
    digest = plugins.source_digest
    monkeypatch.setattr(
        plugins, "source_digest", lambda found: "edited" if found.name == "dpo" else digest(found)
    )
    with pytest.raises(RecipeError, match=r"plugins.methods dpo"):
        record(out, loaded())


# --- keys ---------------------------------------------------------------------------------------------------

NO_INPUT = {"data": ("allowed_drop", "allow_overlap")}
"""Fields that refuse a table, and change nothing in one that they let pass."""


def leaves(value: object, route: tuple = ()):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*route, name))
    else:
        yield route, value


def mutated(found: dict, route: tuple, value: object) -> Recipe | None:
    """The recipe with one field changed to another value that it can have."""
    changed = json.loads(json.dumps(found))
    place = changed
    for part in route[:-1]:
        place = place[part]
    near = [value + 1, value / 2] if isinstance(value, int | float) and not isinstance(value, bool) else []
    words = ["start", "another", "fp4", "linear", "adamw-8bit", "disjoint", "chain", ["q_proj"]]
    tried = [*near, *words, 1, 0.5, not value, None]
    for other in tried:
        if other == value:
            continue
        place[route[-1]] = other
        try:
            made = Recipe.model_validate(changed)
        except ValueError:
            continue
        if canonical(made) != canonical(Recipe.model_validate(found)):
            return made
    return None


def unchanged_keys(key, given: Recipe, parts: tuple[str, ...]) -> tuple[list[str], int]:
    """Change each field of some parts; return those that leave the key, and how many were tried."""
    found = given.model_dump(mode="json")
    blind, tried, before = [], 0, key(given)
    for part in parts:
        for route, value in leaves(found[part], (part,)):
            made = mutated(found, route, value)
            if made is None or route[1] in NO_INPUT.get(part, ()):
                continue
            tried += 1
            if key(made) == before:
                blind.append(".".join(map(str, route)))
    return blind, tried


def table_key(given: Recipe) -> str:
    return keys.table_key(resolve(given), files={}, versions={"torch": "1"})


def cell_key(given: Recipe) -> str:
    cell = next(cell for cell in cells_of(resolve(given)) if cell.label == "dpo")
    return keys.cell_key(
        resolve(given), cell, versions={"torch": "1"}, data=table_key(given), parents={}, files={}
    )


def test_every_field_that_goes_into_the_rows_changes_their_key(loaded):
    blind, tried = unchanged_keys(table_key, loaded().recipe, ("model", "data"))
    assert not blind
    assert tried >= 15


def test_every_field_that_goes_into_a_policy_or_its_answers_changes_its_key(loaded):
    blind, tried = unchanged_keys(cell_key, loaded().recipe, ("model", "data", "training", "budget"))
    assert not blind
    assert tried >= 25


def test_a_key_without_max_length_is_seen(loaded):
    def bug(given: Recipe) -> str:
        return table_key(given.model_copy(update={"data": given.data.model_copy(update={"max_length": 8})}))

    blind, _ = unchanged_keys(bug, loaded().recipe, ("model", "data"))
    assert "data.max_length" in blind


def test_versions_and_sources_change_a_key_as_environment_and_rows_as_input(loaded, monkeypatch):
    given = loaded().recipe
    now = table_key(given)
    other = keys.table_key(resolve(given), files={}, versions={"torch": "2"})
    assert other != now
    assert keys.same_inputs(other, now)
    assert not keys.same_inputs(
        keys.table_key(resolve(given), files={"rows": "x"}, versions={"torch": "1"}), now
    )
    cell = cell_key(given)
    monkeypatch.setattr("alignbench.plugins.source_digest", lambda found: "edited")
    assert cell_key(given) != cell
    assert keys.same_inputs(cell_key(given), cell)


@pytest.mark.parametrize(
    ("old", "new"),
    [("   # enough", ""), ("{beta: 0.2, start: base}", "{start: base, beta: 0.20}"), ("\n", "\n\n")],
)
def test_comments_order_and_white_space_change_no_key(loaded, old: str, new: str):
    assert cell_key(loaded(old, new).recipe) == cell_key(loaded().recipe)


def test_a_folder_of_files_is_read_whole(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    given = Recipe.model_validate(
        {
            "model": {"id": "./model"},
            "data": {"train": "sandbox"},
            "methods": {"dpo": {"method": "dpo", "start": "base"}},
        }
    )
    before = environment.files(resolve(given), tmp_path)
    assert list(before) == ["./model"]
    (folder / "config.json").write_text("{ }")
    assert environment.files(resolve(given), tmp_path) != before
    shutil.rmtree(folder)
    assert environment.files(resolve(given), tmp_path) == {}


@pytest.mark.parametrize(
    ("judge", "file"),
    [
        ({"reward-model": {"id": "judge"}}, "judge/model.safetensors"),
        ({"language-model": {"id": "judge", "gguf": "a.gguf"}}, "judge/a.gguf"),
    ],
)
def test_other_weights_in_the_folder_of_a_judge_are_noticed(tmp_path: Path, judge, file: str):
    """Whatever its name is: `judge` has neither a slash nor a dot."""
    (tmp_path / "judge").mkdir()
    (tmp_path / file).write_text("one")
    given = Recipe.model_validate(
        {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox"},
            "methods": {"sft": {}},
            "evaluation": {"judges": [judge]},
        }
    )
    before = environment.files(resolve(given), tmp_path)
    assert list(before) == ["judge"]
    (tmp_path / file).write_text("two")
    assert environment.files(resolve(given), tmp_path) != before
