"""A frozen base model and the LoRA adapters on it, each of them a policy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import torch
from torch import nn

from alignbench.errors import ModelError, Problem
from alignbench.models.forward import lora_forward
from alignbench.models.forward.network import Network
from alignbench.models.policy import ModelPolicy
from alignbench.models.trials import find_paths
from alignbench.models.weights.counts import Weights
from alignbench.models.weights.hub import obtain
from alignbench.models.weights.lora_config import WEIGHTS, check_dropout, read_config, shape_of, targets_of
from alignbench.recipe import schema

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class Base(Network):
    """A frozen network that policies share.

    Adapters hold float32 weights and are switched without touching `requires_grad`: peft's own switch freezes
    the adapter that was active, and a backward pass that is still to come would then give it no gradient.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        adapter: schema.Adapter | None = None,
        fingerprint: str = "",
        total: int | None = None,
        quantised: Mapping[str, int] | None = None,
    ):
        super().__init__(model, tokenizer, fingerprint=fingerprint)
        self.adapter = schema.Adapter() if adapter is None else adapter
        self.targets = targets_of(model, self.adapter.targets)
        check_dropout(self.targets, self.adapter.dropout)
        self.weights = Weights(total or model.num_parameters(), quantised or {}, self.targets.weights)
        self.peft: PeftModel | None = None
        """The same network as peft wraps it; None before the first adapter."""
        self._policies: dict[str, ModelPolicy] = {}
        # Now, without an adapter: inside a training step its dropout would be drawn, and a resumed training would
        # draw it again.
        self.paths = find_paths(self)
        self._count = 0

    @property
    def adapters(self) -> frozenset[str]:
        """The names, to peft, of all adapters on this base."""
        return frozenset(self._policies)

    def reactivate(self) -> None:
        """Let the layers compute with the adapter that is active here, whatever adapter peft has set meanwhile."""
        self._activate(self._active)

    def record(self) -> dict[str, Any]:
        """Return what was found at load: the `shares` of the `weights`, the fast `paths`, and what is `slower`."""
        return {**self.weights.record(), "paths": asdict(self.paths), "slower": self.paths.slower()}

    def policy(self) -> ModelPolicy:
        """Return the untouched base, without an adapter."""
        return ModelPolicy(self, None)

    def add_adapter(
        self,
        name: str,
        *,
        seed: int,
        like: ModelPolicy | None = None,
        trainable: bool = True,
        dropout: bool = True,
    ) -> ModelPolicy:
        """Return a new adapter that computes what `like` computes; without `like`, what the base computes.

        A fresh adapter is drawn from `seed` alone: A as in the LoRA paper's code, B zero.
        """
        from peft import LoraConfig

        if like is not None and like.base is not self:
            raise ModelError(
                f"{like.name} is another model, which no adapter on this base can equal",
                "name a policy of this run",
            )
        shape, source = self.adapter, None
        if like is not None and like.adapter is not None and like.lora_config is not None:
            source, config = like.tensors(), LoraConfig(**shape_of(like.lora_config))
        else:
            config = LoraConfig(
                r=shape.rank,
                lora_alpha=shape.alpha,  # pyright: ignore[reportArgumentType]
                lora_dropout=shape.dropout,
                target_modules=list(self.targets.layers),
                target_parameters=list(self.targets.experts),
            )
        if not dropout:
            config.lora_dropout = 0.0
        policy = self._attach(name, config, trainable=trainable)
        generator = torch.Generator().manual_seed(seed)
        state = policy.tensors()
        with torch.no_grad():
            if source is not None:
                for key, tensor in state.items():
                    tensor.copy_(source[key])
            else:
                for key, tensor in state.items():
                    drawn = torch.zeros(tensor.shape)
                    if ".lora_A." in key:
                        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                    tensor.copy_(drawn)
        return policy

    def load_adapter(self, source: str | Path, name: str, *, trainable: bool = False) -> ModelPolicy:
        """Return the LoRA adapter of a peft folder or hub id, of any rank.

        Raises ModelError where it does not fit this base, or where one of its tensors would be left unused.
        """
        from safetensors.torch import load_file

        folder = obtain(str(source))
        config = read_config(folder)
        try:
            weights = load_file(folder / WEIGHTS)
        except (OSError, ValueError) as error:
            raise ModelError(
                Problem(f"the adapter's weights cannot be read: {error}", file=str(folder / WEIGHTS))
            ) from error
        policy = self._attach(name, config, trainable=trainable)
        state = policy.tensors()
        wrong = sorted(set(weights) ^ set(state)) or sorted(
            k for k in state if weights[k].shape != state[k].shape
        )
        if wrong:
            self.drop(policy)
            raise ModelError(
                Problem(
                    f"the adapter does not fit this model: {len(wrong)} tensors differ, first {wrong[0]}",
                    "it must be a LoRA adapter of linear layers, trained on this base",
                    file=str(folder),
                )
            )
        with torch.no_grad():
            for key, tensor in state.items():
                tensor.copy_(weights[key])
        return policy

    def drop(self, policy: ModelPolicy) -> None:
        """Free a policy's adapter; the base and the other adapters stay as they are."""
        name = policy.adapter
        if name is None or name not in self._policies:
            return
        if self._active == name:
            raise ValueError("a policy cannot be dropped while it is in use")
        del self._policies[name]
        assert self.peft is not None
        self.peft.delete_adapter(name)
        # peft goes on asking for the first adapter it was given.
        self.peft.active_adapter = next(iter(self._policies), name)
        self._activate(self._active)
        policy.adapter = None

    def drop_all(self, adapters: Collection[str]) -> None:
        """Free the policies whose adapters have these names to peft, where they are still there."""
        for policy in [self._policies[name] for name in adapters if name in self._policies]:
            self.drop(policy)

    def _attach(self, name: str, config: LoraConfig, *, trainable: bool) -> ModelPolicy:
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer

        # peft finds an adapter's tensors by searching for its name in theirs: no name may be part of another.
        inner = f"policy_{self._count:04d}"
        self._count += 1
        # What peft draws here is overwritten; the caller's random state is not its to use.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), catch_warnings():
            simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers for a property of an old name
            try:
                if self.peft is None:
                    self.peft = PeftModel(self.model, config, adapter_name=inner)
                else:
                    self.peft.add_adapter(inner, config)
                    self.peft.active_adapter = inner
            except ValueError as error:
                raise ModelError(
                    f"the adapter {name} does not fit this model: {error}", "name one that was trained on it"
                ) from error
        modules = self.model.named_modules()
        self.lora_layers = {name: module for name, module in modules if isinstance(module, LoraLayer)}
        for layer in self.lora_layers.values():
            lora_forward.install(layer)
        policy = ModelPolicy(self, inner, name=name, config=config, trainable=trainable)
        self._policies[inner] = policy
        for tensor in policy.tensors().values():
            tensor.data = tensor.data.float()
        for other in self._policies.values():
            for tensor in other.tensors().values():
                tensor.requires_grad_(other.trainable)
        self._activate(self._active)
        return policy
