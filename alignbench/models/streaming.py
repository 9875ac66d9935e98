"""One answer, token by token, equal to the answer of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from alignbench.api.config import Sampling
from alignbench.models.forward.incremental import GrowingTexts
from alignbench.models.generation import Row, draw, noise_key, stop_ids
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
    base = policy.base
    (prompt,) = policy.tokenised([prompt])
    row = Row(0, prompt, 0, noise_key(key, prompt.id, 0))
    stops, texts = stop_ids(base), GrowingTexts(base, [prompt.prompt_ids])
    base.model.eval()
    for position in range(sampling.max_new_tokens):
        with torch.no_grad(), base.using(policy), base.arithmetic():
            (token,) = draw(base, base.logits(texts.states()), [row], sampling, position)
        row.ids.append(token)
        yield str(base.tokenizer.decode(row.ids, skip_special_tokens=True))
        if token in stops or len(prompt.prompt_ids) + len(row.ids) == base.context:
            return
        texts.add([token])
