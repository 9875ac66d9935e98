"""A linear layer with its LoRA adapter as one function: fewer passes over the activations than peft's forward.

peft 0.21 computes `base(x) + B(A(x)) * scaling` as five operations, of which two only scale and add tensors as large
as the layer's output, and as many again in the backward pass. Here the product with B is added to the output where it
is. With it a step of preference pairs takes 0.91 of the time (`benchmarks/trainer_vs_trl.py`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def install(layer: Any) -> None:
    """Let a LoRA layer over a frozen linear layer compute with `forward`; layers of other kinds stay peft's.

    A 4-bit layer on a CPU is taken too, so that weights which are unpacked in every forward give the same bits as
    those that were unpacked once. On other devices its own kernels are.
    """
    base = layer.get_base_layer()
    plain = type(base) is nn.Linear or (
        type(base).__name__ == "Linear4bit" and base.weight.device.type == "cpu"
    )
    if plain and type(layer).__name__ in ("Linear", "Linear4bit") and "forward" not in vars(layer):
        layer.forward = partial(forward, layer, layer.forward)


def mixes(layer: Any) -> bool:
    """Return whether a LoRA layer computes with activations of another precision than its own weights'."""
    return "forward" in vars(layer)


def forward(layer: Any, fallback: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return [..., out] of [..., in], as `fallback`, peft's own forward, does up to rounding.

    The fallback computes what this does not: arguments other than x, merged or several adapters, adapters that are more
    than LoRA, dropout that is on, and weights of another type than the activations, as under autocast. An adapter's
    own weights are float32 whatever the activations are, and are rounded to their type for the products.
    """
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or len(names) != 1 or args or kwargs or layer.merged:
        return fallback(x, *args, **kwargs)
    (name,) = names
    base, down, up, dropped = (
        layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name],
    )  # fmt: skip
    if (
        name in layer.lora_variant
        or (dropped.training and not isinstance(dropped, nn.Identity))
        or up.bias is not None
        or x.dtype not in (down.weight.dtype, torch.bfloat16, torch.float16)
        or (base.weight.is_floating_point() and x.dtype != base.weight.dtype)
        or torch.is_autocast_enabled(x.device.type)
    ):
        return fallback(x)
    return _Adapted.apply(x, base, down.weight, up.weight, layer.scaling[name])  # pyright: ignore


class _Adapted(torch.autograd.Function):
    """y = x W^T + bias + scaling (x A^T) B^T with W and bias frozen. Source: equation 3 of LoRA, arXiv:2106.09685."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Any, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        master, down, up = down.dtype, down.to(x.dtype), up.to(x.dtype)
        inner = rows @ down.t()
        out = base(rows).addmm_(inner, up.t(), alpha=scaling)
        ctx.save_for_backward(rows, down, up, inner)
        ctx.base, ctx.scaling, ctx.shape, ctx.master = base, scaling, x.shape, master
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        rows, down, up, inner = ctx.saved_tensors
        slopes = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (slopes @ up).mul_(ctx.scaling)
        of_x = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_x = (slopes @ _weight(ctx.base).to(slopes.dtype)).addmm_(of_inner, down).view(ctx.shape)
        if ctx.needs_input_grad[2]:
            of_down = (of_inner.t() @ rows).to(ctx.master)
        if ctx.needs_input_grad[3]:
            of_up = (slopes.t() @ inner).mul_(ctx.scaling).to(ctx.master)
        return of_x, None, of_down, of_up, None


def _weight(base: Any) -> Tensor:
    """Return the weight [out, in] of a layer, unpacked where it is packed."""
    if base.weight.is_floating_point():
        return base.weight
    from bitsandbytes import functional

    return functional.dequantize_4bit(base.weight, base.weight.quant_state)
