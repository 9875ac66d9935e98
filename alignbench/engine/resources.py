"""How much room a run needs on disk, as far as its recipe tells, and whether there is clearly too little."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignbench import store
from alignbench.engine.plan import Cell
from alignbench.errors import StorageError
from alignbench.recipe.schema import BASE, Recipe

LEAST = 32 * 2**20
"""Bytes that the smallest run may write: rows, samples, judgements, logs, report."""

COPIES = 9
"""A training keeps two checkpoints while it writes a third, each with weights and two moments."""


def check(recipe: Recipe, cells: Iterable[Cell], out: Path, root: Path, lanes: int) -> None:
    """Raise StorageError where the disk of the run, or of the store, is clearly too small for these cells."""
    trained = sum(cell.label != BASE for cell in cells)
    adapter = 4 * recipe.model.adapter.rank * _widths(recipe.model.id, root)
    for folder, copies in ((out, trained + lanes * COPIES), (store.default_root(), lanes * COPIES)):
        needed = LEAST + adapter * (copies if trained else 0)
        there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise StorageError(
                f"{folder}: there is too little room for this run ({needed:,} bytes needed at least, "
                f"{free:,} bytes free)",
                "free some space, or choose another folder with --out or ALIGNBENCH_HOME",
            )


def _widths(model: str, root: Path) -> int:
    """Inputs and outputs of all linear layers, added up: weights of an adapter of rank 1. 0 where unknown."""
    path = root / model / "config.json"
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        said = said.get("text_config", said)
        hidden, layers = int(said["hidden_size"]), int(said["num_hidden_layers"])
        inner = int(said.get("intermediate_size", 4 * hidden))
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return layers * (4 * 2 * hidden + 3 * (hidden + inner))
