"""Tries the fast paths of a model at load, on short texts, against its plain forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignbench.errors import ModelError
from alignbench.models import counting
from alignbench.models.forward import last_layer, varlen
from alignbench.models.forward.attention import NOT_SUPPORTED, agrees, rounds_activations
from alignbench.models.forward.incremental import GrowingTexts
from alignbench.models.paths import Paths
from alignbench.models.policy import ModelPolicy
from alignbench.models.trees.token_tree import TokenTrees

if TYPE_CHECKING:
    from alignbench.models.forward.network import Network

LADDER = [
    *(
        Paths(batch, cache=True, mask=mask, cut=cut)
        for batch in ("padded", "equal lengths")
        for cut in (True, False)
        for mask in (True, False)
    ),
    Paths("one by one", cache=True),
    Paths("padded"),
    Paths("equal lengths"),
]
"""From the fastest to the slowest."""


def find_paths(base: Network) -> Paths:
    """Return the fastest paths that give the states of the plain forward: one text, whole, no cache.

    Raises ModelError for a model that is not causal.
    """
    model = base.model
    with torch.no_grad(), base.arithmetic(), counting.trying():
        _check_causal(base)
        base.paths = paths = next((paths for paths in LADDER if _right(base, paths)), Paths())
        trees = TokenTrees(ModelPolicy(base, None))
        return replace(
            paths,
            one_row=varlen.supports(model, 0),
            padding=varlen.pads(model),
            last_layer=last_layer.supports(model),
            trees="one row" if trees.in_one_row else "whole texts" if trees.whole_texts else "rows",
        )


def _check_causal(base: Network) -> None:
    """Refuse a model whose states change with what follows: its log-probabilities would know the answer."""
    text = base.trial_text(0, 9)
    with torch.no_grad(), base.arithmetic():
        begun, whole = base.plain_states(text[:6]), base.plain_states(text)[:6]
        if not agrees(begun, whole, rounded=rounds_activations(base.model)):
            raise ModelError(
                f"a {type(base.model).__name__} is not causal: a token's state changes with the tokens that follow it",
                "use a causal language model",
            )


def _right(base: Network, paths: Paths) -> bool:
    try:
        rounded = rounds_activations(base.model)
        return all(agrees(found, right, rounded=rounded) for found, right in _trials(base, paths))
    except NOT_SUPPORTED:
        return False


def _trials(base: Network, paths: Paths) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield states on `paths` and by the plain forward, while a batch grows and texts of it end; two begin alike."""
    lengths = (6, 9, 4, 6) if paths.batch == "padded" else (6, 6, 6, 6)
    batches = [(0, 1, 2, 3)] if paths.batch != "one by one" else [(0,), (2,)]
    texts = [base.trial_text(place, length + 3) for place, length in enumerate(lengths)]
    texts[3] = texts[0][:6] + texts[3][6:]
    right = [base.plain_states(text) for text in texts]
    for batch in batches:
        growing = GrowingTexts(base, [texts[place][: lengths[place]] for place in batch], paths)
        alive = list(batch)
        for step in range(3):
            last = [right[place][lengths[place] + step - 1] for place in alive]
            # The spread of a few states of one text says how much states differ.
            some = [right[place][:-1] for place in alive]
            yield torch.cat([growing.states(), *some]), torch.cat([torch.stack(last), *some])
            growing.add([texts[place][lengths[place] + step] for place in alive])
            if step == 1 and len(alive) > 1:
                growing.keep([0, 2, 3])
                alive = [alive[0], *alive[2:]]
