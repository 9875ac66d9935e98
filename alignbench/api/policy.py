"""A policy: what answers prompts, and what it may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    runtime_checkable,
)

from alignbench.errors import PluginError
from alignbench.rows import Ids, Prompt, Sequence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Parameter

from alignbench.api.config import Sampling

Can = Literal["answer", "logprobs", "adapter"]
Setting = Literal["temperature", "top_k", "top_p"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's answer, and what it cost."""

    prompt_id: str
    text: str
    ids: Ids
    """The tokens of the answer, the end-of-sequence token included where the policy stopped by itself."""
    finished: bool
    """False where the answer was cut at `max_new_tokens`."""
    sample: int = 0
    forwards: int = 0
    """Model calls this answer took part in."""
    tokens: int = 0
    """Positions processed for this answer: prompt, answer, and whatever a search looked at."""
    seconds: float = 0.0
    """This answer's share of the wall time."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a policy says about one response, token by token: float32 arrays of shape [response tokens]."""

    logps: NDArray[np.float32]
    entropy: NDArray[np.float32] | None = None
    """Of the next-token distribution, in nats."""


@runtime_checkable
class Policy(Protocol):
    """Anything that answers prompts: a model with adapters, or a decoder around a frozen one."""

    @property
    def can(self) -> frozenset[Can]:
        """`answer` always; `logprobs`; `adapter` where there are trainable weights on the shared base."""
        ...

    @property
    def follows(self) -> frozenset[Setting]:
        """The fields of `Sampling` that its answers follow; `max_new_tokens` is followed by all.

        A decoder that draws in a way of its own follows none: it answers once, whatever the recipe's grid is.
        """
        ...

    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer each prompt `samples` times: prompt by prompt, sample by sample.

        Laws: the noise is keyed by (key, prompt id, sample, position), so an answer does not depend on which
        other prompts were asked (in float32). A policy that follows the temperature gives, at 0, equal samples
        of a prompt.
        """
        ...

    def logprobs(self, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
        """Score each response at temperature 1. Raises PluginError where the policy cannot."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that `Method.restore` (for an adapter: the core) needs to rebuild the policy."""
        ...


class Decoder:
    """What most policies of a method's own kind share: they answer, and have no probabilities and nothing to save."""

    can: frozenset[Can] = frozenset(("answer",))
    follows: frozenset[Setting] = frozenset()
    """One that asks its start sets `start.follows`."""

    def logprobs(self, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
        """Refuse: what a decoder gives is not drawn from one distribution."""
        raise PluginError(f"{type(self).__name__} gives no log-probabilities", "compare its answers")

    def save(self, folder: Path) -> None:
        """Write nothing: `Method.restore` builds it from its start and its config."""
        folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to the weights of a layer: `scale * up @ down`. Both are views of the adapter's weights:
    what is written to them is what the policy computes with."""

    down: Tensor
    """float32 [experts, rank, in], LoRA's A; a plain layer is one expert."""
    up: Tensor
    """float32 [experts, out, rank], LoRA's B."""
    scale: float
    """LoRA's alpha / rank, or what the adapter has in its place."""


class TrainablePolicy(Policy, Protocol):
    """A policy with weights of its own on the shared base: an adapter, or the untouched base with none."""

    @property
    def name(self) -> str:
        """What the run calls it; `base` for the untouched base."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the shared base, a `transformers.PreTrainedTokenizerFast`."""
        ...

    def parameters(self) -> list[Parameter]:
        """The trainable weights, float32, in a fixed order; none for the base or a frozen adapter."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """The adapter's weights by the names that peft gives them in a file."""
        ...

    def layers(self) -> Mapping[str, LowRank]:
        """What the adapter adds to each layer, by the layer's name in `tensors`; nothing for the base."""
        ...

    def fingerprint(self) -> str:
        """The sha256 of what the policy computes: of the base and of the adapter's weights."""
        ...
