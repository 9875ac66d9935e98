"""Inputs that people really have, in `shared/cases`: each is read, or refused by name.

Each kind has a small version of its own among the tests of `tests/data`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.data.prepare import prepare
from alignbench.data.survey import check_tokenizer, survey
from alignbench.data.table import Table, open_table
from alignbench.errors import AlignbenchError, DataError, Exit, ModelError
from alignbench.recipe.load import load
from alignbench.rows import Demonstration, Pair, Prompt, UnpairedPreference

Prepared = Callable[[str], Table]


@pytest.fixture
def recipe(shared: Path) -> Callable[[str], Path]:
    """A case's recipe; a checkout without the cases skips its tests, visibly."""

    def recipe(case: str) -> Path:
        path = shared / "cases" / case / "recipe.yaml"
        if not path.is_file():
            pytest.skip(f"needs shared/cases/{case}")
        return path

    return recipe


@pytest.fixture
def prepared(recipe: Callable[[str], Path], tmp_path: Path) -> Prepared:
    """The table of a case, as a run prepares it after every row was read by `check --data`."""

    def prepared(case: str) -> Table:
        loaded = load(recipe(case))
        survey(loaded.recipe, loaded.path.parent)
        prepare(loaded.recipe, tmp_path / case, root=loaded.path.parent)
        return open_table(tmp_path / case)

    return prepared


def first(table: Table) -> Prompt:
    row = table.kept("train")[0]
    assert isinstance(row, Prompt)
    return row


def test_a_system_column_is_the_system_turn(prepared: Prepared):
    row = first(prepared("02-system-column"))
    assert [turn["role"] for turn in row.prompt] == ["system", "user"]
    assert row.prompt[0]["content"] == "You answer in riddles."


def test_labels_beside_messages_are_labels(prepared: Prepared):
    rows = prepared("03-kto-messages-label").kept("train")
    assert {type(row) for row in rows} == {UnpairedPreference}
    assert {row.desirable for row in rows if isinstance(row, UnpairedPreference)} == {True, False}


def test_conversations_that_end_with_an_answer_are_demonstrations(prepared: Prepared):
    row = first(prepared("06-sharegpt-sft"))
    assert isinstance(row, Demonstration)
    assert row.response.startswith("Start slowly")


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("07-alpaca", "train: {./data.jsonl: {columns: {prompt: [instruction, input], completion: output}}}"),
        ("19-prompt-response", "train: {./data.jsonl: {columns: {completion: response}}}"),
    ],
)
def test_columns_of_other_names_are_refused_with_the_line_that_reads_them(
    case: str, line: str, recipe: Callable[[str], Path], shared: Path
):
    with pytest.raises(AlignbenchError, match="likeliest row is a Demonstration") as raised:
        load(recipe(case))
    assert line.removeprefix("train: ") in str(raised.value)
    source = line.removeprefix("train: ")
    mended = load(recipe(case), [f"data.train={source}"])
    assert survey(mended.recipe, mended.path.parent).view is Demonstration


def test_conversations_that_differ_early_are_refused_by_the_check_with_their_count(
    recipe: Callable[[str], Path],
):
    loaded = load(recipe("08b-implicit-early-divergence"))
    with pytest.raises(DataError, match="120 the two conversations differ before their last answer"):
        survey(loaded.recipe, loaded.path.parent)


def test_tool_calls_are_refused_by_name(recipe: Callable[[str], Path]):
    loaded = load(recipe("09b-tool-calls-text"))
    with pytest.raises(DataError, match=r"tools: is not read"):
        survey(loaded.recipe, loaded.path.parent)


def test_a_constant_user_parts_no_conversations_unless_asked_to(
    prepared: Prepared, recipe: Callable[[str], Path]
):
    assert len(prepared("13-user-constant").kept("train")) == 64
    loaded = load(recipe("13-user-constant"), ["data.split.by=user"])
    with pytest.raises(DataError, match=r"rows of one user stay together.* data.split.by: conversation"):
        survey(loaded.recipe, loaded.path.parent)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("14b-save-to-disk", "written by `save_to_disk` of the datasets library"),
        ("14c-hub-clone", r"its folders do; name one of them: ./clone/data"),
    ],
)
def test_a_folder_is_named_for_what_it_is(case: str, message: str, recipe: Callable[[str], Path]):
    with pytest.raises(AlignbenchError, match=message):
        load(recipe(case))


def test_ranks_that_are_no_numbers_are_refused_with_their_row(recipe: Callable[[str], Path]):
    loaded = load(recipe("15b-parquet-nan-ranks"))
    with pytest.raises(DataError, match=r"data.parquet:1: ranks: not a list of numbers \(one is nan\)"):
        survey(loaded.recipe, loaded.path.parent)


def test_messages_with_null_fields_are_read(prepared: Prepared):
    row = first(prepared("15d-parquet-mixed-structs"))
    assert isinstance(row, Pair)
    assert row.chosen.startswith("Start slowly")


def test_a_template_that_drops_part_of_an_answer_is_refused(prepared: Prepared):
    with pytest.raises(ModelError, match=r"120 the chat template drops part of an answer: its <think> part"):
        prepared("30-template-strips-thinking")


def test_the_default_of_several_templates_is_taken(prepared: Prepared):
    assert first(prepared("31-named-templates")).prompt_ids


def test_a_template_without_a_generation_prompt_is_refused(prepared: Prepared):
    with pytest.raises(ModelError, match="ignores add_generation_prompt"):
        prepared("33-no-generation-prompt")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(prepared: Prepared):
    with pytest.raises(ModelError, match=r"has \d+ tokens, the model embeds \d+"):
        prepared("35-added-tokens-not-resized")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("30-template-strips-thinking", "drops part of an answer: its <think> part"),
        ("33-no-generation-prompt", "ignores add_generation_prompt"),
        ("35-added-tokens-not-resized", "the model embeds"),
    ],
)
def test_what_small_files_tell_is_known_before_a_run(case: str, message: str, recipe: Callable[[str], Path]):
    loaded = load(recipe(case))
    pool = survey(loaded.recipe, loaded.path.parent)
    with pytest.raises(ModelError, match=message):
        check_tokenizer(loaded.recipe, loaded.path.parent, pool)


def test_check_with_data_asks_the_tokenizer(recipe: Callable[[str], Path]):
    done = CliRunner().invoke(app, ["check", "--data", str(recipe("33-no-generation-prompt"))])
    assert done.exit_code == Exit.USAGE
    assert "ignores add_generation_prompt" in done.stderr


def test_a_tokenizer_that_fits_passes(recipe: Callable[[str], Path]):
    loaded = load(recipe("31-named-templates"))
    check_tokenizer(loaded.recipe, loaded.path.parent, survey(loaded.recipe, loaded.path.parent))
