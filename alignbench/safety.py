"""What every model folder must keep: weights are data, no file is code, no path leads out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignbench.errors import ModelError, Problem, SecurityError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5", ".msgpack")
"""Endings of weight files that can run code when they are read, or that nothing here reads."""

CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "custom_generate"})
"""Keys of a model's JSON files that name code to import."""

PLAIN_WORD = re.compile(r"[a-z0-9_]*")


def inspect(folder: Path, *, inside: Path | None = None) -> None:
    """Check a model or adapter folder before anything in it is loaded.

    Its links may point anywhere inside `inside` (default: the folder itself; a hub snapshot links into its
    repository's cache). Raises SecurityError with every broken rule, named; ModelError where there is no
    weight file at all, or where a JSON file cannot be read.
    """
    broken = [*_links(folder, inside or folder), *_weights(folder)]
    for path in sorted(folder.glob("*.json")):
        if not path.is_file() or path.name in ("tokenizer.json", "vocab.json"):
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelError(Problem(f"not readable as JSON: {error}", file=str(path))) from error
        broken += _index(path, content) if path.name.endswith(".index.json") else _keys(path, content)
    if broken:
        raise SecurityError(broken)


def _links(folder: Path, inside: Path) -> Iterator[Problem]:
    root = inside.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            yield Problem(
                f"rule stay-in-folder: the link {path.name} leads out of the model's folder",
                "copy the file into the folder",
                file=str(path),
            )


def _weights(folder: Path) -> Iterator[Problem]:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickles:
        raise ModelError(
            Problem(
                "there are no weights in this folder", "it must hold *.safetensors files", file=str(folder)
            )
        )
    yield Problem(
        f"rule safetensors-only: the weights are in {', '.join(pickles)}, which can run code when read",
        "convert them to safetensors where you trust their origin",
        file=str(folder),
    )


def _index(path: Path, content: Any) -> Iterator[Problem]:
    shards = content.get("weight_map", {}) if isinstance(content, dict) else {}
    for shard in sorted({str(name) for name in shards.values()} if isinstance(shards, dict) else ()):
        if Path(shard).name != shard or "\\" in shard:
            yield Problem(f"rule stay-in-folder: the shard {shard!r} lies outside the folder", file=str(path))
        elif not shard.endswith(".safetensors") and path.name.endswith(".safetensors.index.json"):
            yield Problem(
                f"rule safetensors-only: the shard {shard!r} is not a safetensors file", file=str(path)
            )


def _keys(path: Path, content: Any, field: str = "") -> Iterator[Problem]:
    if isinstance(content, list):
        for number, item in enumerate(content):
            yield from _keys(path, item, f"{field}[{number}]")
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        name = f"{field}.{key}" if field else key
        if key in CODE_KEYS and value:
            yield Problem(
                "rule no-remote-code: the key names code to import",
                "use a model whose architecture is part of transformers",
                file=str(path),
                field=name,
            )
        # An attention or expert implementation may be the name of a hub repository of compiled kernels.
        elif "implementation" in key and not all(PLAIN_WORD.fullmatch(word) for word in _words(value)):
            yield Problem(
                f"rule no-remote-code: {value!r} is not an implementation that ships with transformers",
                file=str(path),
                field=name,
            )
        yield from _keys(path, value, name)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    elif value is not None:
        yield str(value)
