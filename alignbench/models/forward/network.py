"""One frozen network in memory: its forward, its head, and which of its adapters is active."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from alignbench import heartbeat
from alignbench.errors import ModelError
from alignbench.models import counting, stack
from alignbench.models.forward import attention, lora_forward, varlen
from alignbench.models.paths import Paths

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SUMMED = 1 << 22
"""Bytes of weights that are summed together."""


@dataclass(frozen=True)
class Kept:
    """The bytes that a forward with gradient keeps for its backward pass, besides what it keeps whatever it reads."""

    token: float
    """For each token."""
    pair: float
    """For the square of each sequence's length: the weights of attention, where they are kept."""


class Adapted(Protocol):
    """A network with one of its adapters, or with none."""

    @property
    def base(self) -> Network: ...

    @property
    def adapter(self) -> str | None: ...


class Network:
    """A frozen network with a tokenizer, of whose adapters at most one is active."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, fingerprint: str = ""):
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.answered: Callable[[int], None] = lambda count: None
        """Called with the number of answers that have just ended, for a progress display."""
        self.recomputes = False
        """Whether activations are recomputed in the backward pass."""
        self.vocabulary = len(tokenizer)
        """Token ids below this have a token; logits beyond it belong to a padded vocabulary."""
        attention.install(model)
        self.decoder: nn.Module = attention.decoder_of(model)
        """From token ids to hidden states."""
        self._given = _Given(model.base_model, self.decoder)
        self.decoder.register_forward_pre_hook(heartbeat.send)
        this = weakref.ref(self)  # a hook that holds the network would keep both in memory
        counting.count(
            model, lambda: None if (network := this()) is None else (network._active, network.lendings)
        )
        self.takes_positions: bool = "position_ids" in signature(type(self.decoder).forward).parameters
        self.context: int | None = varlen.context(model)
        """The most tokens that the model can read; None where there is no such limit."""
        self.paths: Paths = Paths()
        """Which fast paths it is computed on; the slowest, until others were tried."""
        self.kept: Kept | None = None
        """What a forward with gradient keeps, once it was measured."""
        self.lora_layers: dict[str, LoraLayer] = {}
        """The layers that adapters add to, by name."""
        self._active: str | None = None
        self.lendings = 0
        """How often another library borrowed it, each time with an adapter of the same name and its own shape."""
        _check_vocabulary(self)
        with counting.trying():
            _check_head(self)

    def using(self, policy: Adapted | None) -> AbstractContextManager[None]:
        """Compute as `policy`, or without an adapter, does inside the block, and as before after it.

        A backward pass may follow inside the block or after it, for several policies at once.
        """
        return self._active_inside(None if policy is None else policy.adapter)

    def checkpointing(self, on: bool) -> None:
        """Switch the recomputation of activations in the backward pass.

        Each layer is recomputed under the adapter of its forward, whichever is active by then.
        """
        self.recomputes = on
        if not on:
            self.model.activation_checkpointing_disable()
            return
        self.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": self._recompute}
        )

    @cached_property
    def size(self) -> int:
        """Weights that each position is multiplied with, without those of adapters."""
        return counting.weights(self.model)

    @property
    def tolerance(self) -> float:
        """How far the scores of equal policies may differ in this arithmetic."""
        return 1e-5 if self.dtype == torch.float32 else 1e-2

    @property
    def first_token(self) -> int:
        """The id that a text begins with, or the end of one where the tokenizer has no beginning."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos  # pyright: ignore[reportReturnType]

    @property
    def head(self) -> nn.Linear:
        """The language-model head: [..., hidden] to [..., vocabulary]."""
        return self.model.get_output_embeddings()  # pyright: ignore[reportReturnType]

    def arithmetic(self) -> AbstractContextManager:
        """The precision of a forward: float32 adapters compute in the base's dtype.

        Layers that compute with `lora_forward` see to that themselves; autocast would convert every activation
        and adapter again, and they would leave the work to peft.
        """
        mixes = self.device.type == "cpu" and all(map(lora_forward.mixes, self.lora_layers.values()))
        if self.dtype == torch.float32 or mixes:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def hidden(self, ids: Tensor, mask: Tensor | None = None, **more: Any) -> Tensor:
        """Return the last hidden states [B, T, hidden] of token ids [B, T], by default without a cache.

        `mask` [B, T], 1 on tokens, is needed where padding is on the left; where a cache in `more` holds P
        positions it covers them too, [B, P + T]. Positions count from the first token.
        """
        return self.forward(ids, mask, **more).last_hidden_state

    def forward(self, ids: Tensor, mask: Tensor | None = None, **more: Any) -> Any:
        """Return the whole output of the forward that `hidden` describes."""
        if mask is not None:
            more["attention_mask"] = mask
            if self.takes_positions:
                more["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        return self.decoder(input_ids=ids, **{"use_cache": False, **more})

    def plain_states(self, text: Many[int]) -> Tensor:
        """Return [tokens, hidden]: the last hidden states of one text, computed as a whole and by itself.

        This is the forward that every fast path must equal.
        """
        return self.hidden(*self.pad([text], "left"))[0]

    def trial_text(self, place: int, length: int) -> tuple[int, ...]:
        """Return one of several texts to try paths on; they differ from the first token on.

        Their tokens are from all over the vocabulary: see `attention.trial_tokens`.
        """
        step = max(1, self.vocabulary // 512)
        numbers = (7 * place + 5 * at * at + 3 * at + 1 for at in range(length))
        return tuple(step * number % self.vocabulary for number in numbers)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., vocabulary] of hidden states [..., hidden].

        They are those of the model's own forward, with whatever it does to them: scales, divisors, soft caps.
        """
        states = hidden.to(self.head.weight.dtype).reshape(-1, 1, hidden.shape[-1])
        ids = torch.zeros(len(states), 1, dtype=torch.long, device=states.device)
        name, whole = self.model.base_model_prefix, self.model.base_model
        self._given.states = states
        setattr(self.model, name, self._given)
        try:
            logits = self.model(input_ids=ids, use_cache=False).logits
        finally:
            setattr(self.model, name, whole)
            self._given.states = None
        return logits.float().view(*hidden.shape[:-1], -1)

    def pad(self, sequences: Many[Many[int]], side: str) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, int64 [B, T], padded on `side`, on this base's device."""
        width = max(map(len, sequences))
        ids = torch.zeros(
            len(sequences), width, dtype=torch.long
        )  # no token attends to padding: any id will do
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            part = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
            ids[row, part] = torch.tensor(sequence, dtype=torch.long)
            mask[row, part] = 1
        return ids.to(self.device), mask.to(self.device)

    def checksum(self) -> str:
        """Return a digest of the frozen weights in memory, to prove that nothing changed them.

        Each tensor is summed byte by byte where it is: proof against accident, not against malice.
        """
        sums = {}
        for name, tensor in sorted(self.model.state_dict().items()):
            if ".lora_" not in name and tensor.numel():
                raw = tensor.detach().contiguous().view(-1).view(torch.uint8)
                # peft wraps a module of stacked experts once for each of its weights.
                own = ".".join(part for part in name.split(".") if part != "base_layer")
                # In parts: the numbers that are summed are first written down as eight bytes each.
                sums[own] = sum(int(part.sum(dtype=torch.int64)) for part in raw.split(SUMMED))
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()

    def _activate(self, name: str | None) -> None:
        self._active = name
        stack.activate(self.lora_layers.values(), name)

    @contextmanager
    def _active_inside(self, name: str | None) -> Iterator[None]:
        before = self._active
        self._activate(name)
        try:
            yield
        finally:
            self._activate(before)

    def _recompute(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Return the contexts of a checkpoint's forward, which is now, and of its recomputation."""
        return nullcontext(), self._active_inside(self._active)


def _check_vocabulary(base: Network) -> None:
    """Refuse a tokenizer that writes ids for which the model has no embedding."""
    rows = base.model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportIndexIssue]
    if base.vocabulary > rows:
        raise ModelError(
            f"the tokenizer has {base.vocabulary} tokens, the model embeds {rows}",
            "use the tokenizer the model was trained with",
        )


class _Given(nn.Module):
    """Stands in for a model's decoder and returns states that are there already. No hook of the decoder sees it."""

    def __init__(self, base: nn.Module, decoder: nn.Module):
        super().__init__()
        self._of = (base, decoder)  # in a tuple, so that they are not submodules
        self.states: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> _Output:
        assert self.states is not None
        return _Output(self.states)

    def __getattr__(self, name: str) -> Any:
        base, decoder = self.__dict__["_of"]
        found = getattr(base, name)
        return self if found is decoder else found


class _Output:
    """A decoder's output of last hidden states; whatever else is asked of it is None."""

    def __init__(self, states: Tensor):
        self.last_hidden_state = states

    def __getitem__(self, place: Any) -> Any:
        return self.last_hidden_state if place == 0 else ()

    def __getattr__(self, name: str) -> None:
        return None


def _check_head(base: Network) -> None:
    """Refuse a model whose log-probabilities are not its head applied to its last hidden states."""
    ids, mask = base.pad([base.trial_text(0, 9)], "right")
    with torch.no_grad():
        whole = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        parts = base.logits(base.hidden(ids, mask))
    if not whole.isfinite().all():
        dtype = str(base.dtype).removeprefix("torch.")
        raise ModelError(
            f"the logits of this {type(base.model).__name__} are not finite in {dtype}",
            "set model.compute: float32; if that does not help, a weight is not finite: get the model again",
        )
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3 * whole.abs().max().item()):
        raise ModelError(
            f"a {type(base.model).__name__} computes its logits in a way that is not known here",
            "use a causal language model whose head is one linear layer",
        )
