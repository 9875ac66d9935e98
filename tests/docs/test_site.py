"""The docs are true: references are current, recipes check, links lead somewhere, the tutorial runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
import yaml

import alignbench as package
from alignbench import (
    Answer,
    Cell,
    Demonstration,
    GroupScores,
    Pair,
    Prompt,
    Ranking,
    Run,
    Text,
    Training,
    UnpairedPreference,
    results,
)
from alignbench.cli import app
from alignbench.errors import AlignbenchError
from alignbench.recipe import schema
from alignbench.recipe.load import load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CLI = [sys.executable, "-c", "from alignbench.cli import app; app()"]


def test_the_references_are_what_the_code_says():
    ran = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the package or a name in one, a field of a recipe, or one of the results."""
    first, _, field = name.partition(".")
    if any(field in fields.get(first, ()) for fields in FIELDS):
        return True
    try:
        resolve_name(f"alignbench.{name}")
    except (ImportError, AttributeError):
        return False
    return True


FIELDS = (
    {name: getattr(one.annotation, "model_fields", ()) for name, one in schema.Recipe.model_fields.items()},
    {"data": results.DataCounts.model_fields},
)


def test_every_part_of_the_package_that_the_architecture_page_names_exists():
    page = (DOCS / "architecture.md").read_text("utf-8")
    parts = {path.stem for path in (ROOT / "alignbench").iterdir()} | {"evaluation"}
    files = (".json", ".yaml", ".parquet", ".jsonl", ".log", ".html", ".py")
    names = {
        name
        for name in re.findall(r"`(?:alignbench\.)?([a-z_]+(?:\.\w+)+)[`(]", page)
        if name.partition(".")[0] in parts and (exists(name) or not name.endswith(files))
    }
    assert len(names) > 25
    assert [name for name in sorted(names) if not exists(name)] == []


def test_the_page_of_plugins_lists_every_member_of_a_run():
    page = (DOCS / "plugins.md").read_text("utf-8")
    table = page.partition("| of the run |")[2].partition("\n\n")[0]
    shown = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)", row.split("|")[1] if row else "")
    ]
    members = {name for name in (*vars(Run), *Run.__annotations__) if not name.startswith("_")}
    assert sorted(shown) == sorted(members)


TEXTS = [*PAGES, ROOT / "README.md", *sorted(ROOT.glob("plugins/*/README.md"))]
"""Everything that shows recipes and commands."""


def recipes() -> list[Any]:
    """Every YAML block; one that names a key twice shows alternatives, each a block of its own."""
    found = []
    for page in TEXTS:
        for place, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)):
            keys = re.findall(r"^(\w[\w-]*):", block, re.MULTILINE)
            parts = (
                [block] if len(set(keys)) == len(keys) else re.split(r"^(?=\w)", block, flags=re.MULTILINE)
            )
            name = f"{page.parent.name}/{page.name}-{place}"
            found += [pytest.param(part, id=name) for part in parts if part.strip()]
    return found


def completed(block: str) -> dict[str, Any]:
    """Return a block as a whole recipe: what it leaves out is the sandbox's, and the starts it names are there."""
    fields = yaml.safe_load(block)
    if "judge" in fields:  # of a method
        fields = {"methods": {"rlaif": {"start": "base", **fields}}}
    if "model" in fields and "data" in fields:
        return fields
    named = {
        block["start"] for block in fields.get("methods", {}).values() if isinstance(block.get("start"), str)
    }
    starts = {label: {"start": "base"} for label in ({"sft", "dpo"} & named) or {"sft"}}
    return {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox"},
        "start": "base",
        **fields,
        "methods": {**starts, **fields.get("methods", {})},
    }


