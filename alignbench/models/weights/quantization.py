"""Quantised weights that compute with the values of their codes: linear layers, and stacked experts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

from alignbench.errors import ModelError, Problem
from alignbench.models.weights.lora_config import experts_of

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

Quantization = Literal["nf4", "fp4", "int8", "none"]

FOUR_BITS = ("nf4", "fp4")

ERROR_LIMIT = {"nf4": 0.12, "fp4": 0.16, "int8": 0.03}
"""Relative error of a quantised weight against the original; measured on normal weights: .092, .122, .009."""

RESIDENT_SHARE = 0.25
"""Share of the free memory that dequantised weights may take on a CPU."""


def bitsandbytes_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the configuration with which transformers quantises a model; None for no quantisation."""
    from transformers import BitsAndBytesConfig

    if quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=quantization != "int8",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type="fp4" if quantization == "fp4" else "nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_layers(
    network: PreTrainedModel,
    folder: Path,
    quantization: Quantization,
    dtype: torch.dtype,
    resident: bool | None,
) -> dict[str, int]:
    """Make every quantised layer compute with the values of its codes, and check that it does.

    bitsandbytes on a CPU has two silent faults. After a forward without gradients it repacks a layer's codes,
    and a later backward through that layer loses the input's gradient. And its row-wise kernel reads some
    shapes wrongly (160 columns: relative error 0.25 instead of 0.09), though the codes are right and the
    same kernel reads them well as one long row. A layer whose values are kept dequantised has neither fault.
    Returns the number of weights of each, by its name.
    """
    layers = dict(quantised_layers(network))
    sizes = {name: layer.in_features * layer.out_features for name, layer in layers.items()}
    resident = _resident(network, sizes, dtype) if resident is None else resident
    seen: dict[tuple[int, int], bool] = {}
    for name, layer in layers.items():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
        shape = (layer.out_features, layer.in_features)
        if shape not in seen:
            _check_error(name, layer, folder, quantization)
            seen[shape] = not resident and _kernel_agrees(layer)
        if not seen[shape]:
            network.set_submodule(name, _plain(layer, dtype))
    return sizes


def _resident(network: PreTrainedModel, sizes: Mapping[str, int], dtype: torch.dtype) -> bool:
    """Return whether there is room on this CPU for so many dequantised weights."""
    free = psutil.virtual_memory().available * RESIDENT_SHARE
    return network.device.type == "cpu" and sum(sizes.values()) * dtype.itemsize < free


def quantised_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that bitsandbytes computes, with their names."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    for name, module in network.named_modules():
        if isinstance(module, (Linear4bit, Linear8bitLt)):
            yield name, module


def count(network: PreTrainedModel) -> int:
    """Return the number of a network's weights, two of which four bits pack into a byte."""
    plain = sum(weight.numel() for weight in network.parameters() if weight.is_floating_point())
    return plain + sum(layer.in_features * layer.out_features for _, layer in quantised_layers(network))


def quantise_experts(
    network: PreTrainedModel, quantization: Quantization, dtype: torch.dtype, resident: bool | None
) -> dict[str, int]:
    """Quantise the stacked experts of a mixture, which transformers leaves as they are; return their sizes.

    bitsandbytes 0.50 quantises stacked weights to four bits only; with int8 they stay in full precision.
    """
    if quantization not in FOUR_BITS:
        return {}
    from bitsandbytes import functional
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    experts = experts_of(network)
    sizes = {name: weight.numel() for name, weight in experts.items()}
    resident = _resident(network, sizes, dtype) if resident is None else resident
    for name, weight in experts.items():
        how = {"compress_statistics": True, "quant_type": quantization}
        codes, state = functional.quantize_4bit(weight.data, **how)
        values = _dequantised(codes, state).to(dtype)
        _check_near(name, values, weight.data, quantization, partial(_nearest, weight.data, state))
        module, _, own = name.rpartition(".")
        parent = network.get_submodule(module)
        if not resident:
            replace_parameter_4bit(parent, own, **how)
            if _error(getattr(parent, own), values) < 0.01:
                continue
            remove_parametrizations(parent, own)
            parent.register_parameter(own, nn.Parameter(values, requires_grad=False))
        weight.data = values
    return sizes


