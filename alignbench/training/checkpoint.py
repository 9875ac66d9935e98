"""Checkpoints of a training: sealed folders of tensors and JSON; a training continues from the last intact one."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, store
from alignbench.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor

EVERY = 60.0
"""Seconds between two checkpoints."""

SHARE = 50
"""A checkpoint is followed by this many times its own duration without one: it costs 2% at most."""

KEPT = 2
"""Checkpoints that stay: the last, and the one before it, in case the last is damaged."""

TYPE = "$"
"""The JSON key that names the type of a value which is not JSON itself."""

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    `key` is a digest of all inputs of the training: a checkpoint with another key is ignored.
    `account` returns what else belongs to the state (curves, costs), and `restore` sets it again.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        every: float = EVERY,
        account: Callable[[], Any] = lambda: None,
        restore: Callable[[Any], None] = lambda account: None,
    ):
        self.folder, self.key, self.every = folder, key, every
        self.account, self.restore = account, restore
        self._next = time.monotonic() + every

    def due(self) -> bool:
        """Return whether it is time for another checkpoint."""
        return time.monotonic() >= self._next

    def save(self, step: int, value: Any) -> None:
        """Seal `value`, nested dicts and lists of tensors and JSON values, as the checkpoint of a step.

        Raises StorageError where the disk cannot hold it; the checkpoints before it are still there.
        """
        begun = time.monotonic()
        folder = self.folder / f"{step:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            write(folder, {"account": self.account(), "value": value})
            store.commit(folder, key=self.key, producer="alignbench")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in self._found()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        now = time.monotonic()
        self._next = now + max(self.every, SHARE * (now - begun))

    def last(self) -> Any:
        """Return the value of the last intact checkpoint, its account restored, or None where there is none.

        A damaged one is logged as a warning and deleted.
        """
        for folder in reversed(self._found()):
            if store.manifest(folder, key=self.key) is not None:
                kept = read(folder)
                self.restore(kept["account"])
                return kept["value"]
            log.warning("the checkpoint %s is damaged or of another training: skipped", folder)
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def _found(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdecimal())


def write(folder: Path, value: Any) -> None:
    """Write nested dicts and lists of tensors and JSON values as two files; PluginError for the rest."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    rest = _pack(value, "", tensors)
    for name, data in (
        (layout.CHECKPOINT_TENSORS, save(tensors)),
        (layout.CHECKPOINT, json.dumps(rest).encode()),
    ):
        with store.storage_errors(folder / name, needed=len(data)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def read(folder: Path) -> Any:
    """Return what `write` wrote, equal in values and kinds; its tensors are in main memory."""
    from safetensors.torch import load

    tensors = load((folder / layout.CHECKPOINT_TENSORS).read_bytes())
    return _unpack(json.loads((folder / layout.CHECKPOINT).read_text(encoding="utf-8")), tensors)


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; its tensors go to `tensors`, by their place."""
    import numpy as np
    import torch

    if isinstance(value, float) and not math.isfinite(value):
        return {TYPE: "float", "is": repr(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, torch.Tensor):
        # A copy: the file format refuses tensors that share memory.
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {TYPE: "tensor", "is": place}
    if isinstance(value, np.generic):
        return _pack(value.item(), place, tensors)
    if isinstance(value, np.ndarray):
        return {TYPE: "array", "is": _pack(torch.from_numpy(value.copy()), place, tensors)}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{place}/{at}", tensors) for at, item in enumerate(value)]
        return items if isinstance(value, list) else {TYPE: "tuple", "is": items}
    if isinstance(value, dict):
        if all(isinstance(name, str) for name in value) and TYPE not in value:
            return {name: _pack(item, f"{place}/{name}", tensors) for name, item in value.items()}
        pairs = [[name, item] for name, item in value.items()]
        return {TYPE: "dict", "is": _pack(pairs, place, tensors)}
    raise PluginError(
        f"a {type(value).__name__} cannot be kept in a checkpoint (at {place.removeprefix('/')})",
        "keep numbers, strings, tensors, and lists and dicts of them in `state`",
    )


def _unpack(stored: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(stored, list):
        return [_unpack(item, tensors) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if TYPE not in stored:
        return {name: _unpack(item, tensors) for name, item in stored.items()}
    if stored[TYPE] == "float":
        return float(stored["is"])
    if stored[TYPE] == "tensor":
        return tensors[stored["is"]]
    inside = _unpack(stored["is"], tensors)
    kinds = {"array": lambda: inside.numpy(), "tuple": lambda: tuple(inside), "dict": lambda: dict(inside)}
    return kinds[stored[TYPE]]()
