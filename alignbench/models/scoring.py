"""Log-probabilities of given responses: only their own positions go through the head, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from alignbench.api.policy import TokenScores
from alignbench.errors import ModelError
from alignbench.rows import Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from alignbench.models.base import Base, ModelPolicy

TOKENS = {"cpu": 4096, "cuda": 32768}
"""Positions of one forward, padding included."""

LOGITS = {"cpu": 2**22, "cuda": 2**27}
"""Numbers of the largest logits tensor: positions x vocabulary."""


@torch.no_grad()
def score(policy: ModelPolicy, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
    """Score each response, token by token, in the order asked.

    Raises ModelError for a sequence without a prompt: nothing precedes its first token.
    """
    for place, sequence in enumerate(sequences):
        if not sequence.prompt:
            raise ModelError(f"sequence {place} has no prompt tokens, so its first token cannot be scored")
    base = policy.base
    none = np.zeros(0, np.float32)
    scores = [TokenScores(none, none if entropy else None)] * len(sequences)
    base.model.eval()
    with base.using(policy), base.arithmetic():
        for places in _batches(sequences, TOKENS[base.device.type]):
            batch = [sequences[place] for place in places]
            # Padding lies to the right, where no token looks: attention stays causal, its fastest form.
            ids, _ = base.pad([(*one.prompt, *one.response) for one in batch], "right")
            hidden = base.hidden(ids[:, :-1])  # nothing follows the last token
            rows, columns = _positions(batch, base.device)
            logps, entropies = _token_scores(base, hidden[rows, columns], ids[rows, columns + 1], entropy)
            ends = np.cumsum([len(one.response) for one in batch])[:-1]
            by_row = np.split(logps.cpu().numpy(), ends)
            spread = [None] * len(batch) if entropies is None else np.split(entropies.cpu().numpy(), ends)
            for place, own_logps, own_entropy in zip(places, by_row, spread, strict=True):
                scores[place] = TokenScores(own_logps, own_entropy)
    return scores


@torch.no_grad()
def embed(base: Base, texts: Many[Many[int]]) -> NDArray[np.float32]:
    """Return the mean of the base's last hidden states over each text's tokens: float32 [texts, hidden]."""
    found = np.zeros((len(texts), base.head.weight.shape[1]), np.float32)
    base.model.eval()
    with base.using(base.policy()), base.arithmetic():
        for places in _batches([Sequence((), tuple(ids)) for ids in texts], TOKENS[base.device.type]):
            ids, mask = base.pad([texts[place] for place in places], "right")
            states = base.hidden(ids).float() * mask[..., None]
            found[places] = (states.sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
    return found


def _batches(sequences: Many[Sequence], tokens: int) -> Iterator[list[int]]:
    """Places of sequences of like length, longest first, so that a batch that fits is met at once."""
    order = sorted(
        (p for p, one in enumerate(sequences) if one.response), key=lambda p: (-len(sequences[p]), p)
    )
    while order:
        rows = max(1, tokens // len(sequences[order[0]]))
        yield order[:rows]
        order = order[rows:]


def _positions(batch: Many[Sequence], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns whose hidden states predict the response tokens."""
    rows = [row for row, one in enumerate(batch) for _ in one.response]
    columns = [len(one.prompt) - 1 + step for one in batch for step in range(len(one.response))]
    return torch.tensor(rows, device=device), torch.tensor(columns, device=device)


def _token_scores(base: Base, hidden: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities, and entropies where asked, of targets [N] after hidden states [N, hidden]."""
    rows = max(1, LOGITS[base.device.type] // base.head.weight.shape[0])
    logps, entropies = [], []
    for states, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = base.logits(states)
        # Normalised first: the entropy as a difference of two large numbers would lose a digit.
        logits = logits.sub_(logits.logsumexp(-1, keepdim=True))
        logps.append(logits.gather(-1, wanted[:, None])[:, 0])
        if entropy:
            entropies.append(-(logits.exp().mul_(logits)).sum(-1))
    return torch.cat(logps), torch.cat(entropies) if entropy else None
