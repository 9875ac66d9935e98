"""One answer, token by token, equal to the answer of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from alignbench.api.config import Sampling
from alignbench.models.generation import _draw, _Row, noise_key, stop_ids
from alignbench.rows import Prompt

if TYPE_CHECKING:
    from alignbench.models.policy import ModelPolicy


def can_stream(policy: Any) -> bool:
    """Return whether a policy can stream its answers."""
    from alignbench.models.policy import ModelPolicy

    return isinstance(policy, ModelPolicy)


def stream(policy: ModelPolicy, prompt: Prompt, sampling: Sampling, key: int) -> Iterator[str]:
    """Yield the answer so far after each token.

    Law: in float32 the last text is that of `policy.answer([prompt], sampling, key)`. Several policies on one base
    may stream in turn.
    """
    from transformers import DynamicCache

    base = policy.base
    (prompt,) = policy.tokenised([prompt])
    row = _Row(0, prompt, 0, noise_key(key, prompt.id, 0))
    stops, cache = stop_ids(base), DynamicCache(config=base.model.config)
    base.model.eval()
    ids, mask = base.pad([prompt.prompt_ids], "left")
    for position in range(sampling.max_new_tokens):
        with torch.no_grad(), base.using(policy), base.arithmetic():
            hidden = base.hidden(ids, mask, past_key_values=cache, use_cache=True)
            (token,) = _draw(base, base.logits(hidden[:, -1]), [row], sampling, position)
        row.ids.append(token)
        yield str(base.tokenizer.decode(row.ids, skip_special_tokens=True))
        if token in stops:
            return
        ids = torch.tensor([[token]], device=base.device)
        mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
