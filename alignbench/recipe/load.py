"""Loads a recipe from its file: read, override, check, complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import PluginError, Problem, RecipeError
from alignbench.recipe import yaml
from alignbench.recipe.check import Check
from alignbench.recipe.graph import complete
from alignbench.recipe.override import override
from alignbench.recipe.schema import Loaded


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read, override (`a.b=c`) and check a recipe; plugins are imported only where it names them.

    Raises RecipeError, PluginError where nothing but plugins is wrong, or SecurityError, with all problems.
    """
    misread: list[Problem] = []
    text, document = yaml.read(path, misread)
    for one in overrides:
        override(document, one)
    check = Check(document, path.parent)
    recipe = check.recipe()
    if misread:
        # What could not be read is not also a wrong value.
        places = {(problem.line, problem.column) for problem in misread}
        check.problems = [one for one in check.problems if (one.line, one.column) not in places] + misread
        check.only_plugins = False
    if recipe is None or check.problems:
        problems = sorted(set(check.problems), key=lambda problem: (problem.line or 0, problem.column or 0))
        raise (PluginError if check.only_plugins else RecipeError)(problems)
    return Loaded(complete(recipe), path, text, tuple(overrides))
