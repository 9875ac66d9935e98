"""A model without its weights: how many it has, and which layers are quantised and adapted, by its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignbench.models.weights.counts import Weights
    from alignbench.models.weights.lora_config import Targets
    from alignbench.models.weights.quantization import Quantization


def kind_of(folder: Path) -> str:
    """Return the class of transformers that loads a model folder: that of language models, or of multimodal ones."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LANGUAGE
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MULTIMODAL,
    )

    name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    multimodal = name in MULTIMODAL and name not in LANGUAGE
    return "AutoModelForImageTextToText" if multimodal else "AutoModelForCausalLM"


def targets_in(folder: Path, quantization: Quantization, wanted: str | list[str]) -> Targets:
    """Return what gets an adapter in a model of this configuration."""
    import torch

    from alignbench.models.weights.lora_config import targets_of
    from alignbench.models.weights.shapes import Shapes

    try:
        with torch.device("meta"), Shapes():
            return targets_of(_build(folder, quantization), wanted)
    except (NotImplementedError, RuntimeError):  # a model that asks for the values of a whole list
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
            return targets_of(_build(folder, quantization), wanted)


def weights(folder: Path, quantization: Quantization, wanted: str | list[str]) -> Weights:
    """Return how many weights a model of this configuration has, and what would be done with them."""
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    from alignbench.models.weights.counts import Weights
    from alignbench.models.weights.lora_config import experts_of
    from alignbench.models.weights.quantization import FOUR_BITS, bitsandbytes_config, count, quantised_layers

    adapted = targets_in(folder, quantization, wanted).weights
    with torch.device("meta"):
        model = _build(folder, quantization)
    total, quantised = count(model), dict[str, int]()
    config = bitsandbytes_config(quantization, torch.bfloat16)
    if config is not None:
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
        quantizer.preprocess_model(model=model, dtype=torch.bfloat16, device_map={"": "cpu"})
        quantised = {name: layer.in_features * layer.out_features for name, layer in quantised_layers(model)}
    if quantization in FOUR_BITS:
        quantised |= {name: weight.numel() for name, weight in experts_of(model).items()}
    return Weights(total, quantised, adapted)


def _build(folder: Path, quantization: Quantization) -> PreTrainedModel:
    import torch
    import transformers
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    from alignbench.models import stack

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if quantization != "none":
        stack.mark_quantised(config)
    with no_init_weights():
        # bfloat16: the kernels of experts that are asked for shapes know no other.
        model = getattr(transformers, kind_of(folder)).from_config(config, dtype=torch.bfloat16).eval()
    model.tie_weights()
    return model
