"""Counts what networks compute where they are called: every forward of every network of the process passes here.

FLOPs are counted from shapes, two for each multiplication with its addition, as `torch.utils.flop_counter` counts
them: of linear layers by the positions that pass through them, of attention by queries times keys, of a backward pass
by what needs a gradient. Activations that a backward pass recomputes to save memory, and the dequantisation of
weights, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from alignbench.models import meter
from alignbench.models.meter import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class _Call:
    """A call of a network's body."""

    batch: int
    width: int
    past: int
    key: tuple[object, bool]
    positions: int
    """Without padding, where the caller knows it."""
    attention: float = 0.0
    skipped: tuple[nn.Module, int] | None = None
    """A module that some positions did not pass through, and how many."""
    watched: dict[nn.Module, float] | None = None
    """FLOPs of each linear layer, where this is the first call of its kind."""
    handles: list[Any] = field(default_factory=list)


_call: _Call | None = None
_expected: int | None = None
_trying = 0


def expect(positions: int) -> None:
    """Say how many positions of the next call of a network are not padding."""
    global _expected
    _expected = positions


def attended(batch: int, heads: int, queries: int, keys: int, size: int, *, gradient: bool) -> None:
    """Report attention of `heads` heads of a size, queries times keys, in the running call of a network."""
    if _call is not None:
        _call.attention += 4.0 * batch * heads * queries * keys * size * (3 if gradient else 1)


def backward_again(head: nn.Module, inputs: Tensor) -> None:
    """Report one more backward pass of a head than each of its forwards with a gradient is counted with."""
    shape = _shape(head)
    if shape is not None and not _trying:
        meter.computed(Work(flops=2.0 * inputs.numel() * shape[1]))


def skipped(module: nn.Module, positions: int) -> None:
    """Report that so many positions of the running call do not pass through a module."""
    if _call is not None:
        _call.skipped = module, positions


@contextmanager
def trying() -> Iterator[None]:
    """Count nothing inside the block: the trials of a network at load belong to no cell."""
    global _trying
    _trying += 1
    try:
        yield
    finally:
        _trying -= 1


def count(model: PreTrainedModel, active: Callable[[], object] = lambda: None) -> None:
    """Count what a network computes from now on, whoever calls it; a network that is counted already stays so.

    `active` names the adapter it computes with.
    """
    if model not in _COUNTED:
        _COUNTED.add(model)
        _Counter(model, active)


_COUNTED: WeakSet[PreTrainedModel] = WeakSet()


def weights(model: PreTrainedModel) -> int:
    """Return how many weights of linear layers each position is multiplied with, adapters left out."""
    found = [shape for name, one in model.named_modules() if ".lora_" not in name and (shape := _shape(one))]
    return sum(inputs * outputs for inputs, outputs in found)


class _Counter:
    """Hooks on a network's body and head."""

    def __init__(self, model: Any, active: Callable[[], object]):
        self.config, self.active = model.config, active
        head = getattr(model, "get_output_embeddings", lambda: None)()
        body: nn.Module = model.base_model if head is None else model.get_decoder()
        self.costs: dict[tuple[object, bool], dict[nn.Module, float]] = {}
        """FLOPs of each linear layer for a position, forward and backward, by adapter and whether with gradient."""
        self.sums: dict[tuple[object, bool], float] = {}
        body.register_forward_pre_hook(self._begin, with_kwargs=True)
        body.register_forward_hook(self._end, always_call=True)
        if head is not None:
            head.register_forward_hook(self._head)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        global _call, _expected
        given = kwargs.get("input_ids")
        if given is None:
            given = args[0] if args else kwargs.get("inputs_embeds")
        expected, _expected = _expected, None
        mask = kwargs.get("attention_mask")
        if _trying or given is None:
            _call = None
            return
        batch, width = (1, given.shape[0]) if given.dim() == 1 else given.shape[:2]
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        if expected is None and isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[0] == batch:
            expected = int((mask[:, -width:] != 0).sum())
        key = self.active(), torch.is_grad_enabled()
        _call = _Call(batch, width, past, key, batch * width if expected is None else expected)
        if key not in self.costs:
            _call.watched = {}
            inside: set[nn.Module] = set()
            """Of layers with an adapter, which are counted as a whole."""
            for one in module.modules():
                if isinstance(one, LoraLayer):
                    inside.update(part for part in one.modules() if part is not one)
                if one not in inside and (isinstance(one, LoraLayer) or _shape(one) is not None):
                    _call.handles.append(one.register_forward_hook(self._watch))

    def _watch(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = _call
        if call is None or call.watched is None:
            return
        made = output if isinstance(output, tuple) else (output,)  # a router returns its choices as well
        gradient = torch.is_grad_enabled() and any(
            isinstance(one, Tensor) and one.requires_grad for one in made
        )
        found, inputs = _products(module, gradient and args[0].requires_grad, gradient)
        rows = args[0].numel() // inputs
        if call.skipped is not None and any(module is one for one in call.skipped[0].modules()):
            rows = call.batch * call.width
        each = 2.0 * found * rows / (call.batch * call.width)
        call.watched[module] = call.watched.get(module, 0.0) + each

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        global _call
        call, _call = _call, None
        if call is None:
            return
        for handle in call.handles:
            handle.remove()
        if output is None:  # it raised
            return
        if call.watched is not None:
            self.costs[call.key] = call.watched
            self.sums[call.key] = sum(call.watched.values())
        computed = call.batch * call.width
        flops = self.sums[call.key] * computed
        if call.skipped is not None:
            module, positions = call.skipped
            costs = self.costs[call.key]
            flops -= positions * sum(costs.get(one, 0.0) for one in module.modules())
        states = getattr(output, "last_hidden_state", output)
        gradient = isinstance(states, Tensor) and states.requires_grad
        if not call.attention:
            call.attention = self._attention(call) * (3 if gradient else 1)
        flops += call.attention
        plain, trained = (0, call.positions) if gradient else (call.positions, 0)
        meter.computed(Work(1, plain, trained, flops))

    def _attention(self, call: _Call) -> float:
        """Attention of a network that reports none: every query with every key, in every layer."""
        config = self.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0)
        size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        layers = getattr(config, "num_hidden_layers", 0)
        return 4.0 * call.batch * layers * heads * size * call.width * (call.width + call.past)

    def _head(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        shape = _shape(module)
        if _trying or shape is None:
            return
        passes = 1 + (torch.is_grad_enabled() and args[0].requires_grad)
        meter.computed(Work(flops=2.0 * args[0].numel() * shape[1] * passes))


def _products(module: nn.Module, to_input: bool, gradient: bool) -> tuple[int, int]:
    """Return the multiplications of a linear layer for a position, and its inputs; those of its adapter included.

    `to_input`: a backward pass computes the gradient of its input. `gradient`: there is one.
    """
    if isinstance(module, LoraLayer):
        layer: Any = module
        found, inputs = _products(layer.get_base_layer(), to_input, gradient)
        for name in () if layer.disable_adapters else layer.active_adapters:
            for parts, above in ((layer.lora_A, to_input), (layer.lora_B, gradient)):
                if name in parts:
                    found += _products(parts[name], above, gradient)[0]
        return found, inputs
    inputs, outputs = _shape(module) or (1, 0)
    trained = gradient and any(one.requires_grad for one in module.parameters(False))
    return inputs * outputs * (1 + to_input + trained), inputs


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Return inputs and outputs of a linear layer; None for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # transformers' name of a linear layer with a transposed weight
        return module.nx, module.nf  # pyright: ignore[reportReturnType]
    return None
