"""What a run may use of this machine: CPU threads, cells at a time, and room on disk."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from alignbench import store
from alignbench.data import gguf
from alignbench.engine.plan import Cell
from alignbench.errors import ModelError, RecipeError, StorageError
from alignbench.models import arithmetic, child
from alignbench.models.arithmetic import Compute
from alignbench.models.files import folder_of
from alignbench.recipe.schema import BASE, Model, Recipe

LEAST = 32 * 2**20
"""Bytes that the smallest run may write: rows, samples, judgements, logs, report."""

COPIES = 9
"""A training keeps two checkpoints while it writes a third, each with weights and two moments."""


def devices() -> tuple[str, ...]:
    """Return the CUDA devices that cells may run on, as CUDA_VISIBLE_DEVICES names them, without touching one;
    none on a machine without."""
    if not Path("/dev/nvidiactl").exists():
        return ()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        nodes = (re.fullmatch(r"nvidia(\d+)", node.name) for node in Path("/dev").iterdir())
        return tuple(sorted((node[1] for node in nodes if node), key=int)) or ("0",)
    named = [one.strip() for one in chosen.split(",")]
    return tuple(itertools.takewhile(lambda one: one not in ("", "-1"), named))  # as CUDA reads it


def has_cuda() -> bool:
    """Return whether this machine has a CUDA device, without touching it."""
    return bool(devices())


def threads(recipe: Recipe) -> int:
    """Return the CPU threads of a cell. Recipe or machine fix them, never `--jobs`, which must not change a byte.

    Devices share the cores equally; cells of a machine without a device share them two by two.
    """
    asked, cores = recipe.training.threads, len(os.sched_getaffinity(0))
    if asked != "auto":
        return asked
    return max(1, cores // (len(devices()) or 2))


def max_workers(recipe: Recipe, asked: int | Literal["auto"] = "auto") -> int:
    """Return how many cells run at a time; `asked`: on each device, or on a machine without one.

    A budget of time means nothing where cells share the machine.
    """
    budgets = (recipe.budget, *(block.budget for block in recipe.methods.values()))
    if any(budget is not None and budget.seconds for budget in budgets):
        if asked not in ("auto", 1):
            raise RecipeError(
                f"--jobs {asked}: a budget in seconds means nothing where cells share a machine",
                "use --jobs 1",
            )
        return 1
    if found := len(devices()):
        return found * (1 if asked == "auto" else max(1, asked))
    return max(1, len(os.sched_getaffinity(0)) // threads(recipe) if asked == "auto" else asked)


def compute(model: Model, root: Path) -> Compute:
    """Return the precision of a model's products: as its recipe says, or the fastest of this machine.

    A machine without a device computes small models in float32: see `alignbench.models.arithmetic`.
    """
    if model.compute != "auto":
        return model.compute
    return "float32" if not has_cuda() and arithmetic.is_small(_shape(model, root)) else child.compute()


def check_disk(recipe: Recipe, cells: Iterable[Cell], out: Path, root: Path, workers: int) -> None:
    """Raise StorageError where the disk of the run, or of the store, is clearly too small for these cells."""
    trained = sum(cell.label != BASE for cell in cells)
    adapter = 4 * recipe.model.adapter.rank * _widths(recipe.model, root)
    for folder, copies in ((out, trained + workers * COPIES), (store.default_root(), workers * COPIES)):
        needed = LEAST + adapter * (copies if trained else 0)
        there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise StorageError(
                f"{folder}: there is too little disk space for this run ({needed:,} bytes needed at least, "
                f"{free:,} bytes free)",
                "free some space, or choose another folder with --out or ALIGNBENCH_HOME",
            )


def _widths(model: Model, root: Path) -> int:
    """Inputs and outputs of all linear layers, added up: weights of an adapter of rank 1. 0 where unknown."""
    try:
        config = _shape(model, root)
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        inner = int(config.get("intermediate_size", 4 * hidden))
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return 0
    return layers * (4 * 2 * hidden + 3 * (hidden + inner))


def _shape(model: Model, root: Path) -> Mapping[str, Any]:
    """The configuration of a model; empty where it is not on this machine."""
    if (file := gguf.file_of(model, root, fetch=False)) is not None:
        header = gguf.read_header(file)
        names = {"hidden_size": "embedding_length", "num_hidden_layers": "block_count"}
        names["intermediate_size"] = "feed_forward_length"
        return {name: header.own(own) for name, own in names.items()}
    folder = None if gguf.names(model) else folder_of(model.id, root, model.revision)
    if folder is None:
        return {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("text_config", config)
