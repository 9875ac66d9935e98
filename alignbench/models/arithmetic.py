"""In which precision this machine multiplies fastest: tried, not looked up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

Compute = Literal["float32", "bfloat16", "float16"]

GAIN = 2.0
"""How many times as fast as in float32 products must be in bfloat16, so that `auto` takes it on a CPU.

It rounds to three digits, and products are not all of a step.
"""

SMALL = 1 << 25
"""Weights of linear layers below which `auto` is float32 on a CPU.

Of a step on two million weights 41 % of the time are products (`benchmarks/trainer_vs_trl.py`): they decide little.
"""

ROWS, WIDTH, ROUNDS = 512, 1024, 5
"""Tokens and widths of the product that is tried, and how often."""


def is_small(config: Mapping[str, Any]) -> bool:
    """Return whether a model of this configuration has few weights; False where it does not say."""
    config = config.get("text_config", config)
    hidden, layers, inner = (
        next((config[name] for name in names if config.get(name)), None)
        for names in (
            ("hidden_size", "n_embd", "d_model"),
            ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers_block_type"),
            ("intermediate_size", "n_inner", "d_ff"),
        )
    )
    layers = len(layers) if isinstance(layers, list) else layers
    if not isinstance(hidden, int) or not isinstance(layers, int):
        return False
    inner = inner if isinstance(inner, int) else 4 * hidden
    return layers * hidden * (4 * hidden + 3 * inner) < SMALL


def chosen(gain: float) -> Compute:
    """Return what `auto` takes on a CPU whose products are `gain` times as fast in bfloat16 as in float32."""
    return "bfloat16" if gain >= GAIN else "float32"


@cache
def fastest() -> Compute:
    """Return what `auto` takes for a large model on this machine. Imports torch."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return chosen(gain())


def gain() -> float:
    """Return how many times as fast this CPU multiplies in bfloat16 as in float32: a product of a layer's size."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, WIDTH, generator=generator) for size in (ROWS, WIDTH))
    pairs = {dtype: (x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    with torch.no_grad():
        for number in range(1 + ROUNDS):
            for dtype, (left, right) in pairs.items():
                begun = time.perf_counter()
                torch.nn.functional.linear(left, right)
                if number:  # the first builds the kernel
                    best[dtype] = min(best[dtype], time.perf_counter() - begun)
    return best[torch.float32] / best[torch.bfloat16]
