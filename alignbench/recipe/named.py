"""What a data source's name in a recipe stands for: a plugin, a file, a folder, or a hub id."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from alignbench import plugins, returned
from alignbench.api.config import Named, Split
from alignbench.api.data import Source
from alignbench.errors import DataError, Problem
from alignbench.recipe import configs
from alignbench.rows import Row

READERS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
"""The source plugin that reads a file, by its suffix."""

_PANDAS = "write it with pandas.{}.to_json('rows.jsonl', orient='records', lines=True)"
_AS_JSONL = {
    ".csv": _PANDAS.format("read_csv('{path}', keep_default_na=False)"),
    ".tsv": _PANDAS.format("read_csv('{path}', sep='\\t', keep_default_na=False)"),
    ".xlsx": _PANDAS.format("read_excel('{path}', keep_default_na=False)"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz"), "unpack it first"),
}
"""What makes rows of a file that no reader reads, by its suffix."""

METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that the `datasets` library writes about rows, next to them."""


def resolve(named: Named, root: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the source plugin that `named` stands for, and its config.

    A plugin's name stands for itself, a file or folder for the reader of its suffix, and `owner/name` that
    is not a path for the hub. Raises DataError or PluginError where it is none of these.
    """
    name = named.name
    if name in plugins.installed("data"):
        return name, named.config
    path = root / name
    if path.is_dir():
        return kind_of_folder(path, name), {"path": name, **named.config}
    if path.suffix in READERS:
        check_exists(path, name, root)
        return READERS[path.suffix], {"path": name, **named.config}
    if path.is_file():
        fix = _AS_JSONL.get(path.suffix, "use .jsonl or .parquet").format(path=name)
        raise DataError(Problem(f"no reader for '{path.suffix}' files", fix, file=name))
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return "hub", {"id": name, **named.config}
    if "/" in name:
        check_exists(path, name, root)
    return plugins.find("data", name).name, named.config


def kind_of_folder(path: Path, name: str) -> str:
    """Return the source plugin that reads a folder's files. Raises DataError where it is not one."""
    kinds = {READERS[file.suffix] for file in rows_in(path)}
    if len(kinds) == 1:
        return kinds.pop()
    if any(path.rglob("*.arrow")):
        what = "the folder was written by `save_to_disk` of the datasets library"
        fix = f"write it with load_from_disk('{name}').to_parquet('{name}.parquet'), a file for each split"
        raise DataError(Problem(what, fix, file=name))
    deeper = sorted(one for one in path.glob("**/") if one != path and rows_in(one))
    if not kinds and deeper:
        what = "the folder holds no rows itself, its folders do"
        inner = (f"{name.rstrip('/')}/{one.relative_to(path).as_posix()}" for one in deeper[:5])
        raise DataError(Problem(what, f"name one of them: {', '.join(inner)}", file=name))
    held = f"{' and '.join(sorted(kinds))} files" if kinds else "no .jsonl or .parquet file"
    raise DataError(Problem(f"the folder holds {held}", "name one file", file=name))


def rows_in(folder: Path) -> list[Path]:
    """Return the files of a folder that hold rows: `.json` only where there are no others."""
    files = sorted(file for file in folder.iterdir() if file.suffix in READERS and file.name not in METADATA)
    return [file for file in files if file.suffix != ".json"] or files


def open_source(named: Named, root: Path) -> Source:
    """Return the source that a recipe names, ready to read."""
    name, config = resolve(named, root)
    kind, made = configs.build("data", name, config)
    source: Source = kind(made, root=root)
    for method in ("rows", "texts"):
        setattr(source, method, _naming_rows(source, getattr(source, method)))
    return source


def _naming_rows(source: Source, function: Callable[..., Iterator[Row]]) -> Callable[..., Iterator[Row]]:
    """Let what a source raises name the row that it was about to give: see `alignbench.plugins.naming_next`.

    The sources of alignbench give rows; what others give is looked at.
    """
    own = type(source).__module__.partition(".")[0] == __name__.partition(".")[0]

    @wraps(function)
    def named(split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        def read() -> Iterable[Row]:
            if own:
                return function(split, limit, seed)
            return returned.rows(source, lambda: function(split, limit, seed), split)

        return plugins.naming_next(read, split)

    return named


def check_exists(path: Path, given: str, root: Path) -> None:
    """Raise DataError where there is no file or folder at `path`."""
    if not path.exists():
        where = f"relative paths start from the recipe's folder, {root.resolve()}"
        raise DataError(Problem("there is no such file", where, file=given))
