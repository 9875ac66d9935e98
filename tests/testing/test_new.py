"""`alignbench new` writes a distribution that passes its suite, and `check-plugin` says what a plugin breaks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.commands.new import CHECKED, GROUPS, write
from alignbench.errors import RecipeError

CLI = [sys.executable, "-c", "from alignbench.cli import app; app()"]


def run(*command: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = os.environ | ({} if site is None else {"PYTHONPATH": str(site)})
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def installed(folder: Path, site: Path) -> None:
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    ran = run(sys.executable, "-m", "pip", *install, str(folder), cwd=folder)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", GROUPS)
def test_a_new_distribution_passes_its_own_test(kind: str, tmp_path: Path):
    ran = run(*CLI, "new", kind, "my-first.one", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "alignbench-my-first.one"
    installed(folder, tmp_path / "site")
    ran = run(sys.executable, "-m", "pytest", "-q", str(folder), cwd=folder, site=tmp_path / "site")
    assert ran.returncode == 0, ran.stdout[-4000:]


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize(
    "name",
    [
        "none",
        "bool",
        "class",
        "measure",
        "missing",
        "score",
        "judge",
        "prompt",
        "run",
        "row",
        "source",
        "2-x",
    ],
)
def test_no_name_hides_what_the_new_module_imports(kind: str, name: str, tmp_path: Path):
    folder = write(kind, name, tmp_path)
    files = [next(folder.glob("alignbench_*/__init__.py")), next(folder.glob("tests/*.py"))]
    for file in files:
        tree = ast.parse(file.read_text())
        imported = [
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
        defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        assert not set(defined) & set(imported)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("method", "No Name", "cannot be a name"),
        ("judge", "mine-", "'mine-' cannot be a name; .* a letter or digit first and last"),
        ("method", "123", "'123' is a number in a recipe"),
        ("method", "1e5", "'1e5' is a number in a recipe"),
        ("judge", "true", "'true' is true or false in a recipe"),
        ("metric", "null", "'null' is nothing in a recipe"),
        ("metric", "reward", "provides the metric 'reward' already"),
        ("judge", "example", r"alignbench-example .* is installed, which the new one would replace"),
    ],
)
def test_a_name_that_cannot_be_or_is_taken_is_refused(kind, name, words, tmp_path: Path):
    with pytest.raises(RecipeError, match=words):
        write(kind, name, tmp_path)


def test_a_folder_that_is_there_is_not_written_to(tmp_path: Path):
    folder = write("judge", "mine", tmp_path)
    before = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RecipeError, match="is there already"):
        write("judge", "mine", tmp_path)
    assert {path: path.read_text() for path in folder.rglob("*") if path.is_file()} == before


def test_check_plugin_names_the_law_that_is_broken(tmp_path: Path):
    folder = write("judge", "odd", tmp_path)
    module = folder / "alignbench_odd" / "__init__.py"
    module.write_text(module.read_text().replace("-abs(len(", "len(answers) + abs(len("))
    installed(folder, tmp_path / "site")
    ran = run(*CLI, "check-plugin", "odd", cwd=tmp_path, site=tmp_path / "site")
    assert ran.returncode == 5
    assert "test_a_score_does_not_depend_on_the_rest_of_the_batch" in ran.stdout
    assert "it depends on what else is asked" in ran.stdout


@pytest.mark.parametrize("kind", CHECKED)
def test_check_plugin_says_that_there_is_no_such_plugin(kind: str, tmp_path: Path):
    ran = run(*CLI, "check-plugin", "nobody", "--kind", kind, cwd=tmp_path)
    assert ran.returncode == 5
    called = {"source": "data source", "reward": "reward function"}.get(kind, kind)
    assert f"no installed plugin provides the {called} 'nobody'" in ran.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nobody"], "no installed plugin has the name 'nobody'; install its distribution"),
        (["win_rat"], "did you mean win_rate?"),
        (["jsonl"], "--config:1:1: path: is missing; add it"),
        (["length", "--kind", "reward", "--config", "{wrds: 3}"], "wrds: unknown; did you mean 'words'?"),
        (["win_rate", "--columns", "{answer: 1}"], "a metric reads no columns"),
        (["length", "--kind", "reward", "--columns", "answer"], "--columns:1:1: expected names with values"),
        (["ties", "--labels", "tuned"], "--labels:1:1: expected names with values, got tuned"),
        (
            ["dpo", "--labels", "{tuned: {method: sfft}}"],
            "methods.tuned.method: no installed plugin provides",
        ),
        (
            ["dpo", "--labels", "{tuned: {method: sft, learning_rat: 1}}"],
            "learning_rat: unknown; did you mean",
        ),
        (["ties", "--config", "{labels: [tuned]}"], "there is no label 'tuned'"),
    ],
)
def test_check_plugin_refuses_what_it_cannot_try_before_any_law_runs(given, words, tmp_path: Path):
    ran = run(*CLI, "check-plugin", *given, cwd=tmp_path)
    assert ran.returncode != 0
    assert words in ran.stderr
    assert not ran.stdout


@pytest.mark.slow
def test_check_plugin_gives_a_reward_function_the_columns_that_it_reads(tmp_path: Path):
    folder = write("reward", "odd", tmp_path)
    module = folder / "alignbench_odd" / "__init__.py"
    text = "[float(one == prompt.extra['word']) for prompt, one in zip(prompts, answers, strict=True)]"
    module.write_text(re.sub(r"\[float\(.*\]", text, module.read_text()))
    installed(folder, tmp_path / "site")
    command = [*CLI, "check-plugin", "odd"]
    assert run(*command, cwd=tmp_path, site=tmp_path / "site").returncode == 5
    ran = run(*command, "--columns", "{word: yes it is}", cwd=tmp_path, site=tmp_path / "site")
    assert ran.returncode == 0, ran.stdout[-4000:]


@pytest.mark.slow
def test_check_plugin_tries_a_launcher(tmp_path: Path):
    ran = run(*CLI, "check-plugin", "local", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout
