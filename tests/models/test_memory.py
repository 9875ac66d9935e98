"""Memory that was freed is there for the next tensors."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROUNDS = """
import ctypes, resource, runpy, sys
if sys.argv[1] == "kept":
    assert runpy.run_path(sys.argv[2])["keep_freed"]()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
libc.free.argtypes = [ctypes.c_void_p]
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(6 << 20) for _ in range(4)]
    for block in blocks:
        libc.memset(block, 1, 6 << 20)
    for block in blocks:
        libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))
"""


def faults(how: str) -> int:
    from alignbench.models.forward import memory

    output = subprocess.run([sys.executable, "-c", ROUNDS, how, memory.__file__], stdout=-1, check=True)
    return int(output.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another C library")
def test_freed_memory_is_used_again_without_faults():
    assert faults("kept") < 100
    assert faults("as it comes") > 1000


def test_the_memory_of_a_token_is_measured(base):
    from alignbench.models.forward.groups import bytes_per_token

    policy = base.add_adapter("measured", seed=0)
    config = base.model.config
    each = bytes_per_token(policy)
    numbers = config.num_hidden_layers * (8 * config.hidden_size + 4 * config.intermediate_size)
    assert 0.5 < each / (4 * numbers) < 3
    assert bytes_per_token(policy) == each
    base.drop(policy)


def test_cells_that_run_in_parallel_share_the_machine(monkeypatch):
    from alignbench.models.forward import memory

    assert 1 << 26 < memory.machine() <= memory.psutil.virtual_memory().total
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(memory, "machine", lambda: 16 << 30)
    monkeypatch.setattr(memory, "machine", lambda: 8 << 30)
    assert memory.for_activations("cpu", 1) == 1 << 28  # a quarter of one GiB
    assert memory.for_activations("cpu", 8) == 1 << 29  # a quarter of all would be four GiB


GAPS = """
import ctypes, os, runpy, sys
memory = runpy.run_path(sys.argv[1])
memory["keep_freed"]()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

def holes(count):
    blocks = [libc.malloc(1 << 20) for _ in range(count)]
    for block in blocks:
        libc.memset(block, 1, 1 << 20)
    for place, block in enumerate(blocks):
        if place % 8:
            libc.free(block)
    before = resident()
    memory["give_back"]()
    return before - resident()

print(holes(100), holes(600))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_gaps_between_what_is_in_use_are_given_back_once_they_are_large(root):
    code = root / "alignbench" / "models" / "forward" / "memory.py"
    done = subprocess.run(
        [sys.executable, "-c", GAPS, code], capture_output=True, text=True, check=True, timeout=60
    )
    few, many = map(int, done.stdout.split())
    assert few < 10
    assert many > 400