@pytest.mark.parametrize("block", recipes())
def test_every_yaml_block_passes_check(block: str, tmp_path: Path):
    row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    for name in ("preferences.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text(row * 3)
    (tmp_path / "alpaca.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    (tmp_path / "my-adapter").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(completed(block), sort_keys=False), encoding="utf-8")
    load(recipe)


def test_a_wrong_field_in_a_block_would_be_found(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(completed("methods:\n  dpo: {betta: 0.1}\n")), encoding="utf-8")
    with pytest.raises(AlignbenchError, match="betta"):
        load(recipe)


def commands() -> list[Any]:
    """Every command line that a text shows, in code or in a block."""
    found = {
        (page, found.strip())
        for page in TEXTS
        for found in re.findall(
            r"`alignbench ([a-z][^`]*)`|^\$ alignbench (.*)$|^alignbench (.*)$",
            page.read_text("utf-8"),
            re.MULTILINE,
        )
        for found in found
        if found
    }
    shown = sorted((text, page.name) for page, text in found)
    return [pytest.param(text, id=f"{name}: {text}") for text, name in shown]


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_exists_with_its_options(command: str):
    name, *rest = shlex.split(command.partition("#")[0])
    known = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert name in known
    options = {option for parameter in known[name].params for option in parameter.opts}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options


def code(page: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    return block


def test_the_sandbox_is_what_its_page_shows():
    exec(code("sandbox.md"), {})


def test_a_plugin_that_a_page_shows_whole_is_one_that_passes_its_suite():
    shown = {
        name: text
        for page in sorted((DOCS / "plugins").glob("*.md"))
        for name, text in re.findall(
            r"<!-- file: (\S+) -->\n```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL
        )
    }
    assert len(shown) == 3, "a judge, a metric and a source"
    assert shown == {name: (ROOT / name).read_text("utf-8") for name in shown}


def test_the_row_filter_that_the_page_shows_filters():
    page = (DOCS / "plugins" / "source.md").read_text("utf-8")
    made: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1], made)
    filter = made["NoShouting"]()
    loud, calm = (Prompt(id="x", prompt=({"role": "user", "content": text},)) for text in ("WHY?", "Why?"))
    assert (filter.keep(loud), filter.keep(calm)) == (None, calm)
    assert filter.counts == {"prompt in capitals": 1}


def test_the_metric_that_the_page_shows_is_written_with_public_names_and_measures():
    found: dict[str, Any] = {"__name__": "a_plugin"}
    exec(code("metrics.md"), found)
    imported = {name for name in found if name in package.__all__}
    assert {"Evidence", "Measure", "Metric", "by_prompt"} <= imported
    metric = found["Questions"]
    assert vars(metric)["api"] == package.API
    cell = Cell("dpo", 0)
    texts = {"p1": ("who ?", "no ."), "p2": ("yes .", "ok .")}
    answers = [Answer(id, text, (), True) for id, both in texts.items() for text in both]
    evidence = SimpleNamespace(cells=[cell], samples=lambda _: answers)
    (measured,) = metric().measure(evidence)
    assert (measured.label, measured.seed, measured.values) == ("dpo", 0, {"p1": 0.5, "p2": 0.0})


def test_the_page_lists_the_fields_of_a_runs_training_which_a_type_checker_sees():
    assert vars(Run)["training"].fget.__annotations__["return"] == Training.__name__
    (row,) = re.findall(r"^\| `training` \| (.*) \|$", (DOCS / "plugins.md").read_text("utf-8"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", row.partition("(")[0]) == ["Training", *Training.model_fields]


def test_the_page_lists_what_scores_and_rows_have():
    page = (DOCS / "plugins.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)(?:\(.*?\))?`(?:, `(\w+)\(\)`)? \| .*`\[N", page, re.MULTILINE)
    scores = {name for pair in listed for name in pair if name}
    members = {*GroupScores.__annotations__, *(name for name in vars(GroupScores) if name[0] != "_")}
    assert scores | {"per_token", "tolerance"} == members
    shared = {field.name for field in fields(Prompt)} | {"length"}
    for view in (Prompt, Demonstration, UnpairedPreference, Pair, Ranking, Text):
        (row,) = re.findall(rf"^\| `{view.__name__}` \| (.*)\|$", page, re.MULTILINE)
        named = re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", row.partition(";")[0]))
        assert named == [field.name for field in fields(view) if field.name not in shared]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_page_leads_to_one(page: Path):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_every_page_of_the_menu_is_there_and_every_page_is_in_the_menu():
    record = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", str(record)))
    assert listed == {page.relative_to(DOCS).as_posix() for page in PAGES}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tutorial was followed from top to bottom."""
    folder = tmp_path_factory.mktemp("tutorial")
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL):
        (folder / name).write_text(content)
    commands = re.findall(r"^\$ alignbench (.*)$", text, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        ran = alignbench(folder, command)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    return folder


def alignbench(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ALIGNBENCH_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    words = [*CLI, *shlex.split(command)]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_tutorial_leaves_a_report_and_an_adapter(tutorial: Path):
    assert (tutorial / "runs/first/report.html").is_file()
    assert (tutorial / "exports/dpo/adapter_config.json").is_file()


HERE = {
    "compare": "compare runs/first runs/first",
    "methods": "methods dpo",
    "cache": "cache ls",
    "doctor": "doctor",
    "generate": "generate --help",  # these two take longer: tests/cli and tests/claims run them
    "claims": "claims --help",
    "label": "label --help",  # tests/label and tests/browser run it
    "evaluate": "evaluate --help",
    "new": "new --help",  # tests/testing runs them
    "check-plugin": "check-plugin --help",
}
"""The commands of the README that the tutorial does not run."""


def test_every_command_of_the_readme_is_run_here_or_by_the_tutorial():
    table = re.findall(r"^\| `alignbench ([\w-]+)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    run = re.findall(r"^\$ alignbench (\w+)", (DOCS / "tutorial.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(table) == sorted({*run, *HERE})


@pytest.mark.parametrize("command", HERE.values())
def test_a_command_that_the_tutorial_leaves_out_does_its_work(tutorial: Path, command: str):
    ran = alignbench(tutorial, command)
    assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    assert ran.stdout.strip()
