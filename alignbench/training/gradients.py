"""The gradient of one step, as the micro-batches add to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter


class Gradients:
    """The gradient of a step as it adds up: one buffer, or one for each term of a loss that has several."""

    def __init__(self, weights: list[Parameter]):
        self.weights = weights
        self.terms: dict[str, list[Tensor | None]] = {}

    def add(self, share: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Back-propagate a micro-batch's share of the loss and return it, detached."""
        if isinstance(share, Tensor):
            share.backward()
            return share.detach()
        last = list(share)[-1]
        for name, term in share.items():
            found = torch.autograd.grad(term, self.weights, retain_graph=name != last, allow_unused=True)
            before = self.terms.get(name, [None] * len(found))
            self.terms[name] = [_sum(old, new) for old, new in zip(before, found, strict=True)]
            for weight, new in zip(self.weights, found, strict=True):
                weight.grad = _sum(weight.grad, new)
        return torch.stack([term.detach() for term in share.values()]).sum()

    def norms(self) -> dict[str, Tensor]:
        """Return the norm of each term's gradient, where there are several."""
        return {
            f"grad_norm/{name}": torch.nn.utils.get_total_norm([one for one in found if one is not None])
            for name, found in self.terms.items()
        }


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    return old if new is None else new if old is None else old + new
