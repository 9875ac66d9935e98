"""From a model's name to a frozen, quantised network that computes what its weights say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError

from alignbench.errors import ModelError
from alignbench.models import arithmetic, counting
from alignbench.models.base import Base
from alignbench.models.forward.memory import keep_few_kernels, keep_freed
from alignbench.models.weights.files import (
    UNDAMAGED,
    check_architecture,
    check_model,
    fingerprint,
    refuse_not_finite,
)
from alignbench.models.weights.hub import first_line, model_folder, obtain
from alignbench.models.weights.quantization import (
    Quantization,
    bitsandbytes_config,
    check_layers,
    count,
    quantise_experts,
)
from alignbench.models.weights.skeleton import kind_of
from alignbench.recipe import schema
from alignbench.store import Store, digest

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast

WORTH_KEEPING = 1 << 26
"""Bytes of weights from which quantising takes seconds (25 times the loading, measured on 170 MB)."""


@counting.trying()
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
    from alignbench.data.tokens import load_tokenizer

    folder = model_folder(model, root)
    place = _device(device)
    if place.type == "cpu":
        keep_freed()
        keep_few_kernels()
    dtype = _dtype(model.compute, place, folder)
    tokenizer = load_tokenizer(model, root)
    files = fingerprint(folder)
    check_architecture(model.id, check_model(model.id, folder))
    config = bitsandbytes_config(model.quantization, dtype)

    def load(folder: Path, config: BitsAndBytesConfig | None) -> PreTrainedModel:
        return _load(kind_of(folder), model.id, folder, config, dtype, place)

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
    _check_finite(model.id, network)
    total = count(network)
    quantised = check_layers(network, folder, model.quantization, dtype, resident)
    quantised |= quantise_experts(network, model.quantization, dtype, resident)
    key = digest([files, model.quantization, str(dtype), tokenizer.chat_template])
    return Base(network, tokenizer, adapter=model.adapter, fingerprint=key, total=total, quantised=quantised)


@counting.trying()
def load_classifier(
    id: str,
    *,
    root: Path = Path(),
    revision: str | None = None,
    quantization: Quantization = "nf4",
    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return a frozen sequence classifier, its head in full precision, and its own tokenizer.

    A local folder starts from `root`. Raises as `load_base` does.
    """
    from transformers import AutoTokenizer

    from alignbench.data.tokens import model_path

    folder = obtain(model_path(schema.Model(id=id), root), revision)
    place = _device(device)
    dtype = _dtype(compute, place, None)
    check_model(id, folder)
    config = bitsandbytes_config(quantization, dtype)
    network = _load("AutoModelForSequenceClassification", id, folder, config, dtype, place)
    check_layers(network, folder, quantization, dtype, None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{id}: its tokenizer cannot be loaded: {first_line(error)}", UNDAMAGED) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    counting.count(network)
    return network, tokenizer


def _check_finite(id: str, network: PreTrainedModel) -> None:
    """Refuse a model with a weight that is not a number, by the names of its tensors.

    Quantised weights cannot show one; `Network` finds it in the logits.
    """
    weights = network.named_parameters()
    names = [name for name, weight in weights if weight.is_floating_point() and not weight.isfinite().all()]
    refuse_not_finite(id, names)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _dtype(compute: str, device: torch.device, folder: Path | None) -> torch.dtype:
    """The precision of a model; where auto is not decided yet, that of a classifier is float32 on a CPU."""
    if compute == "auto":
        large = device.type == "cuda" or (folder is not None and not arithmetic.is_small(_config(folder)))
        compute = arithmetic.fastest() if large else "float32"
    return getattr(torch, compute)


def _config(folder: Path) -> Mapping[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


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
            UNDAMAGED,
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{id} lacks weights of a {type(network).__name__}: {', '.join(missing[:5])}",
            "they would start at random; use a checkpoint of this kind of model",
        )
    return network.requires_grad_(False).eval()
