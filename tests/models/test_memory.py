"""Memory that was freed is there for the next tensors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from alignbench.api.config import Sampling
from alignbench.api.method import ScoringGroup
from alignbench.models import DecodingBase, load_base
from alignbench.models.forward import groups, memory, scoring
from alignbench.models.forward.groups import kept_by
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence

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
    output = subprocess.run([sys.executable, "-c", ROUNDS, how, memory.__file__], stdout=-1, check=True)
    return int(output.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another C library")
def test_freed_memory_is_used_again_without_faults():
    assert faults("kept") < 100
    assert faults("as it comes") > 1000


def graphs() -> int:
    """The tensors in memory that belong to a graph."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) and one.grad_fn is not None for one in gc.get_objects())


def test_what_a_forward_keeps_is_measured_and_let_go(base):
    policy = base.add_adapter("measured", seed=0)
    config, before = base.model.config, graphs()
    found = kept_by(policy)
    numbers = config.num_hidden_layers * (8 * config.hidden_size + 4 * config.intermediate_size)
    assert 0.5 < found.token / (4 * numbers) < 3
    assert found.pair == 0  # PyTorch's attention in float32 keeps no weights
    assert kept_by(policy) is found
    assert graphs() == before
    base.drop(policy)


def test_weights_of_attention_count_by_the_square_of_a_length(folder):
    base = load_base(schema.Model(id=str(folder), compute="bfloat16"))
    config, found = base.model.config, kept_by(base.add_adapter("measured", seed=0))
    # bfloat16; of the last layer only the tokens that are read have weights
    assert found.pair == 2 * config.num_hidden_layers * config.num_attention_heads
    for length in (24, 100):
        bytes = groups._kept_bytes(base.add_adapter("longer", seed=1), length)
        assert found.token * length + found.pair * length**2 == pytest.approx(bytes, rel=0.3)


KERNELS = """
import ctypes, os, runpy, sys, torch

if sys.argv[1] == "few":
    runpy.run_path(sys.argv[2])["keep_few_kernels"]()


class Heap(ctypes.Structure):
    _fields_ = [(str(place), ctypes.c_size_t) for place in range(10)]


mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Heap
weight = torch.ones(512, 512, dtype=torch.bfloat16)
before = getattr(mallinfo(), "7")
for rows in range(200):
    torch.nn.functional.linear(torch.ones(300 + rows, 512, dtype=torch.bfloat16), weight)
print(getattr(mallinfo(), "7") - before >> 20)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this processor compiles no products of half precision",
)
def test_products_of_ever_new_shapes_do_not_fill_the_memory():
    def grown(how: str) -> int:
        without = {name: value for name, value in os.environ.items() if name not in memory.KERNEL_CACHES}
        code = [sys.executable, "-c", KERNELS, how, memory.__file__]
        return int(subprocess.run(code, stdout=-1, check=True, env=without).stdout)

    assert grown("few") < 60 < 80 < grown("as it comes")


def test_a_base_on_a_processor_keeps_few_compiled_products(base):
    assert all(os.environ[name] for name in memory.KERNEL_CACHES)


def test_cells_that_run_in_parallel_share_the_machine(monkeypatch):
    assert 1 << 26 < memory.machine() <= memory.psutil.virtual_memory().total
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(memory, "machine", lambda: 8 << 30)
    assert memory.for_activations("cpu", 1) == 1 << 28  # a quarter of one GiB
    assert memory.for_activations("cpu", 8) == memory.ACTIVATIONS["cpu"], "a quarter of all would be more"


def test_little_memory_bounds_every_kind_of_what_is_held(base, monkeypatch):
    """Answers, scoring, questions and trees: by the cell's part of it, and by fixed bytes where it is large."""
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda process: set(range(torch.get_num_threads())))
    decoding = DecodingBase(base.policy())

    def held(machine: int) -> tuple[int, ...]:
        monkeypatch.setattr(memory, "machine", lambda: machine)
        kinds = memory.limit("cpu", memory.CACHE), memory.limit("cpu", memory.QUESTIONS, memory.HELD / 2)
        return *kinds, memory.positions(base, {"cpu": 1 << 40}), decoding.memory

    large, little, least = held(64 << 30), held(1 << 30), held(1 << 27)
    assert large[:2] == (memory.CACHE["cpu"], memory.QUESTIONS["cpu"])
    assert large[3] == 16 << 30
    assert little[0] == little[3] == 1 << 28
    assert least[0] == least[3] == 1 << 25
    assert least[1] == 1 << 24
    assert large[2] == pytest.approx(4 * little[2], rel=0.01) == pytest.approx(32 * least[2], rel=0.05)


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


PROMPTS = [
    Prompt(id=str(n), prompt=({"role": "user", "content": "x"},), prompt_ids=tuple(range(1, 4 + n)))
    for n in range(5)
]
FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
)


def fits(monkeypatch, where, name: str, count, error: Exception) -> list[int]:
    """Let a forward fail over more than two rows, as `count` counts them in its arguments; return what was tried."""
    whole, tried = getattr(where, name), list[int]()

    def forward(network, what, *args, **how):
        tried.append(count(what))
        if tried[-1] > 2:
            raise error
        return whole(network, what, *args, **how)

    monkeypatch.setattr(where, name, forward)
    return tried


@pytest.mark.parametrize("error", FULL)
def test_answers_that_do_not_fit_together_are_drawn_in_halves_and_are_the_same(
    base, monkeypatch, capsys, error
):
    sampling = Sampling(temperature=1.0, max_new_tokens=6)
    whole = base.policy().answer(PROMPTS, sampling, 3)
    tried = fits(monkeypatch, type(base), "logits", len, error)
    halves = base.policy().answer(PROMPTS, sampling, 3)
    assert max(tried) == 5, "all of them are tried together"
    assert [replace(one, seconds=0.0) for one in halves] == [replace(one, seconds=0.0) for one in whole]
    said = f"5 together do not fit into memory, and are computed in halves: {str(error).splitlines()[0]}"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("error", FULL)
def test_sequences_that_do_not_fit_together_are_scored_in_halves(base, monkeypatch, error):
    sequences = [Sequence(prompt.prompt_ids, (5, 6, 7)) for prompt in PROMPTS]
    policy, texts = base.policy(), [prompt.prompt_ids for prompt in PROMPTS]
    roads = (
        (scoring, "response_states", lambda layout: len(layout.targets) // 3, lambda: [
            one.logps.tolist() for one in policy.logprobs(sequences)
        ]),
        (groups, "response_states", lambda layout: len(layout.targets) // 3, lambda: groups.score(
            policy, {"": ScoringGroup(sequences)}
        )[""].logps.tolist()),
        (type(base), "hidden", len, lambda: scoring.embed(base, texts).tolist()),
    )  # fmt: skip
    for where, name, count, road in roads:
        whole = road()
        with monkeypatch.context() as patched:
            tried = fits(patched, where, name, count, error)
            assert road() == [pytest.approx(row, abs=1e-5) for row in whole]
            assert max(tried) == 5 > 2 >= min(tried)


def test_what_does_not_fit_alone_is_an_error_and_no_other_error_is_taken_for_it():
    def never(items):
        raise torch.OutOfMemoryError(f"no room for {len(items)}")

    with pytest.raises(torch.OutOfMemoryError, match="no room for 1"):
        list(memory.halving([1, 2, 3], never))

    def broken(items):
        raise RuntimeError(f"sizes of {len(items)} do not match")

    with pytest.raises(RuntimeError, match="sizes of 3"):
        list(memory.halving([1, 2, 3], broken))
