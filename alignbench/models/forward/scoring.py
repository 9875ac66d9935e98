"""Log-probabilities of given responses, entropies and embeddings: in batches, without gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from alignbench.api.policy import TokenScores
from alignbench.errors import ModelError
from alignbench.models import counting, meter
from alignbench.models.forward.groups import Group, Layout, batches, lay_out, response_states, spread
from alignbench.models.forward.lm_head import log_probabilities, log_probabilities_and_entropies
from alignbench.models.forward.memory import POSITIONS, halving, positions
from alignbench.rows import Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.forward.network import Adapted, Network


Found = TypeVar("Found")


def token_scores(policy: Adapted, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
    """Score each response, token by token, in the order asked.

    Raises ModelError for a sequence without a prompt: nothing precedes its first token.
    """
    for place, sequence in enumerate(sequences):
        if not sequence.prompt:
            raise ModelError(
                f"sequence {place} has no prompt tokens, so its first token cannot be scored",
                "give it at least one, such as the token that begins a text",
            )
    base, none = policy.base, np.zeros(0, np.float32)
    scores = [TokenScores(none, none if entropy else None)] * len(sequences)
    answered = [place for place, one in enumerate(sequences) if one.response]

    def read(layout: Layout, states: Tensor) -> tuple[Tensor, ...]:
        if entropy:
            return log_probabilities_and_entropies(base, states, layout.targets)
        return (log_probabilities(base, states, layout.targets),)

    for places, found in _read(policy, [sequences[place] for place in answered], read):
        ends = np.cumsum([len(sequences[answered[place]].response) for place in places])[:-1]
        columns = [np.split(column.cpu().numpy(), ends) for column in found]
        for place, *one in zip(places, *columns, strict=True):
            scores[answered[place]] = TokenScores(*one)
    return scores


def response_scores(policy: Adapted, sequences: Many[Sequence]) -> Tensor:
    """Return float32 [N]: the log-probability of each whole response."""
    base = policy.base
    scores = torch.zeros(len(sequences), device=base.device)

    def read(layout: Layout, states: Tensor) -> Tensor:
        return spread(log_probabilities(base, states, layout.targets), layout.spans[""]).sum(-1)

    for places, found in _read(policy, sequences, read):
        scores[torch.tensor(places, device=base.device)] = found
    return scores


@torch.no_grad()
def embed(base: Network, texts: Many[Many[int]]) -> NDArray[np.float32]:
    """Return the mean of the base's last hidden states over each text's tokens: float32 [texts, hidden].

    A text without a token, such as an answer that ended at once, has the state of `base.first_token`.
    """
    texts = [text or (base.first_token,) for text in texts]
    found = np.zeros((len(texts), base.head.weight.shape[1]), np.float32)
    base.model.eval()

    def means(places: Many[int]) -> NDArray[np.float32]:
        ids, mask = base.pad([texts[place] for place in places], "right")
        counting.expect(sum(len(texts[place]) for place in places))
        states = base.hidden(ids).float() * mask[..., None]
        return (states.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()

    with base.using(None), base.arithmetic():
        for batch in batches(texts, positions(base, POSITIONS)):
            for places, rows in halving(batch, means):
                found[list(places)] = rows
    return found


@torch.no_grad()
def _read(
    policy: Adapted, sequences: Many[Sequence], read: Callable[[Layout, Tensor], Found]
) -> Iterator[tuple[list[int], Found]]:
    """Yield places of sequences, and what `read` makes of their layout and the states that predict their tokens."""
    base = policy.base
    base.model.eval()

    def forward(places: Many[int]) -> Found:
        with meter.doing("score"), base.using(policy), base.arithmetic():
            layout = lay_out({"": Group([sequences[place] for place in places])}, base.device)
            states = response_states(base, layout)
        return read(layout, states)

    for batch in batches(sequences, positions(base, POSITIONS)):
        for places, found in halving(batch, forward):
            yield list(places), found
