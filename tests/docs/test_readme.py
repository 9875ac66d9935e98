"""What README says is true: its recipe checks, its commands exist, its method installs and keeps the laws."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLI = [sys.executable, "-c", "from alignbench.cli import app; app()"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def alignbench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


def test_the_recipe_passes_check(tmp_path: Path):
    (recipe,) = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    (tmp_path / "preferences.jsonl").write_text(row * 3)
    adapter = tmp_path / "my-adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    # With a network, of which `check` makes no use, and before anything was downloaded.
    ran = alignbench("check", str(path), HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "not checked, since a run would download it first: Qwen/Qwen2.5-0.5B" in ran.stdout


@pytest.mark.parametrize("command", re.findall(r"^\| `alignbench ([\w-]+)", README, re.MULTILINE))
def test_every_command_of_the_table_has_help(command: str):
    ran = alignbench(command, "--help")
    assert ran.returncode == 0
    assert command in ran.stdout


def test_every_command_has_a_row_in_the_table():
    listed = re.findall(r"│ ([a-z][\w-]*) ", alignbench("--help", COLUMNS="200", TERM="dumb").stdout)
    assert set(listed) == set(re.findall(r"^\| `alignbench ([\w-]+)", README, re.MULTILINE))


@pytest.fixture(scope="module")
def simpo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The method of the README, written as it stands there and installed; its source and its site folder."""
    source = tmp_path_factory.mktemp("simpo")
    for name, text in re.findall(r"<!-- method: (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL):
        (source / name).write_text(text)
    site = tmp_path_factory.mktemp("site")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", *install, str(source)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return source, site


def test_its_method_is_listed_with_its_fields_once_installed(simpo: tuple[Path, Path]):
    ran = alignbench("methods", "simpo", PYTHONPATH=str(simpo[1]))
    assert ran.returncode == 0, ran.stderr
    for word in ("alignbench-simpo", "0.1.0", "beta", "margin", "Scale of the difference"):
        assert word in ran.stdout


def test_its_method_keeps_the_laws(simpo: tuple[Path, Path]):
    source, site = simpo
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(source / "test_simpo.py")],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"[12]\d passed", ran.stdout)
