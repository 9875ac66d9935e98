"""Which files a block of code opens to write, wherever they lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_open: list[set[Path]] = []
"""What the blocks that are running have opened so far."""
_hooked: list[bool] = []


@contextmanager
def watching_writes() -> Iterator[set[Path]]:
    """Yield the absolute paths that Python opens to write inside the block, compiled modules aside.

    What a library of another language writes by itself is not seen.
    """
    if not _hooked:  # a hook of the interpreter stays
        sys.addaudithook(_note)
        _hooked.append(True)
    _open.append(found := set())
    try:
        yield found
    finally:
        _open.remove(found)


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event != "open" or not _open:
        return
    path, mode, flags = args
    writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & WRITING)
    if writes and isinstance(path, str | bytes | os.PathLike):
        where = Path(os.fsdecode(path)).absolute()
        if "__pycache__" not in where.parts:
            for found in _open:
                found.add(where)
