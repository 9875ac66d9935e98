"""Attention by plain products: PyTorch's own outputs and gradients, for shared keys and other scales."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alignbench.models.forward import attention_products

SHAPES = [(2, 4, 4, 7, 8), (2, 6, 2, 7, 16), (1, 6, 3, 9, 8)]
"""B, H, G, T, size."""


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    batch, heads, groups, length, size = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(batch, length, heads, size), (batch, length, groups, size), (batch, length, groups, size)]
    return [torch.randn(one, generator=generator).to(dtype).transpose(1, 2).requires_grad_() for one in sizes]


def of(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((out.float() * weights).sum(), inputs)
    return [out.detach().float(), *(one.float() for one in gradients)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_in_float32_it_is_pytorchs_attention(shape: tuple[int, ...], scale: float | None) -> None:
    inputs = drawn(shape, torch.float32)
    found = of(attention_products.attend(*inputs, scale), inputs)
    right = F.scaled_dot_product_attention(*inputs, is_causal=True, scale=scale, enable_gqa=True)
    for one, other in zip(found, of(right, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)


def test_in_bfloat16_the_error_is_that_of_rounding_the_inputs() -> None:
    exact = drawn((2, 6, 2, 40, 16), torch.float32)
    right = of(F.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True), exact)
    rounded = drawn((2, 6, 2, 40, 16), torch.bfloat16)
    found = of(attention_products.attend(*rounded, None), rounded)
    for one, other in zip(found, right, strict=True):
        assert ((one - other).norm() / other.norm()).item() < 0.01
