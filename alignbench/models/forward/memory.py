"""How much one forward may hold on each device, and how the C library keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from alignbench.errors import first_line

if TYPE_CHECKING:
    from alignbench.models.forward.network import Network

Item = TypeVar("Item")
Found = TypeVar("Found")

SHARE = {"cpu": 0.25, "cuda": 0.5}
"""Share of the memory that one forward may take for what its backward pass needs."""

ACTIVATIONS = {"cpu": 3 << 27, "cuda": 1 << 40}
"""Bytes that it may take at most. On a CPU more is hardly faster: 700 and 4,700 tokens of a model of 135 million
weights in one forward train as many tokens a second to within 5 %, a gigabyte no faster than half of one, and this 2 to
4 % slower than that."""

HELD = 0.25
"""Share of it that the keys and values of a batch of answers may take, and the trees of a search. A layer of a forward
without gradient, and the questions of a judge, take half as much at most. Where memory is large, the bytes below do."""

PASSING = {"cpu": 1 << 29, "cuda": 1 << 33}
"""Bytes of what one layer holds for the positions of a forward without gradient."""

POSITIONS = {"cpu": 16384, "cuda": 16384}
"""Token positions of one scoring forward, as if all its sequences were as long as the longest: at most."""

TREE_POSITIONS = {"cpu": 2048, "cuda": 32768}
"""New positions of one forward over token trees."""

QUESTIONS = {"cpu": 1 << 25, "cuda": 1 << 32}
"""Bytes of what trees keep of a judge's questions that are in memory together, `choices.FLOOR` positions at least."""

LOGITS = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Numbers of the largest tensor of logits, float32: positions x vocabulary. On a CPU a head of 49,152 words takes 15 %
less time for each of 170 positions than of 85, in bfloat16, and more again where the tensor is larger than a block that
is kept (`LARGEST`)."""

ANSWERS = {"cpu": 256, "cuda": 256}
"""Answers that are generated together at most."""

CACHE = {"cpu": 1 << 29, "cuda": 1 << 34}
"""Bytes of keys and values of one batch of answers at most."""

POOL_GROWTH = {"cpu": 2.0, "cuda": 1.5}
"""A full pool of keys and values grows by this factor; on a CPU, memory that is not written yet costs nothing."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""

KERNELS = 64
"""Compiled products of half precision that are kept, of each of two caches; one is for one shape, and takes 0.6 MB.

Every micro-batch has shapes of its own, and by default a thousand are kept: a training of a model of 135 million
weights grew by 28 MB with each micro-batch. A layer needs 25 of them forward and 60 backward.
"""

KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The variables by which oneDNN, and what PyTorch puts around it, are told how many."""

KEPT = 1 << 28
"""Bytes of free memory that are not given back."""

LARGEST = 1 << 25
"""Bytes of the largest block that is kept; glibc allows no more."""


def positions(base: Network, most: dict[str, int]) -> int:
    """Return how many positions one forward without gradient may have: `most`, or what one layer has room for."""
    config: Any = base.model.config.get_text_config()
    hidden = base.head.weight.shape[1]
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    held = (8 * hidden + 4 * inner) * base.dtype.itemsize
    kind = base.device.type
    return max(1, min(most[kind], limit(kind, PASSING, HELD / 2) // held))


def kv_bytes(base: Network) -> int:
    """Return the bytes of keys and values of one position; 0 for a recurrent model, whose state does not grow."""
    config: Any = base.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    both = 2 * size
    if latent := getattr(
        config, "qk_head_dim", None
    ):  # multi-head latent attention: keys are longer than values
        both = latent + config.v_head_dim
    heads = getattr(config, "num_key_value_heads", None) or heads
    return config.num_hidden_layers * heads * both * base.dtype.itemsize


def for_activations(kind: str, threads: int, taken: int = 0) -> int:
    """Return the bytes that one forward may keep for its backward pass; `taken`: those that weights take of a device.

    On a CPU the cells that run in parallel, as many as their `threads` allow, share the memory of the machine or
    of its control group. All of it counts, not what is free at the moment: what is computed together decides the
    last digits, and equal runs have to be equal.
    """
    return min(ACTIVATIONS[kind], int(SHARE[kind] * (whole(kind, threads) - taken)))


def limit(kind: str, most: Mapping[str, int], share: float = HELD, threads: int | None = None) -> int:
    """Return how many bytes a cell of so many threads (default: this process's) may hold of one kind.

    That is `most`, or the share of its memory where there is little of it.
    """
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    return min(most[kind], int(share * whole(kind, threads)))


def whole(kind: str, threads: int) -> int:
    """Return the bytes of memory that there are for one cell: those of its device, or its part of the machine's."""
    if kind == "cuda":
        import torch

        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return machine() // max(1, len(os.sched_getaffinity(0)) // threads)


def machine() -> int:
    """Return the bytes of memory that this process may use: those of the machine, or of its control group."""
    limits = [psutil.virtual_memory().total]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # version 2, version 1
        for group in ("", *_groups()):
            path = Path("/sys/fs/cgroup") / group.strip("/") / file
            if path.is_file() and (text := path.read_text().strip()).isdecimal():
                limits.append(int(text))
    return min(limits)


def _groups() -> list[str]:
    """The paths of this process's control groups, with those above them."""
    file = Path("/proc/self/cgroup")
    paths = [line.split(":", 2)[2] for line in file.read_text().splitlines()] if file.is_file() else []
    return [str(part) for path in paths for part in (Path(path), *Path(path).parents)]


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that a tensor found no memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def halving(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Found]
) -> Iterator[tuple[Sequence[Item], Found]]:
    """Yield items with what `work` returns for them: for all together, or where they do not fit, for each half.

    What is computed together is chosen beforehand to fit (`limit`); this is the net below. The log says so. Raises the
    error of a single item that does not fit.
    """
    import torch

    waiting = [items]
    while waiting:
        some = waiting.pop()
        try:
            found = work(some)
        except RuntimeError as error:
            if len(some) == 1 or not out_of_memory(error):
                raise
            reason = first_line(error)
        else:
            yield some, found
            continue
        # Outside the handler: its traceback holds the tensors that did not fit.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"{len(some)} together do not fit into memory, and are computed in halves: {reason}")
        half = len(some) // 2
        waiting += [some[half:], some[:half]]


def keep_freed() -> bool:
    """Let this process keep the memory of freed tensors for the next ones; return whether the C library can.

    By default glibc returns some of it to the system after each layer, and the system clears and maps it again,
    page by page, for the next: a quarter of the time of a forward whose tensors are some megabytes large.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))


def keep_few_kernels() -> None:
    """Let this process keep `KERNELS` compiled products, unless its environment says how many.

    Both libraries read it with their first product, so that later calls change nothing.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(KERNELS))


class _Heap(ctypes.Structure):
    """What glibc's `mallinfo2` returns, from malloc.h."""

    _fields_ = [(f"unused_{place}", ctypes.c_size_t) for place in range(8)] + [
        ("fordblks", ctypes.c_size_t),  # bytes that are free inside the heap
        ("keepcost", ctypes.c_size_t),
    ]


def give_back() -> None:
    """Give freed memory back to the system, where more than `KEPT` bytes of it lie between what is in use.

    Tensors of many sizes leave gaps that the next ones do not fit, and a process grows from step to step: three
    steps on 16 pairs each of a model of 135 million weights took 3.2 GB, of which 2.2 GB were ever in use.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    heap, trim = getattr(library, "mallinfo2", None), getattr(library, "malloc_trim", None)
    if heap is None or trim is None:  # musl, or a glibc before 2.33
        return
    heap.restype = _Heap
    if heap().fordblks > KEPT:
        trim(0)
