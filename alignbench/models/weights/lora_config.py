"""What a plain LoRA adapter is: its shape, its target layers, and the description that peft writes for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignbench.errors import ModelError, Problem
from alignbench.models.weights.files import ADAPTER, read_adapter

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"

FIELDS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def shape_of(config: LoraConfig) -> dict[str, Any]:
    """Return the fields that determine what a plain LoRA adapter computes; a file may set no others."""
    shape = {name: getattr(config, name) for name in FIELDS}
    targets = config.target_modules
    shape["target_modules"] = targets if isinstance(targets, str) else sorted(targets or ())
    if config.target_parameters:
        shape["target_parameters"] = sorted(config.target_parameters)
    return shape


def read_config(folder: Path) -> LoraConfig:
    """Return the adapter's description in a peft folder. Raises ModelError where it is not plain LoRA."""
    from peft import LoraConfig

    found = read_adapter(folder)
    known = {
        name: found[name]
        for name in (*FIELDS, "target_modules", "target_parameters")
        if found.get(name) is not None
    }
    return LoraConfig(**{**known, "lora_dropout": float(known.get("lora_dropout", 0.0))})


@dataclass(frozen=True)
class Targets:
    """What gets an adapter, in the terms of peft."""

    layers: tuple[str, ...]
    """Linear layers: the ends of their names, or their whole names where an end would name others too."""
    experts: tuple[str, ...] = ()
    """Stacked weights of experts, [experts, ., .]: the whole names of the parameters."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """The number of weights of each layer and stack, by its whole name."""


def targets_of(model: PreTrainedModel, wanted: str | list[str]) -> Targets:
    """Return the linear layers and stacked experts that get an adapter: those that text goes through.

    Never the head, and no tower of a multimodal model. A layer that is not called as a layer (a state-space mixer
    reads the weights of some) would get no gradient, and so gets no adapter. Raises ModelError for a wanted name
    that fits none.
    """
    layers, experts = _layers(model), experts_of(model)
    if wanted != "all-linear":
        ends = {
            name: [full for full in (*layers, *experts) if f".{full}".endswith(f".{name}")] for name in wanted
        }
        if missing := [name for name, found in ends.items() if not found]:
            known = sorted({full.rpartition(".")[2] for full in (*layers, *experts)})
            raise ModelError(
                Problem(
                    f"{', '.join(missing)}: no layer of this name can have an adapter",
                    f"name some of {', '.join(known)}, or write all-linear",
                    field="model.adapter.targets",
                )
            )
        chosen = {full for found in ends.values() for full in found}
        _check_parts(list(ends), chosen, experts)
        layers = {full: layer for full, layer in layers.items() if full in chosen}
        experts = {full: weight for full, weight in experts.items() if full in chosen}
    if not layers and not experts:
        raise ModelError(
            f"a {type(model).__name__} has no linear layer that can have an adapter",
            "use a model with attention or feed-forward layers",
        )
    sizes = {name: size_of(layer) for name, layer in layers.items()}
    sizes |= {name: weight.numel() for name, weight in experts.items()}
    return Targets(_shortest(model, layers), tuple(experts), sizes)


def _check_parts(wanted: list[str], chosen: set[str], experts: Mapping[str, Any]) -> None:
    """Refuse a name that is part of a fused weight of the experts, and would reach a shared expert alone.

    Recipes for dense models name gate_proj and up_proj, which routed experts hold as one: gate_up_proj.
    """
    fused = sorted({full.rpartition(".")[2] for full in experts if full not in chosen})
    for name in wanted:
        part = name.removesuffix("_proj")
        if whole := [one for one in fused if part in one.removesuffix("_proj").split("_")]:
            raise ModelError(
                Problem(
                    f"{name} is a layer of the shared expert alone: the other experts hold theirs in {whole[0]}",
                    f"name {whole[0]} too, or write all-linear",
                    field="model.adapter.targets",
                )
            )


def check_dropout(targets: Targets, dropout: float) -> None:
    """Raise ModelError where a recipe's adapter has dropout on weights for which peft has none."""
    if dropout and targets.experts:
        raise ModelError(
            Problem(
                "the experts of this model are stacked, and an adapter on them can have no dropout",
                "set it to 0, or name other layers in model.adapter.targets",
                field="model.adapter.dropout",
            )
        )


