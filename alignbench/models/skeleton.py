"""A model without its weights: how many it has, and which layers are quantised and adapted, by its configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import ModelError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignbench.models.lora_config import Targets
    from alignbench.models.quantization import Quantization
    from alignbench.models.weights import Weights


def ask(folder: Path, quantization: Quantization, targets: str | list[str]) -> dict[str, Any]:
    """Return the number of weights of a local model, and the `shares` of `Weights`, from a process of its own.

    That process loads torch, this one does not. Empty where the model cannot be told without its weights. Raises
    ModelError where `targets` names a layer that can have no adapter.
    """
    return _ask("weights", folder, quantization, targets)


def check_targets(folder: Path, quantization: Quantization, targets: str | list[str]) -> None:
    """Raise ModelError where `targets` names a layer of a local model that can have no adapter."""
    if targets != "all-linear":
        _ask("targets", folder, quantization, targets)


def _ask(what: str, folder: Path, quantization: str, targets: str | list[str]) -> dict[str, Any]:
    given = json.dumps([what, str(folder), quantization, targets])
    command = [sys.executable, "-m", "alignbench.models.skeleton", given]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        return {}
    found = json.loads(asked.stdout.splitlines()[-1])
    if problems := found.get("problems"):
        raise ModelError([Problem(**problem) for problem in problems])
    return found


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
    from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

    from alignbench.models.lora_config import targets_of

    # Tensors of shapes without values: layers are called as in a forward, and nothing is computed.
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return targets_of(_build(folder, quantization), wanted)
    except DynamicOutputShapeException:  # experts, whose number of tokens is a value
        from torch.fx.experimental.symbolic_shapes import ShapeEnv  # takes seconds to import

        with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
            return targets_of(_build(folder, quantization), wanted)


def weights(folder: Path, quantization: Quantization, wanted: str | list[str]) -> Weights:
    """Return how many weights a model of this configuration has, and what would be done with them."""
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    from alignbench.models.loading import bitsandbytes_config
    from alignbench.models.lora_config import experts_of
    from alignbench.models.quantization import FOUR_BITS, count, quantised_layers
    from alignbench.models.weights import Weights

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

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if quantization != "none":
        config._is_quantized = True  # some state-space mixers call a layer only then
    with no_init_weights():
        # bfloat16: the kernels of experts that are asked for shapes know no other.
        model = getattr(transformers, kind_of(folder)).from_config(config, dtype=torch.bfloat16).eval()
    model.tie_weights()
    return model


def main() -> None:
    """Answer `ask` and `check_targets`: print a JSON object."""
    what, folder, quantization, wanted = json.loads(sys.argv[1])
    try:
        if what == "targets":
            targets_in(Path(folder), quantization, wanted)
            found: dict[str, Any] = {}
        else:
            one = weights(Path(folder), quantization, wanted)
            found = {"weights": one.total, "shares": one.shares()}
    except ModelError as error:
        found = {"problems": [asdict(problem) for problem in error.problems]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
