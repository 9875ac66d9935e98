"""The commands `new` and `check-plugin`: a distribution to begin with, and the laws of an installed plugin."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from alignbench.commands.new import CHECKED, SUITES, Checked, Kind
from alignbench.errors import Exit, PluginError, RecipeError


def new(
    kind: Annotated[Kind, typer.Argument(help="What it is.")],
    name: Annotated[str, typer.Argument(help="Its name in a recipe.")],
    out: Annotated[Path, typer.Option(help="The parent folder of the new distribution.")] = Path(),
) -> None:
    """Write the distribution of a new plugin, with an entry point and a test that passes."""
    from alignbench.commands.new import write

    folder = write(kind, name, out)
    typer.echo(f"{folder} holds the {kind} '{name}'. Next:")
    typer.echo(f"  pip install --editable {folder}\n  alignbench check-plugin {name} --kind {kind}")


def check_plugin(
    name: Annotated[str, typer.Argument(help="An installed plugin.")],
    kind: Annotated[Checked | None, typer.Option(help="What it is, where several have that name.")] = None,
    config: Annotated[str, typer.Option(metavar="YAML", help="Its fields: {margin: 2.0}, ...")] = "{}",
    columns: Annotated[
        str,
        typer.Option(
            metavar="YAML", help="Columns of the rows that a reward function reads: {answer: '42'}."
        ),
    ] = "{}",
    labels: Annotated[
        str,
        typer.Option(
            metavar="YAML",
            help="Labels that a method builds on, for --config to name: {tuned: {method: NAME}}.",
        ),
    ] = "{}",
) -> None:
    """Run the contract's test suite on an installed plugin, on the sandbox; needs pytest."""
    from alignbench import plugins

    kinds: list[Checked] = [one for one, group in CHECKED.items() if name in plugins.installed(group)]
    if kind is None and len(kinds) > 1:
        raise PluginError(f"'{name}' is a {' and a '.join(kinds)}", f"say which: --kind {kinds[0]}")
    if kind is None and not kinds:
        near = get_close_matches(
            name, (one for group in CHECKED.values() for one in plugins.installed(group)), 1
        )
        hint = (
            f"did you mean {near[0]}?" if near else "install its distribution: pip install --editable FOLDER"
        )
        raise PluginError(f"no installed plugin has the name '{name}'", hint)
    chosen: Checked = kind or kinds[0]
    fields = _fields(config, plugins.load(CHECKED[chosen], name).Config)
    given = _mapping(columns, "--columns")
    if given and chosen != "reward":
        raise RecipeError(f"a {chosen} reads no columns; leave out --columns")
    others = _mapping(labels, "--labels")
    if others and chosen != "method":
        raise RecipeError(f"a {chosen} builds on no labels; leave out --labels")
    if chosen == "method":
        _check_labels(name, fields, others)
    if importlib.util.find_spec("pytest") is None:
        raise PluginError("the laws are tests, and pytest is not installed", "pip install pytest")
    suite = SUITES[chosen]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_laws.py"
        file.write_text(
            f"from alignbench.testing import {suite}\n\n\nclass TestLaws({suite}):\n"
            f"    {chosen} = {name!r}\n    config = {fields!r}\n    columns = {given!r}\n    labels = {others!r}\n",
            encoding="utf-8",
        )
        options = [
            "-q",
            "--no-header",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            folder,
            str(file),
        ]
        done = subprocess.run([sys.executable, "-m", "pytest", *options], check=False)
    if done.returncode:
        raise typer.Exit(Exit.PLUGIN)


def _mapping(text: str, option: str) -> dict[str, Any]:
    """Return what an option says by name. Raises RecipeError where it is anything else."""
    from alignbench.recipe import yaml

    document = yaml.parse(text, option)
    if not isinstance(document.data, dict):
        what = f"expected names with values, got {text.strip()}"
        raise RecipeError(document.place(()).problem(what, f"write {option} '{{name: value}}'"))
    return document.data


def _check_labels(name: str, fields: dict[str, Any], labels: dict[str, Any]) -> None:
    """Raise RecipeError where the recipe of the method's suite could not be run."""
    import json

    from alignbench.recipe import yaml
    from alignbench.recipe.check import Check

    methods = {**labels, "tried": {"method": name, **fields}}
    recipe = {"model": {"id": "sandbox"}, "data": {"train": "sandbox"}, "methods": methods}
    check = Check(yaml.parse(json.dumps(recipe), "--labels"), Path())
    check.recipe()
    if check.problems:
        raise RecipeError([replace(one, line=None, column=None) for one in check.problems])


def _fields(text: str, model: Any) -> dict[str, Any]:
    """Return the fields that `--config` sets. Raises RecipeError with every one that is wrong or lacking."""
    import json

    from pydantic import ValidationError

    from alignbench.recipe import yaml
    from alignbench.recipe.configs import validated
    from alignbench.recipe.explain import explain

    document = yaml.parse(text, "--config")
    try:
        validated(model, json.dumps(document.data))
    except ValidationError as error:
        raise RecipeError(
            document.place(one.route, key=one.at_key).problem(one.what, one.fix, yaml.spell(one.route))
            for one in explain(error, model, document, ())
        ) from None
    return document.data
