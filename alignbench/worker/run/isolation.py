"""What a method may leave behind in its process, random states and torch's switches, is put back after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed every global random state inside; after it, these and torch's switches are as they were."""
    import numpy as np
    import torch

    switches: list[tuple[Callable[[Any], object], Any]] = [
        (torch.set_num_threads, torch.get_num_threads()),
        (torch.set_default_dtype, torch.get_default_dtype()),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled()),
        (torch.set_grad_enabled, torch.is_grad_enabled()),
    ]
    cudnn = torch.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in ("allow_tf32", "benchmark", "deterministic")}
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
            for name, value in flags.items():
                setattr(cudnn, name, value)
            for switch, value in switches:
                switch(value)
