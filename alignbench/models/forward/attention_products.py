"""Attention of short sequences in half precision on a CPU: plain matrix products, with a gradient of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = 512
"""Keys up to which this is faster: it keeps a weight for each pair of tokens, which longer rows would fill memory with.

Forward and backward pass take .36 to .44 of the time of PyTorch's attention in float32, and that takes half of its own
in bfloat16 (nine heads of 64, one thread of a CPU with bfloat16 products, 60 to 512 keys).
"""

AT_ONCE = 1 << 19
"""Weights of all heads that are computed together: 2 MiB in float32, what a core's cache holds."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
    """Return [B, H, T, size] of queries [B, H, T, size], keys and values [B, G, T, size], where G divides H.

    Causal; the softmax is computed in float32. Source: scaled dot-product attention, equation 1 of arXiv:1706.03762.
    """
    length = keys.shape[2]
    later = torch.full((length, length), float("-inf"), device=keys.device).triu_(1)
    scale = queries.shape[3] ** -0.5 if scale is None else scale
    rows = max(1, AT_ONCE // (queries.shape[1] * queries.shape[2] * keys.shape[2]))
    blocks = zip(*(one.split(rows) for one in (queries, keys, values)), strict=True)
    return torch.cat([_Attention.apply(*block, later, scale) for block in blocks])  # pyright: ignore[reportArgumentType]


class _Attention(torch.autograd.Function):
    """Heads that share keys are one matrix, [B, G, H / G * Q, size]."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, later: Tensor, scale: float
    ) -> Tensor:
        ctx.shape, ctx.scale = queries.shape, scale
        rows = queries.reshape(*keys.shape[:2], -1, keys.shape[3])
        scores = (rows @ keys.transpose(-1, -2)).view(*queries.shape[:3], -1).float().mul_(scale)
        # To add minus infinity takes a third of the time of a mask.
        weights = scores.add_(later).softmax(-1).to(keys.dtype).view(*rows.shape[:3], -1)
        ctx.save_for_backward(rows, keys, values, weights)
        return (weights @ values).view(queries.shape)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, keys, values, weights = ctx.saved_tensors
        slopes = gradient.reshape(rows.shape)
        of_scores = torch.ops.aten._softmax_backward_data(
            slopes @ values.transpose(-1, -2), weights, -1, weights.dtype
        )
        of_scores.mul_(ctx.scale)
        of_values = weights.transpose(-1, -2) @ slopes
        return (of_scores @ keys).view(ctx.shape), of_scores.transpose(-1, -2) @ rows, of_values, None, None
