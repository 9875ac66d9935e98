"""What a run may use of this machine: CPU threads, cells at a time, and room on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.launcher import Launcher, Needs
from alignbench.data import gguf
from alignbench.engine.cells import PlannedCell
from alignbench.errors import ModelError, RecipeError, StorageError
from alignbench.launchers import machine
from alignbench.models import arithmetic
from alignbench.models.arithmetic import Compute
from alignbench.models.weights import child
from alignbench.models.weights.files import folder_of
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import BASE, Model

LEAST = 32 * 2**20
"""Bytes that the smallest run may write: rows, samples, judgments, logs, report."""

COPIES = 9
"""A training keeps two checkpoints while it writes a third, each with weights and two moments."""


def threads(plan: Plan) -> int:
    """Return the CPU threads of a cell. Recipe or machine fix them, never `--jobs`, which must not change a byte.

    Devices share the cores equally; cells of a machine without a device share them two by two.
    """
    asked = plan.training.threads
    return max(1, machine.cores() // (len(machine.devices()) or 2)) if asked == "auto" else asked


def limit(plan: Plan, launcher: Launcher) -> int | None:
    """Return how many cells may run at a time: 1 where a budget is a time, which parallel cells would share.

    Raises RecipeError where the launcher was asked for more.
    """
    if not any(one.budget.seconds for one in (plan, *plan.labels.values())):
        return None
    if (asked := launcher.config.jobs) not in ("auto", 1):
        what = f"--jobs {asked}: a budget in seconds means nothing where cells share a machine"
        raise RecipeError(what, "use --jobs 1")
    return 1


def max_workers(plan: Plan, launcher: Launcher) -> int:
    """Return how many cells of a plan a launcher runs at a time."""
    return limit(plan, launcher) or launcher.capacity(Needs(cpus=threads(plan)))


def memory(run: Path, label: str) -> int:
    """Return the most memory, in bytes, that a finished cell of a label took in a run or in its tuning; 0: none is."""
    return int(max(_costs(run, label, "peak_memory_bytes"), default=0))


def seconds(run: Path, label: str) -> float:
    """Return the mean seconds that a finished cell of a label took in a run or in its tuning; 0: none is."""
    found = list(_costs(run, label, "seconds"))
    return sum(found) / len(found) if found else 0.0


def _costs(run: Path, label: str, name: str) -> Iterator[float]:
    """Yield what each finished cell of a label took, in a run or in its tuning."""
    for folder in (run, run / layout.SWEEP):
        for file in (folder / layout.CELLS / label).glob(f"seed-*/{layout.CELL}"):
            with suppress(OSError, ValueError, KeyError, TypeError):  # half of a file that is being written
                yield float(json.loads(file.read_text(encoding="utf-8"))["cost"][name])


def compute(model: Model, root: Path) -> Compute:
    """Return the precision of a model's products: as its recipe says, or the fastest of this machine.

    A machine without a device computes small models in float32: see `alignbench.models.arithmetic`.
    """
    if model.compute != "auto":
        return model.compute
    return (
        "float32" if not machine.has_cuda() and arithmetic.is_small(_shape(model, root)) else child.compute()
    )


def check_disk(plan: Plan, cells: Iterable[PlannedCell], out: Path, root: Path, workers: int) -> None:
    """Raise StorageError where the disk of the run, or of the store, is clearly too small for these cells."""
    trained = sum(cell.label != BASE for cell in cells)
    model = plan.recipe.model
    adapter = 4 * model.adapter.rank * _widths(model, root)
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
    folder = root / model.id
    if not (folder / "config.json").is_file():
        folder = None if gguf.names(model) else folder_of(model.id, root, model.revision)
    if folder is None:
        return {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("text_config", config)
