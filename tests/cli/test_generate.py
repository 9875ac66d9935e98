"""`alignbench generate`: data that a model writes, with a card, and without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Named
from alignbench.rows import Demonstration, Pair

RECIPE = """\
model: {id: sandbox}
data: {train: sandbox, limit: 24, max_length: 128}
methods: {sft: {start: base}}
evaluation: {prompts: 4}
training: {batch: 8}
"""
SHORT = "sampling: {max_new_tokens: 30}"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generate(tmp_path: Path, *arguments: str):
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return CliRunner().invoke(app, ["generate", str(tmp_path / "recipe.yaml"), *arguments])


def test_preferences_are_a_file_that_a_recipe_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    out = tmp_path / "made"
    judge = "{self: {wording: sandbox}}"
    ran = generate(tmp_path, "--out", str(out), "--judge", judge, "--how", f"{{{SHORT}}}", "--json")
    assert ran.exit_code == 0, ran.output
    facts = json.loads(ran.stdout)
    rows = list(open_source(Named(name="preferences.jsonl"), out).rows("train", None, 0))
    assert len(rows) == facts["kept"] > 12
    assert all(isinstance(row, Pair) and 0.5 < row.preference <= 1 for row in rows)
    assert facts["people"]["asked"] > 0
    assert facts["spent"]["judge_calls"] == 2 * (facts["compared"] + facts["people"]["asked"])
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "**Licence.**" in card
    assert "`self`" in card
    again = generate(tmp_path, "--out", str(out), "--judge", judge)
    assert again.exit_code == 2
    assert "holds something already" in again.output


def test_demonstrations_are_revised_by_their_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    out = tmp_path / "made"
    how = f"{{wording: sandbox, constitution: sandbox, {SHORT}}}"
    ran = generate(tmp_path, "demonstrations", "--out", str(out), "--how", how)
    assert ran.exit_code == 0, ran.output
    rows = list(open_source(Named(name="demonstrations.jsonl"), out).rows("train", None, 0))
    assert rows
    assert all(isinstance(row, Demonstration) for row in rows)


def test_a_field_that_is_not_there_is_named(tmp_path: Path):
    ran = generate(tmp_path, "--out", str(tmp_path / "made"), "--how", "{answer: 3}")
    assert ran.exit_code == 2
    assert "--how.answer" in ran.output