def size_of(layer: Any) -> int:
    """Return the number of weights of a linear layer, also of a quantised one, which packs two in a byte."""
    return layer.in_features * layer.out_features if hasattr(layer, "in_features") else layer.weight.numel()


def experts_of(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the stacked weights of a mixture's experts, [experts, ., .], by their names."""
    decoder, found = model.get_decoder(), {}
    for name, module in model.named_modules():
        if not hasattr(module, "num_experts") or not _inside(module, decoder):
            continue
        for own, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3 and len(weight) == module.num_experts:
                found[f"{name}.{own}"] = weight
    return found


def _layers(model: PreTrainedModel) -> dict[str, Any]:
    """Return the linear layers of the text decoder that are called as layers, by their names."""
    from transformers.pytorch_utils import Conv1D

    kinds = (nn.Linear, Conv1D)  # the quantised layers of bitsandbytes are kinds of nn.Linear
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    modules = dict(model.named_modules())
    text = set(decoder.modules())
    layers = {
        name: module
        for name, module in modules.items()
        if isinstance(module, kinds) and module in text and module is not head
    }

    def kind(name: str) -> tuple[type, str]:
        parent, _, own = name.rpartition(".")
        return type(modules[parent]), own

    called: set[tuple[type, str]] = set()

    def note(name: str, output: Any) -> None:
        # A router is a kind of linear layer too, and returns its choice of experts with the product.
        if isinstance(output, Tensor):
            called.add(kind(name))

    hooks = [
        layer.register_forward_hook(lambda module, given, output, name=name: note(name, output))
        for name, layer in layers.items()
    ]
    ids = torch.arange(1, 9, device=model.device)[None] % model.config.get_text_config().vocab_size
    try:
        with torch.no_grad():
            decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: layer for name, layer in layers.items() if kind(name) in called}
    found = {
        name: layer for name, layer in found.items() if not _fused(modules[name.rpartition(".")[0]], name)
    }
    if not experts_of(model):
        return found
    ends = {name.rpartition(".")[2] for name in found}
    renamed = {end for end in ends if _names_experts(model, end)}
    return {name: layer for name, layer in found.items() if name.rpartition(".")[2] not in renamed}


def _fused(parent: nn.Module, name: str) -> bool:
    """Return whether the fused kernel of a state-space mixer reads a layer's weight, past its adapter."""
    return name.endswith(".out_proj") and hasattr(parent, "A_log") and hasattr(parent, "D")


def _names_experts(model: PreTrainedModel, end: str) -> bool:
    """Return whether peft takes a layer's name for one of an expert, as it was called before experts were stacked.

    peft 0.21 would put the adapter on the experts instead, whatever other layer has the name.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=[end])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:
        return True
    return set(config.target_modules or ()) != {end}


def _shortest(model: PreTrainedModel, layers: Mapping[str, Any]) -> tuple[str, ...]:
    """Return names that peft finds these layers by, and no other module."""
    for parts in (1, 2):
        ends = {".".join(name.split(".")[-parts:]) for name in layers}
        found = {name for name, _ in model.named_modules() if ".".join(name.split(".")[-parts:]) in ends}
        if found == set(layers):
            return tuple(sorted(ends))
    return tuple(layers)


def _inside(module: nn.Module, decoder: nn.Module) -> bool:
    return any(module is one for one in decoder.modules())


def write_config(config: LoraConfig, folder: Path) -> None:
    """Write the description of an adapter that peft reads."""
    kind = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "base_model_name_or_path": None}
    text = json.dumps({**kind, **shape_of(config), "inference_mode": True}, indent=2, sort_keys=True)
    (folder / ADAPTER).write_text(text + "\n", encoding="utf-8")
