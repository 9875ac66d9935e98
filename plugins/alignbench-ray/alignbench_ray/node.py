"""What runs on a node: one task of a run, in a process of its own below Ray's worker."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from uuid import uuid4

from alignbench.launchers import work


def do(
    order: Mapping[str, Any],
    reads: Mapping[str, list[Any]],
    artefacts: Mapping[str, list[Any]],
    heartbeat: float,
    on_device: bool,
    storage: str,
) -> Iterator[dict[str, Any]]:
    """Do a task and yield its messages, the node's own the first; `reads` and `artefacts`: each an object of Ray."""
    import ray

    context = ray.get_runtime_context()
    yield {"node": context.get_node_id(), "name": platform.node()}
    if not on_device:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the devices of a node are for those who asked for one
    yield from work(
        order,
        {name: partial(ray.get, ref) for name, (ref,) in reads.items()},
        {key: partial(ray.get, ref) for key, (ref,) in artefacts.items()},
        heartbeat=heartbeat,
        begun=partial(kept, storage),
        keep=partial(keep, storage) if storage else None,
    )


def kept(storage: str) -> bytes | None:
    """Return the checkpoints that an earlier attempt kept; None where there are none."""
    if not storage:
        return None
    from fsspec.core import url_to_fs

    files, path = url_to_fs(storage)
    return files.cat_file(path) if files.exists(path) else None


def keep(storage: str, data: bytes) -> None:
    """Replace the checkpoints of a cell: whoever reads them gets the old or the new ones."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(storage)
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    half = f"{path}.{uuid4().hex}"
    files.pipe_file(half, data)
    files.mv(half, path)


def forget(storage: str) -> None:
    """Delete the checkpoints of a cell, and what a killed process has left of them half written."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(storage)
    for name in files.ls(path.rpartition("/")[0], detail=False):
        if name.startswith(path):
            files.rm_file(name)
