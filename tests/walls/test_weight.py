"""What is light stays light: a recipe is checked and planned without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "trl", "scipy", "matplotlib", "pyarrow")


def loaded_by(statement: str, root: Path) -> list[str]:
    script = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1].split()


LIGHT = (
    "alignbench, alignbench.rows, alignbench.errors, alignbench.hooks, alignbench.results",
    "alignbench.api.config, alignbench.api.policy, alignbench.api.method, alignbench.api.judge",
    "alignbench.api.metric, alignbench.api.data",
    "alignbench.plugins, alignbench.recipe.schema, alignbench.recipe.yaml, alignbench.recipe.load",
    "alignbench.data, alignbench.models, alignbench.judges, alignbench.metrics",
    "alignbench.cli.runs, alignbench.cli.methods, alignbench.cli.doctor, alignbench.cli.progress",
    "alignbench.engine.run, alignbench.engine.cells, alignbench.api.launcher",
    "alignbench.report",
)


@pytest.mark.parametrize("modules", LIGHT)
def test_these_modules_load_nothing_heavy(modules: str, root: Path) -> None:
    assert loaded_by(f"import {modules}", root) == []


def test_importing_alignbench_alone_loads_not_even_its_own_parts(root: Path) -> None:
    script = "import sys, alignbench; print(sorted(n for n in sys.modules if n.startswith('alignbench.')))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    ("command", "needed"),
    [(["check"], []), (["check", "--data"], []), (["plan"], ["scipy"])],
    ids=" ".join,
)
def test_checking_and_planning_a_recipe_loads_nothing_heavy(
    command: list[str], needed: list[str], root: Path
) -> None:
    """Planning computes the power of the comparison, with scipy's distributions."""
    statement = (
        "from alignbench.cli import app\n"
        f"try:\n    app([*{command}, 'recipes/quickstart.yaml'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code"
    )
    assert loaded_by(statement, root) == needed


def test_every_plugin_module_loads_nothing_heavy(root: Path) -> None:
    statement = (
        "from alignbench import plugins\n"
        "for name in plugins.installed('methods'):\n    plugins.load('methods', name)\n"
    )
    assert loaded_by(statement, root) == []


def test_a_child_process_does_not_load_the_compiler_of_torch() -> None:
    script = "import sys, alignbench.worker.preload; print('torch._inductor.compile_fx' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
