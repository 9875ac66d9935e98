"""A policy on a shared base: the base with one of its adapters, or with none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from alignbench.api.config import Sampling
from alignbench.api.policy import Answer, Can, LowRank, Setting, TokenScores
from alignbench.data.tokens import encode, render
from alignbench.models import meter
from alignbench.models.forward.network import Network
from alignbench.models.forward.scoring import token_scores
from alignbench.models.generation import generate
from alignbench.models.weights.lora_config import WEIGHTS, shape_of, write_config
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerFast


class ModelPolicy:
    """A base with one of its adapters, or with none; the core's `TrainablePolicy`."""

    def __init__(
        self,
        base: Network,
        adapter: str | None,
        *,
        name: str = schema.BASE,
        config: LoraConfig | None = None,
        trainable: bool = False,
    ):
        self.base = base
        self.adapter = adapter
        self.name = name
        self.trainable = trainable
        self.lora_config = config
        """The adapter's shape; None for the base."""
        self.can: frozenset[Can] = frozenset({"answer", "logprobs", "adapter"})
        self.follows: frozenset[Setting] = frozenset({"temperature", "top_k", "top_p"})

    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        meter.answered(prompts)
        return generate(self, self.tokenised(prompts), sampling, key, samples=samples)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the base."""
        return self.base.tokenizer

    def logprobs(self, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
        return token_scores(self, sequences, entropy=entropy)

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the last hidden states [B, T, hidden] under this policy; see `Base.hidden`."""
        with self.base.using(self):
            return self.base.hidden(ids, mask)

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable weights, float32, in a fixed order; none for the base or a frozen adapter."""
        return [tensor for tensor in self.tensors().values() if tensor.requires_grad]

    def fingerprint(self) -> str:
        """Return a sha256 of what this policy computes: of the base's fingerprint and the adapter's weights."""
        digest = hashlib.sha256(self.base.fingerprint.encode())
        if self.lora_config is not None:
            digest.update(json.dumps(shape_of(self.lora_config), sort_keys=True).encode())
        for name, tensor in self.tensors().items():
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write a peft folder that `Base.load_adapter`, and peft anywhere, read; the base writes nothing."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        if self.lora_config is None:
            return
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self.tensors().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        write_config(self.lora_config, folder)

    def tokenised(self, prompts: Many[Prompt]) -> list[Prompt]:
        """Return the prompts with their token ids, which prompts of a method's own may lack."""
        if all(prompt.prompt_ids for prompt in prompts):
            return list(prompts)
        texts = [render(self.base.tokenizer, prompt.prompt, answer=True) for prompt in prompts]
        ids = encode(self.base.tokenizer, texts)
        return [
            replace(prompt, prompt_ids=prompt.prompt_ids or new)
            for prompt, new in zip(prompts, ids, strict=True)
        ]

    def tensors(self) -> dict[str, nn.Parameter]:
        """Return this adapter's weights by the names that peft gives them in a file."""
        if self.adapter is None:
            return {}
        found: dict[str, nn.Parameter] = {}
        for name, module in self.base.lora_layers.items():
            layer: Any = module
            for factor in ("lora_A", "lora_B"):
                if self.adapter in getattr(layer, factor):
                    weight = getattr(layer, factor)[self.adapter].weight
                    found[f"base_model.model.{name}.{factor}.weight"] = weight
        return found

    def layers(self) -> dict[str, LowRank]:
        """Return what this adapter adds to each layer, by the layer's name in `tensors`."""
        found: dict[str, LowRank] = {}
        adapter = self.adapter or ""
        for name, module in self.base.lora_layers.items():
            if adapter not in module.lora_A:
                continue
            layer: Any = module
            down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            # peft stacks the factors of experts: A by expert and rank, B by rank and expert.
            experts = getattr(layer, "num_experts", 1)
            found[f"base_model.model.{name}"] = LowRank(
                down.view(experts, -1, down.shape[1]),
                up.view(up.shape[0], -1, experts).permute(2, 0, 1),
                float(layer.scaling[adapter]),
            )
        return found
