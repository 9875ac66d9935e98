"""From a model's name to a frozen, quantised network that computes what its weights say."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alignbench.errors import ModelError, Problem
from alignbench.models.base import Base
from alignbench.models.hub import first_line, obtain
from alignbench.models.memory import keep_freed
from alignbench.recipe import schema
from alignbench.store import Store, digest, file_digest

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast

Quantization = Literal["nf4", "fp4", "int8", "none"]

ERROR_LIMIT = {"nf4": 0.12, "fp4": 0.16, "int8": 0.03}
"""Relative error of a quantised weight against the original; measured on normal weights: .092, .122, .009."""

FINGERPRINTED = (".safetensors", ".json", ".model", ".jinja", ".txt")
SHA256 = re.compile(r"[0-9a-f]{64}")

WORTH_KEEPING = 1 << 26
"""Bytes of weights from which quantising takes seconds (25 times the loading, measured on 170 MB)."""

RESIDENT_SHARE = 0.25
"""Share of the free memory that dequantised weights may take on a CPU."""


def load_base(
    model: schema.Model,
    *,
    root: Path = Path(),
    device: str = "auto",
    cache: Store | None = None,
    resident: bool | None = None,
) -> Base:
    """Return the recipe's base: quantised, frozen, without adapters.

    `resident` keeps the dequantised weights in memory instead of computing them in every forward; the numbers
    are the same. None decides: on a CPU with enough free memory, yes. `cache` keeps the quantised weights of a
    large model, so that the next process need not quantise again.
    Raises ModelError for a model that is missing, unsuitable or wrongly quantised, SecurityError for a malicious one.
    """
    from alignbench.data.tokens import load_tokenizer, model_path

    folder = obtain(model_path(model, root), model.revision)
    place = _device(device)
    if place.type == "cpu":
        keep_freed()
    dtype = _dtype(model.compute, place)
    tokenizer = load_tokenizer(model, root)
    files = fingerprint(folder)
    config = _config(model.id, folder, model.quantization, dtype)

    def load(folder: Path, config: BitsAndBytesConfig | None) -> PreTrainedModel:
        return _load("AutoModelForCausalLM", model.id, folder, config, dtype, place)

    if cache is not None and config is not None and _size(folder) >= WORTH_KEEPING:
        libraries = {name: version(name) for name in ("bitsandbytes", "transformers", "torch")}
        kept = cache.make(
            digest({"quantised": files, "config": config.to_dict(), "device": place.type, **libraries}),
            lambda work: load(folder, config).save_pretrained(work),
            producer="alignbench.models",
        )
        network = load(kept, None)
    else:
        network = load(folder, config)
    _check_quantised(network, folder, model.quantization, dtype, resident)
    key = digest([files, model.quantization, str(dtype), tokenizer.chat_template])
    return Base(network, tokenizer, adapter=model.adapter, fingerprint=key)


def load_classifier(
    id: str,
    *,
    revision: str | None = None,
    quantization: Quantization = "nf4",
    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a frozen sequence classifier, its head in full precision, and its own tokenizer.

    Raises as `load_base` does.
    """
    from transformers import AutoTokenizer

    folder = obtain(id, revision)
    place = _device(device)
    dtype = _dtype(compute, place)
    config = _config(id, folder, quantization, dtype)
    network = _load("AutoModelForSequenceClassification", id, folder, config, dtype, place)
    _check_quantised(network, folder, quantization, dtype, None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{id}: its tokenizer cannot be loaded: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    return network, tokenizer


def fingerprint(folder: Path) -> str:
    """Return the sha256 over a model folder's weights, configuration and tokenizer files."""
    return digest(
        {path.name: _file_digest(path) for path in folder.iterdir() if path.suffix in FINGERPRINTED}
    )


def _file_digest(path: Path) -> str:
    # The hub's cache names a large file by its sha256 already; a link's target is its content.
    name = path.resolve().name
    return name if path.is_symlink() and SHA256.fullmatch(name) else file_digest(path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _dtype(compute: str, device: torch.device) -> torch.dtype:
    if compute != "auto":
        return getattr(torch, compute)
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def _config(
    id: str, folder: Path, quantization: Quantization, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    from transformers import BitsAndBytesConfig

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if already := config.get("quantization_config"):
        raise ModelError(
            f"{id} is quantised already ({already.get('quant_method')})",
            "use the checkpoint in full precision: the recipe's quantization is applied to it",
        )
    if quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=quantization != "int8",
        load_in_8bit=quantization == "int8",
        bnb_4bit_quant_type="fp4" if quantization == "fp4" else "nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _load(
    kind: str,
    id: str,
    folder: Path,
    config: BitsAndBytesConfig | None,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    import transformers

    try:
        network, report = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=dtype,
            **({} if config is None else {"quantization_config": config}),
            device_map={"": str(device)},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{id} cannot be loaded: {first_line(error)}",
            "it must be a model of transformers with safetensors weights, complete and undamaged",
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{id} lacks weights of a {type(network).__name__}: {', '.join(missing[:5])}",
            "they would start at random; use a checkpoint of this kind of model",
        )
    return network.requires_grad_(False).eval()


def _check_quantised(
    network: PreTrainedModel,
    folder: Path,
    quantization: Quantization,
    dtype: torch.dtype,
    resident: bool | None,
) -> None:
    """Make every quantised layer compute with the values of its codes, and check that it does.

    bitsandbytes on a CPU has two silent faults. After a forward without gradients it repacks a layer's codes,
    and a later backward through that layer loses the input's gradient. And its row-wise kernel reads some
    shapes wrongly (160 columns: relative error 0.25 instead of 0.09), though the codes are right and the
    same kernel reads them well as one long row. A layer whose values are kept dequantised has neither fault.
    """
    layers = dict(_quantised(network))
    if not layers:
        return
    size = sum(layer.in_features * layer.out_features for layer in layers.values()) * dtype.itemsize
    if resident is None:
        free = psutil.virtual_memory().available * RESIDENT_SHARE
        resident = network.device.type == "cpu" and size < free
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


def _quantised(network: nn.Module) -> Iterator[tuple[str, Any]]:
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    for name, module in network.named_modules():
        if isinstance(module, (Linear4bit, Linear8bitLt)):
            yield name, module


def dequantised(layer: Any) -> Tensor:
    """Return the weight [out, in] that a quantised layer's codes stand for, whatever its shape."""
    from bitsandbytes import functional

    weight = layer.weight
    if weight.dtype == torch.int8:
        scale = weight.SCB if layer.state.SCB is None else layer.state.SCB
        return weight.data.float() * (scale.unsqueeze(1) / 127)
    state = copy.copy(weight.quant_state)
    shape, state.shape = state.shape, torch.Size((1, state.shape.numel()))
    return functional.dequantize_4bit(weight.data, state).view(shape)


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
    error = _error(dequantised(layer).cpu(), original)
    # Weights with very heavy tails are served worse by any quantiser, and that is no fault.
    if error > ERROR_LIMIT[quantization] and error > 1.1 * _error(_rounded(original, layer), original):
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
    state = layer.weight.quant_state
    codes = state.code.cpu().sort().values
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % state.blocksize)).view(
        -1, state.blocksize
    )
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    nearest = codes[torch.bucketize(blocks / scale, (codes[1:] + codes[:-1]) / 2)]
    return (nearest * scale).flatten()[: weight.numel()].view_as(weight)
