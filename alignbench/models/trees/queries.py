"""Queries about what follows a path of tokens, and how logits answer them."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.models.generation import gumbel_of
from alignbench.rows import Ids

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLOSE = 1e-4
"""Two choices closer than this are a tie, which rounding may have decided: about 1e-5 in float32."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query about what follows `path`: by default one token, drawn with `noise`, or the likeliest."""

    path: Ids
    noise: int | None = None
    """The key of the draw's noise, see `noise_key`; None takes the likeliest token."""
    temperature: float = 1.0
    top_k: int = 0
    """Draw among the k likeliest tokens; 0 for all."""
    likeliest: int = 0
    """Return this number of tokens instead, the likeliest first."""
    options: Ids = ()
    """Return the probabilities of these tokens among themselves instead."""
    since: tuple[int, ...] = ()
    """Return the mean hidden state of `path[start:]` for each of these starts instead."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What follows a path."""

    tokens: Ids = ()
    probabilities: tuple[float, ...] = ()
    """One for each token, among those that could have been drawn; among each other for several tokens."""
    states: NDArray[np.float32] | None = None
    """float32 [starts, hidden], where the query asked for states."""


def replies_of(logits: Tensor, rows: Tensor, queries: Many[Query]) -> tuple[list[Reply], list[bool]]:
    """Answer queries of one kind from float32 logits [paths, vocabulary]; query i reads row `rows[i]`.

    For each reply: whether its margin is larger than rounding.
    """
    one = queries[0]
    rows = rows.to(logits.device)
    if one.options:
        picked = logits[rows].gather(
            1, torch.tensor([query.options for query in queries], device=logits.device)
        )
        best = picked.topk(min(2, picked.shape[1]), dim=-1).values
        sure = (best[:, 0] - best[:, -1] > CLOSE).tolist()
        shares = picked.softmax(-1).tolist()
        return [Reply(q.options, tuple(share)) for q, share in zip(queries, shares, strict=True)], sure
    vocabulary = logits.shape[1]
    kept = min(one.likeliest or one.top_k or vocabulary, vocabulary)
    noisy = any(query.noise is not None for query in queries)
    if not noisy or kept < vocabulary:
        # Two more than k: a token just outside may belong inside.
        top = (logits / one.temperature).topk(min(max(kept, 2) + 2, vocabulary), dim=-1)
        values, tokens = top.values[rows], top.indices[rows]
    else:
        values = (logits / one.temperature)[rows]
        tokens = torch.arange(vocabulary, device=logits.device).expand_as(values)
    if one.likeliest:
        sure = torch.ones(len(values), dtype=torch.bool)
        if values.shape[1] > kept:
            sure = values[:, kept - 1] - values[:, kept] > CLOSE
        shares = values[:, :kept].softmax(-1).tolist()
        named = tokens[:, :kept].tolist()
        replies = [Reply(tuple(ids), tuple(share)) for ids, share in zip(named, shares, strict=True)]
        return replies, sure.tolist()
    if kept < vocabulary:
        border, outside = values[:, kept - 1 : kept], values[:, kept : kept + 1]
        inside = torch.arange(values.shape[1], device=values.device) < kept
        norm = values[:, :kept].logsumexp(-1)
    else:
        border, outside = None, None
        inside = torch.ones(values.shape[1], dtype=torch.bool, device=values.device)
        norm = values.logsumexp(-1) if noisy else (logits / one.temperature).logsumexp(-1)[rows]
    perturbed = values
    if noisy:
        keys = torch.tensor([query.noise or 0 for query in queries], device=logits.device)
        drawn = gumbel_of(keys, 0, tokens)
        if None in {query.noise for query in queries}:
            drawn[[query.noise is None for query in queries]] = 0.0
        perturbed = values + drawn
    loose = perturbed if border is None else perturbed.masked_fill(values < border - CLOSE, -torch.inf)
    best = loose.topk(2, dim=-1)
    certain = best.values[:, 0] - best.values[:, 1] > CLOSE
    choice = perturbed.masked_fill(~inside, -torch.inf).argmax(-1)
    if outside is not None:
        tight = perturbed.masked_fill(values <= outside + CLOSE, -torch.inf).argmax(-1)
        certain &= (tight == best.indices[:, 0]) & (choice == tight)
    picked = choice[:, None]
    shares = (values.gather(1, picked)[:, 0] - norm).exp().tolist()
    named = tokens.gather(1, picked)[:, 0].tolist()
    return [Reply((t,), (share,)) for t, share in zip(named, shares, strict=True)], certain.tolist()
