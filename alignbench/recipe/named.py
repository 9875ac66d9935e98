"""What a data source's name in a recipe stands for: a plugin, a file, a folder, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from alignbench import plugins
from alignbench.api.config import Named
from alignbench.api.data import Source
from alignbench.errors import DataError, Problem

READERS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""The source plugin that reads a file, by its suffix."""


def resolve(named: Named, root: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the source plugin that `named` stands for, and its config.

    A plugin's name stands for itself, a file or folder for the reader of its suffix, and `owner/name` that
    is no path for the hub. Raises DataError or PluginError where it is none of these.
    """
    name = named.name
    if name in plugins.installed("data"):
        return name, named.config
    path = root / name
    if path.is_dir():
        kinds = {READERS[file.suffix] for file in path.iterdir() if file.suffix in READERS}
        if len(kinds) != 1:
            held = f"{' and '.join(sorted(kinds))} files" if kinds else "no .jsonl or .parquet file"
            raise DataError(Problem(f"the folder holds {held}", "name one file", file=name))
        return kinds.pop(), {"path": name, **named.config}
    if path.suffix in READERS:
        check_exists(path, name, root)
        return READERS[path.suffix], {"path": name, **named.config}
    if path.is_file():
        raise DataError(Problem(f"no reader for '{path.suffix}' files", "use .jsonl or .parquet", file=name))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return "hub", {"id": name, **named.config}
    if "/" in name:
        check_exists(path, name, root)
    return plugins.find("data", name).name, named.config


def open_source(named: Named, root: Path) -> Source:
    """Return the source that a recipe names, ready to read."""
    name, config = resolve(named, root)
    kind: type[Source] = plugins.load("data", name)
    return kind(kind.Config.model_validate(config), root=root)


def check_exists(path: Path, given: str, root: Path) -> None:
    """Raise DataError where there is no file or folder at `path`."""
    if not path.exists():
        where = f"relative paths start from the recipe's folder, {root.resolve()}"
        raise DataError(Problem("there is no such file", where, file=given))
