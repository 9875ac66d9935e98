"""The docs are true: references are current, recipes check, links lead somewhere, the tutorial runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CLI = [sys.executable, "-c", "from alignbench.cli import app; app()"]


def test_the_references_are_what_the_code_says():
    ran = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_yaml_block_can_be_read(page: Path):
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert yaml.safe_load(block) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_page_leads_to_one(page: Path):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_every_page_of_the_menu_is_there_and_every_page_is_in_the_menu():
    said = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", str(said)))
    assert listed == {page.relative_to(DOCS).as_posix() for page in PAGES}


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path):
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(content)
    commands = re.findall(r"^\$ alignbench (.*)$", text, re.MULTILINE)
    assert len(commands) >= 6
    env = {**os.environ, "ALIGNBENCH_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    for command in commands:
        ran = subprocess.run(
            [*CLI, *shlex.split(command)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    assert (tmp_path / "runs/first/report.html").is_file()
    assert (tmp_path / "exports/dpo/adapter_config.json").is_file()
