"""What this machine has: its CUDA devices, its cores, and the memory that is free. Touches no device."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path


def devices() -> tuple[str, ...]:
    """Return the CUDA devices that cells may run on, as CUDA_VISIBLE_DEVICES names them; none on a machine without."""
    if not Path("/dev/nvidiactl").exists():
        return ()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        nodes = (re.fullmatch(r"nvidia(\d+)", node.name) for node in Path("/dev").iterdir())
        return tuple(sorted((node[1] for node in nodes if node), key=int)) or ("0",)
    named = [one.strip() for one in chosen.split(",")]
    return tuple(itertools.takewhile(lambda one: one not in ("", "-1"), named))  # as CUDA reads it


def has_cuda() -> bool:
    """Return whether this machine has a CUDA device."""
    return bool(devices())


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def free_memory(device: str | None) -> int | None:
    """Return the bytes that are free on a CUDA device, or in the machine (None); None where that is not known."""
    if device is not None:
        return _free_on(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _free_on(device: str) -> int | None:
    """Ask the driver's own tool: to load CUDA into this process would take memory of the device."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    asked = [tool, f"--id={device}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout
        return int(output.split()[0]) * 2**20
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
