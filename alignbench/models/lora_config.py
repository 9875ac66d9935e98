"""What a plain LoRA adapter is: its shape, its target layers, and the description that peft writes for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from alignbench.errors import ModelError, Problem

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

FIELDS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def shape_of(config: LoraConfig) -> dict[str, Any]:
    """Return the fields that determine what a plain LoRA adapter computes; a file may set no others."""
    shape = {name: getattr(config, name) for name in FIELDS}
    targets = config.target_modules
    return shape | {"target_modules": targets if isinstance(targets, str) else sorted(targets or ())}


def read_config(folder: Path) -> LoraConfig:
    """Return the adapter's description in a peft folder. Raises ModelError where it is not plain LoRA."""
    from peft import LoraConfig

    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            Problem(
                f"the adapter's description cannot be read: {error}", "give a peft folder", file=str(path)
            )
        ) from error
    unfit = [f"peft_type {found.get('peft_type')}"] if found.get("peft_type") != "LORA" else []
    unfit += [
        key
        for key in ("use_dora", "modules_to_save", "layer_replication", "trainable_token_indices")
        if found.get(key)
    ]
    if found.get("bias", "none") != "none":
        unfit.append(f"bias {found['bias']}")
    if unfit:
        raise ModelError(
            Problem(
                f"only plain LoRA adapters can be loaded; this one has {', '.join(unfit)}", file=str(path)
            )
        )
    known = {name: found[name] for name in (*FIELDS, "target_modules") if found.get(name) is not None}
    return LoraConfig(**{**known, "lora_dropout": float(known.get("lora_dropout", 0.0))})


def targets_of(model: PreTrainedModel, wanted: str | list[str]) -> list[str]:
    """Return the last parts of the names of the linear layers that get an adapter; the head never does."""
    if wanted != "all-linear":
        return list(wanted)
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.base_model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }
    return sorted(names)


def write_config(config: LoraConfig, folder: Path) -> None:
    """Write the description of an adapter that peft reads."""
    kind = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "base_model_name_or_path": None}
    text = json.dumps({**kind, **shape_of(config), "inference_mode": True}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
