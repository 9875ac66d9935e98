"""Writes the distribution of a new plugin: package, entry point and test."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Literal

from alignbench.errors import Problem, RecipeError

if TYPE_CHECKING:
    from alignbench.plugins import Group

Kind = Literal["method", "judge", "metric", "reward", "source"]
"""What `alignbench new` writes."""
Checked = Literal["method", "judge", "metric", "reward", "source", "launcher"]
"""What `alignbench check-plugin` has a suite for."""

GROUPS: dict[Kind, Group] = {
    "method": "methods",
    "judge": "judges",
    "metric": "metrics",
    "reward": "rewards",
    "source": "data",
}
"""The group of entry points of each kind."""
CHECKED: dict[Checked, Group] = {**GROUPS, "launcher": "launchers"}
SUITES: dict[Checked, str] = {
    "method": "MethodSuite",
    "judge": "JudgeSuite",
    "metric": "MetricSuite",
    "reward": "RewardSuite",
    "source": "SourceSuite",
    "launcher": "LauncherSuite",
}
"""The suite in `alignbench.testing` that holds the laws of each kind."""

TEMPLATES = Path(__file__).parent / "templates"


def write(kind: Kind, name: str, parent: Path) -> Path:
    """Write a distribution for the plugin `name` to `parent/alignbench-name`, and return that folder.

    Raises RecipeError for what is not a name, a name or distribution that is taken, and a folder that is there already.
    """
    from alignbench import plugins  # here: the command line loads this file for every command
    from alignbench.api.config import NAME
    from alignbench.recipe.yaml import plain

    # A distribution's name, which this becomes a part of, ends with a letter or digit too.
    if not re.fullmatch(NAME, name) or not name[-1].isalnum():
        fix = "use small letters, digits, '.', '_' and '-', 64 at most, a letter or digit first and last"
        raise RecipeError(Problem(f"'{name}' cannot be a name", fix))
    if not isinstance(read := plain(name), str):
        kinds = {bool: "true or false", type(None): "nothing"}
        what = f"'{name}' is {kinds.get(type(read), 'a number')} in a recipe, unless it has quotes"
        raise RecipeError(Problem(what, "choose a name that is a word"))
    if found := plugins.installed(GROUPS[kind]).get(name):
        raise RecipeError(Problem(f"{found} provides the {kind} '{name}' already", "choose another name"))
    with suppress(metadata.PackageNotFoundError):
        known = f"alignbench-{name} {metadata.version(f'alignbench-{name}')}"
        raise RecipeError(
            Problem(f"{known} is installed, which the new one would replace", "choose another name")
        )
    folder = parent / f"alignbench-{name}"
    if folder.exists():
        raise RecipeError(Problem(f"{folder} is there already", "choose another name or folder"))
    parts = re.split(r"[._-]+", name)
    module = "alignbench_" + "_".join(parts)
    words = {
        "kind": kind,
        "name": name,
        "group": GROUPS[kind],
        "module": module,
        # With its kind: a class `Score` would hide the `Score` that a judge returns, and `None` cannot be one.
        "class": "".join(
            part.capitalize() for part in (["plugin"] if name[0].isdigit() else []) + [*parts, kind]
        ),
        "suite": SUITES[kind],
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{kind}.py": f"{module}/__init__.py",
        "test.py": f"tests/test_{'_'.join(parts)}.py",
    }
    for template, file in files.items():
        text = Template((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    return folder
