"""The commands `new` and `check-plugin`: a distribution to begin with, and the laws of an installed plugin."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from alignbench.commands.new import CHECKED, SUITES, Checked, Kind
from alignbench.errors import Exit, PluginError


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
) -> None:
    """Run the contract's test suite on an installed plugin, on the sandbox; needs pytest."""
    from alignbench import plugins
    from alignbench.recipe import yaml

    fields = yaml.parse(config, "--config").data or {}
    kinds: list[Checked] = [one for one, group in CHECKED.items() if name in plugins.installed(group)]
    if kind is None and len(kinds) > 1:
        raise PluginError(f"'{name}' is a {' and a '.join(kinds)}", f"say which: --kind {kinds[0]}")
    chosen: Checked = kind or (kinds[0] if kinds else "method")
    plugins.load(CHECKED[chosen], name)
    if importlib.util.find_spec("pytest") is None:
        raise PluginError("the laws are tests, and pytest is not installed", "pip install pytest")
    suite = SUITES[chosen]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_laws.py"
        file.write_text(
            f"from alignbench.testing import {suite}\n\n\nclass TestLaws({suite}):\n"
            f"    {chosen} = {name!r}\n    config = {fields!r}\n",
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
