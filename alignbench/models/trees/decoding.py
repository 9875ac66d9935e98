"""What a decoder needs of a frozen model: prompts to tokens, trees of next tokens, states of layers, tokens to text."""

from __future__ import annotations

import sys
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

from alignbench.api.policy import Policy
from alignbench.errors import PluginError
from alignbench.models import meter
from alignbench.models.forward import residual
from alignbench.models.forward.memory import limit
from alignbench.models.generation import noise_key
from alignbench.models.policy import ModelPolicy
from alignbench.models.trees.token_tree import TokenTrees
from alignbench.rows import Prompt, Sequence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DecodingBase(TokenTrees):
    """A frozen model for a decoder, which picks tokens in a way of its own.

    `new_tree`, `ask` with `Query` and `Reply`, and `free_prefix` read what follows any path of tokens;
    `response_states` reads what leaves a layer, and `shifted` changes it; the other members turn prompts into paths
    and paths into text. What is computed is charged to the run that computes.
    Raises PluginError where `policy` is a decoder itself.
    """

    def __init__(self, policy: Policy):
        if not isinstance(policy, ModelPolicy):
            raise PluginError(
                "a search needs a model to search, and its start is a decoder itself",
                "let it start from the label that the decoder starts from",
            )
        super().__init__(policy)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's tokenizer."""
        return self.base.tokenizer

    @property
    def ends(self) -> frozenset[int]:
        """Every token that ends an answer."""
        return self.stops

    @property
    def device(self) -> str:
        """Where the model lies: `cpu` or `cuda`."""
        return self.base.device.type

    @property
    def memory(self) -> int:
        """Bytes that a decoder's trees may hold: a share of the device's memory, or of the cell's of the machine."""
        return limit(self.device, {self.device: sys.maxsize})

    @property
    def layers(self) -> int:
        """How many layers the model has. Raises PluginError where they are not one after the other."""
        return len(residual.layers(self.base))

    def response_states(self, sequences: Many[Sequence], layer: int) -> NDArray[np.float32]:
        """Return float32 [N, hidden]: what leaves layer `layer` (from 0), the mean over each response's tokens.

        Raises PluginError for a layer that the model does not have, and for a response without tokens.
        """
        return residual.response_states(self.policy, sequences, layer)

    def shifted(self, layer: int, vector: NDArray[np.float32]) -> AbstractContextManager[None]:
        """Let `vector`, float32 [hidden], be added to what leaves layer `layer`, at each position, inside the block.

        Whatever the model computes there is so shifted: answers and log-probabilities of every policy on it. A tree
        is asked on that side of the block on which it was made. Raises PluginError where the shape is another one.
        """
        return residual.shifted(self.base, layer, vector)

    def tokenised(self, prompts: Many[Prompt]) -> list[Prompt]:
        """Return the prompts with their token ids."""
        meter.answered(prompts)
        return self.policy.tokenised(prompts)

    def decode(self, ids: Many[int]) -> str:
        """Return the text of an answer's tokens, without those that end it."""
        kept = [one for one in ids if one not in self.stops]
        return str(self.base.tokenizer.decode(kept, skip_special_tokens=True))

    def noise(self, key: int, prompt_id: str, sample: int) -> int:
        """Return the key of one answer's noise, for `Query.noise`: it depends on no other prompt."""
        return noise_key(key, prompt_id, sample)

    def answered(self, count: int) -> None:
        """Report that `count` answers have ended, for the progress display."""
        self.base.answered(count)
