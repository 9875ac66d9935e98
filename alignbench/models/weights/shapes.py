"""A forward of shapes without values: which layers a model calls, computed without its weights.

torch's own FakeTensorMode does more, and imports much of the compiler for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VALUE = {torch.bool: True}
"""The value that a model gets that asks for a single number; of other types, 1."""


class Shapes(TorchDispatchMode):
    """Answers what tensors of the device `meta` cannot: their values. Every number is 1, and every mask is full.

    So a mixture gives each of its experts all tokens.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute the shape of one operation's result."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return VALUE.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        if func is torch.ops.aten.nonzero.default:
            return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.int64, device="meta")
        return func(*args, **(kwargs or {}))
