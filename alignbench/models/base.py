"""One frozen base in memory, and the policies that are adapters on it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from alignbench import heartbeat
from alignbench.api.config import Sampling
from alignbench.api.policy import Answer, Can, TokenScores
from alignbench.errors import ModelError, Problem
from alignbench.models import Generator
from alignbench.models.meter import Meter
from alignbench.models.scoring import score
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


class Base:
    """A frozen network and the LoRA adapters on it, of which at most one is active.

    Adapters hold float32 weights and are switched without touching `requires_grad`: peft's own switch freezes
    the adapter that is left, and a backward that is still to come would then give it no gradient.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        adapter: schema.Adapter | None = None,
        fingerprint: str = "",
    ):
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.adapter = schema.Adapter() if adapter is None else adapter
        self.fingerprint = fingerprint
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.generator = _default_generator()
        self.generated = 0
        """Tokens drawn so far, under any policy."""
        self.meter: Meter = Meter()
        """Whoever keeps an account of what is computed here."""
        self.answered: Callable[[int], None] = lambda count: None
        """Told how many answers have just ended, whenever some do: whoever waits for them may show it."""
        self.vocabulary = len(tokenizer)
        """Token ids below this have a token; logits beyond it belong to a padded vocabulary."""
        self.targets = _targets(model, self.adapter.targets)
        model.base_model.register_forward_pre_hook(heartbeat.send)
        self.peft: PeftModel | None = None
        """The same network as peft sees it; None before the first adapter."""
        self._positions = "position_ids" in signature(type(model.base_model).forward).parameters
        config = model.config.get_text_config()
        shapes = ("logit_scale", "logits_scaling", "final_logit_softcapping")
        self._shaping = [getattr(config, name, None) for name in shapes]
        self._policies: dict[str, ModelPolicy] = {}
        self._layers: list[LoraLayer] = []
        self._active: str | None = None
        self._count = 0
        _check_vocabulary(self)
        _check_head(self)

    # --- policies -------------------------------------------------------------------------------------------

    def policy(self) -> ModelPolicy:
        """The untouched base: no adapter."""
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
            raise ModelError(f"{like.name} is another model, which no adapter on this base can equal")
        shape = self.adapter
        if like is not None and like.adapter is not None:
            config = LoraConfig(**_shape(like._config))
        else:
            config = LoraConfig(
                r=shape.rank,
                lora_alpha=shape.alpha,  # pyright: ignore[reportArgumentType]
                lora_dropout=shape.dropout,
                target_modules=list(self.targets),
            )
        if not dropout:
            config.lora_dropout = 0.0
        policy = self._attach(name, config, trainable=trainable)
        generator = torch.Generator().manual_seed(seed)
        state = policy.tensors()
        with torch.no_grad():
            if like is not None and like.adapter is not None:
                source = like.tensors()
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

        from alignbench.models.loading import obtain

        folder = obtain(str(source))
        config = _read_config(folder)
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

    def using(self, policy: ModelPolicy) -> AbstractContextManager[None]:
        """Compute as `policy` does inside the block, and as before after it.

        A backward pass may follow inside the block or after it, for several policies at once.
        """
        return self._active_inside(policy.adapter)

    def checkpointing(self, on: bool) -> None:
        """Switch the recomputation of activations in the backward pass.

        Each layer is recomputed under the adapter of its forward, whichever is active by then.
        """
        if not on:
            self.model.activation_checkpointing_disable()
            return
        self.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": self._recompute}
        )

    # --- the network ----------------------------------------------------------------------------------------

    @property
    def head(self) -> nn.Linear:
        """The language-model head: [..., hidden] to [..., vocabulary]."""
        return self.model.get_output_embeddings()  # pyright: ignore[reportReturnType]

    def arithmetic(self) -> AbstractContextManager:
        """The precision of a forward: float32 adapters compute in the base's dtype."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def hidden(self, ids: Tensor, mask: Tensor | None = None, **more: Any) -> Tensor:
        """Return the last hidden states [B, T, hidden] of token ids [B, T], by default without a cache.

        `mask` [B, T], 1 on tokens, is needed where padding is on the left; where a cache in `more` holds P
        positions it covers them too, [B, P + T]. Positions count from the first token.
        """
        if mask is not None:
            more["attention_mask"] = mask
            if self._positions:
                more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        return self.model.base_model(input_ids=ids, **{"use_cache": False, **more}).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., vocabulary] of hidden states [..., hidden]."""
        logits = self.head(hidden.to(self.head.weight.dtype)).float()
        factor, divisor, cap = self._shaping
        if factor:
            logits = logits * factor
        if divisor:
            logits = logits / divisor
        if cap:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def pad(self, sequences: Many[Many[int]], side: str) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, int64 [B, T], padded on `side`, on this base's device."""
        width = max(map(len, sequences))
        ids = torch.zeros(
            len(sequences), width, dtype=torch.long
        )  # no token looks at padding: any id will do
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            part = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
            ids[row, part] = torch.tensor(sequence, dtype=torch.long)
            mask[row, part] = 1
        return ids.to(self.device), mask.to(self.device)

    def checksum(self) -> str:
        """Return a digest of the frozen weights as they lie in memory: the proof that nothing changed them.

        Each tensor is summed where it lies, byte by byte: proof against accident, not against malice.
        """
        sums = {}
        for name, tensor in sorted(self.model.state_dict().items()):
            if ".lora_" not in name and tensor.numel():
                raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
                sums[name.replace(".base_layer.", ".")] = int(raw.sum(dtype=torch.int64))
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()

    # --- inside ---------------------------------------------------------------------------------------------

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
                raise ModelError(f"the adapter {name} does not fit this model: {error}") from error
        self._layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        policy = ModelPolicy(self, inner, name=name, config=config, trainable=trainable)
        self._policies[inner] = policy
        for tensor in policy.tensors().values():
            tensor.data = tensor.data.float()
        for other in self._policies.values():
            for tensor in other.tensors().values():
                tensor.requires_grad_(other.trainable)
        self._activate(self._active)
        return policy

    def _activate(self, name: str | None) -> None:
        self._active = name
        for layer in self._layers:
            layer._disable_adapters = name is None
            layer._active_adapter = [] if name is None else [name]

    @contextmanager
    def _active_inside(self, name: str | None) -> Iterator[None]:
        before = self._active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    def _recompute(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """For one checkpoint: the contexts of its forward, which is now, and of its recomputation."""
        return nullcontext(), self._active_inside(self._active)


class ModelPolicy:
    """A base with one of its adapters, or with none."""

    def __init__(
        self,
        base: Base,
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
        self._config = config
        self.can: frozenset[Can] = frozenset({"answer", "logprobs", "adapter"})

    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        begun = time.perf_counter()
        made = self.base.generator.generate(self, self.tokenised(prompts), sampling, key, samples=samples)
        tokens = sum(len(answer.ids) for answer in made)
        self.base.generated += tokens
        self.base.meter.answered(prompts, tokens, time.perf_counter() - begun)
        return made

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the base."""
        return self.base.tokenizer

    def logprobs(self, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
        self.base.meter.scored(len(sequences))
        return score(self, sequences, entropy=entropy)

    def hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the last hidden states [B, T, hidden] under this policy; see `Base.hidden`."""
        with self.base.using(self):
            return self.base.hidden(ids, mask)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable weights, float32, in a fixed order; none for the base or a frozen adapter."""
        return [tensor for tensor in self.tensors().values() if tensor.requires_grad]

    def fingerprint(self) -> str:
        """The sha256 of what this policy computes: the base's fingerprint and the adapter's weights."""
        digest = hashlib.sha256(self.base.fingerprint.encode())
        if self._config is not None:
            digest.update(json.dumps(_shape(self._config), sort_keys=True).encode())
        for name, tensor in self.tensors().items():
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write a peft folder that `Base.load_adapter`, and peft anywhere, read; the base writes nothing."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        if self._config is None:
            return
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self.tensors().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "bias": "none",
            "base_model_name_or_path": None,
        }
        text = json.dumps(
            {**config, **_shape(self._config), "inference_mode": True}, indent=2, sort_keys=True
        )
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    def tokenised(self, prompts: Many[Prompt]) -> list[Prompt]:
        """The prompts with their token ids: a method may ask what no row holds."""
        if all(prompt.prompt_ids for prompt in prompts):
            return list(prompts)
        from alignbench.data.tokens import encode, render

        texts = [render(self.base.tokenizer, prompt.prompt, answer=True) for prompt in prompts]
        ids = encode(self.base.tokenizer, texts)
        return [
            replace(prompt, prompt_ids=prompt.prompt_ids or new)
            for prompt, new in zip(prompts, ids, strict=True)
        ]

    def tensors(self) -> dict[str, nn.Parameter]:
        """This adapter's weights by the names that peft gives them in a file."""
        if self.adapter is None:
            return {}
        ending = f".{self.adapter}.weight"
        return {
            f"base_model.model.{name.removesuffix(ending)}.weight": tensor
            for name, tensor in self.base.model.named_parameters()
            if name.endswith((f".lora_A{ending}", f".lora_B{ending}"))
        }


_SHAPE = ("r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def _shape(config: LoraConfig | None) -> dict[str, Any]:
    """The fields that say what a plain LoRA adapter computes; a file may set no others."""
    assert config is not None
    shape = {name: getattr(config, name) for name in _SHAPE}
    targets = config.target_modules
    return shape | {"target_modules": targets if isinstance(targets, str) else sorted(targets or ())}


def _read_config(folder: Path) -> LoraConfig:
    from peft import LoraConfig

    path = folder / CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            Problem(
                f"the adapter's description cannot be read: {error}", "give a peft folder", file=str(path)
            )
        ) from error
    unfit = [f"peft_type {said.get('peft_type')}"] if said.get("peft_type") != "LORA" else []
    unfit += [
        key
        for key in ("use_dora", "modules_to_save", "layer_replication", "trainable_token_indices")
        if said.get(key)
    ]
    if said.get("bias", "none") != "none":
        unfit.append(f"bias {said['bias']}")
    if unfit:
        raise ModelError(
            Problem(
                f"only plain LoRA adapters can be loaded; this one has {', '.join(unfit)}", file=str(path)
            )
        )
    known = {name: said[name] for name in (*_SHAPE, "target_modules") if said.get(name) is not None}
    return LoraConfig(**{**known, "lora_dropout": float(known.get("lora_dropout", 0.0))})


def _targets(model: PreTrainedModel, wanted: str | list[str]) -> list[str]:
    """The names, last parts only, of the linear layers that get an adapter; the head never does."""
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


def _check_vocabulary(base: Base) -> None:
    """Refuse a tokenizer that writes ids for which the model has no embedding."""
    rows = base.model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportIndexIssue]
    if base.vocabulary > rows:
        raise ModelError(
            f"the tokenizer has {base.vocabulary} tokens, the model embeds {rows}",
            "use the tokenizer the model was trained with",
        )


def _check_head(base: Base) -> None:
    """Refuse a model whose log-probabilities are not its head applied to its last hidden states."""
    ids, mask = base.pad([[0, 1]], "right")
    with torch.no_grad():
        whole = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        parts = base.logits(base.hidden(ids, mask))
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3 * whole.abs().max().item()):
        raise ModelError(
            f"a {type(base.model).__name__} computes its logits in a way that is not known here",
            "use a causal language model whose head is one linear layer",
        )


def _default_generator() -> Generator:
    from alignbench.models.generation import TransformersGenerator

    return TransformersGenerator()