def dequantised(layer: Any) -> Tensor:
    """Return the weight [out, in] that a quantised layer's codes stand for, whatever its shape."""
    weight = layer.weight
    if weight.dtype == torch.int8:
        scale = weight.SCB if layer.state.SCB is None else layer.state.SCB
        return weight.data.float() * (scale.unsqueeze(1) / 127)
    return _dequantised(weight.data, weight.quant_state)


def _dequantised(codes: Tensor, state: Any) -> Tensor:
    from bitsandbytes import functional

    state = copy.copy(state)
    shape, state.shape = state.shape, torch.Size((1, state.shape.numel()))
    return functional.dequantize_4bit(codes, state).view(shape)


def _plain(layer: Any, dtype: torch.dtype) -> nn.Linear:
    """A linear layer of full precision that holds the quantised layer's values."""
    weight = dequantised(layer).to(dtype)
    with torch.device("meta"):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.to(dtype), requires_grad=False)
    return plain.train(layer.training)


def _kernel_agrees(layer: Any) -> bool:
    """Whether the layer's own kernels, on a few rows and as a whole, give the dequantised values."""
    from bitsandbytes import functional

    right = dequantised(layer)
    if right.dtype == torch.float32 and layer.weight.dtype == torch.int8:
        return True  # quantises its inputs too: no equality to ask for
    whole = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    rows = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0)).to(right)
    with torch.no_grad():
        got, wanted = layer(rows), nn.functional.linear(rows, right, layer.bias)
    return _error(whole, right) < 0.01 and _error(got, wanted) < 0.02


def _check_error(name: str, layer: Any, folder: Path, quantization: Quantization) -> None:
    """Raise ModelError where a layer's dequantised weight is not as near the file's as it can be."""
    original = _original(name, layer, folder)
    if original is None:  # held under another name, or several layers in one tensor: nothing to compare with
        return
    _check_near(name, dequantised(layer).cpu(), original, quantization, lambda: _rounded(original, layer))


def _check_near(
    name: str, found: Tensor, original: Tensor, quantization: Quantization, best: Callable[[], Tensor]
) -> None:
    error = _error(found, original)
    # Weights with very heavy tails are served worse by any quantiser, and that is not a fault.
    if error > ERROR_LIMIT[quantization] and error > 1.1 * _error(best(), original):
        raise ModelError(
            Problem(
                f"the {quantization} weights of shape {list(original.shape)} differ from the original by "
                f"{error:.2f} (relative), above {ERROR_LIMIT[quantization]}",
                "use another quantization",
                field=name,
            )
        )


def _error(got: Tensor, wanted: Tensor) -> float:
    """The relative distance of two tensors, 0 for equal ones."""
    wanted = wanted.float()
    return ((got.float() - wanted).norm() / wanted.norm().clamp_min(1e-12)).item()


def _original(name: str, layer: Any, folder: Path) -> Tensor | None:
    """The layer's weight [out, in] in float32 as the file has it; None where the file has no such tensor."""
    names = f"{name}.weight", f"{name.partition('.')[2]}.weight"
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in set(names) & set(file.keys()):
                tensor = file.get_tensor(key).float()
                tensor = tensor if layer.source_cls is nn.Linear else tensor.T
                return tensor if tuple(tensor.shape) == (layer.out_features, layer.in_features) else None
    return None


def _rounded(weight: Tensor, layer: Any) -> Tensor:
    """`weight` [out, in] rounded to the layer's codes in plain torch: what a faultless quantiser gives."""
    if layer.weight.dtype == torch.int8:
        scale = weight.abs().amax(1, keepdim=True) / 127
        return (weight / scale).round() * scale
    return _nearest(weight, layer.weight.quant_state)


def _nearest(weight: Tensor, state: Any) -> Tensor:
    """Round `weight` to the codes of a 4-bit state in plain torch."""
    codes = state.code.to(weight.device).sort().values
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % state.blocksize)).view(
        -1, state.blocksize
    )
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    nearest = codes[torch.bucketize(blocks / scale, (codes[1:] + codes[:-1]) / 2)]
    return (nearest * scale).flatten()[: weight.numel()].view_as(weight)
