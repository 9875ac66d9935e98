"""What this project does against the grain of torch, transformers and peft, with the reason for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedConfig, PreTrainedModel


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module of torch keeps its hooks, which has no public list: what a borrowed network must have as before."""
PATCHED = (
    "forward",
    "generate",
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "p",
    "warnings_issued",
)
"""Attributes that trainers of other libraries set on instances; `p` is the share that a dropout drops."""


def import_bitsandbytes() -> None:
    """Import bitsandbytes without torch's compiler.

    bitsandbytes 0.50 wraps four of its functions in `torch.compile` when it is imported, which loads the whole
    compiler. All imports of a child process take 8.6 seconds of a slow core without it, and 10.3 with it. The four are
    for devices without kernels of its own, and are called as they stand. To be called before peft, which imports
    bitsandbytes.
    """
    if "bitsandbytes" in sys.modules:
        return
    compiled = torch.compile
    torch.compile = _as_it_stands
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        torch.compile = compiled


def _as_it_stands(model: Callable[..., Any] | None = None, **_: Any) -> Any:
    """Take the arguments of `torch.compile`, and compile nothing."""
    return (lambda function: function) if model is None else model


def attention_name(model: PreTrainedModel) -> str | None:
    """Return the name of the attention function that a model uses.

    transformers 5.23 can set it in public (`set_attn_implementation`) but not read it.
    """
    return model.config._attn_implementation


def mark_quantised(config: PreTrainedConfig) -> None:
    """Let a model be built as a quantised one is: some state-space mixers call a layer only then.

    transformers sets this mark while it loads weights, and a model without weights is not loaded.
    """
    config._is_quantized = True


def activate(layers: Iterable[LoraLayer], adapter: str | None) -> None:
    """Let LoRA layers compute with one adapter, or with none.

    peft's public switches, `set_adapter` and `enable_adapters`, also freeze the other adapters: a training of several
    adapters, or one during which another is scored, would lose gradients. Restoring `requires_grad` after them takes
    43 times as long as this (28 layers and 3 adapters on a CPU: 4.2 ms instead of 0.1 ms).
    """
    active = [] if adapter is None else [adapter]
    for layer in layers:
        layer._disable_adapters = adapter is None
        layer._active_adapter = active
