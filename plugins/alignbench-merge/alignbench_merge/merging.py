"""The arithmetic of merging: changes of weights become one, and one becomes factors of a low rank. No adapters here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many

import torch
from torch import Tensor
from torch.nn.functional import pad

BINS = 2**16
"""Values of half of a float32's bits."""


def add(changes: Tensor, weights: Many[float]) -> Tensor:
    """Return the weighted sum [...] of changes [labels, ...]. Source: arXiv:2212.04089, section 2."""
    return (changes * _by_label(changes, weights)).sum(0)


def ties(changes: Tensor, weights: Many[float], cuts: Many[float]) -> Tensor:
    """Return the merged change [...] of changes [labels, ...]: trim, elect the sign, take the disjoint mean.

    A label's values below its cut are 0. The sign of a value is that of the weighted sum. The mean, weighted too, is
    over the labels that have it, and 0 where none has. Weights are above 0; equal ones give the paper's mean.
    Source: arXiv:2306.01708, algorithm 1.
    """
    kept = torch.where(changes.abs() >= _by_label(changes, cuts), changes, 0)
    share = _by_label(changes, weights)
    sign = (kept * share).sum(0).sign()
    agree = (kept.sign() == sign) & (kept != 0)
    weight = (share * agree).sum(0)
    return (kept * share * agree).sum(0) / torch.where(weight > 0, weight, 1)


def _by_label(changes: Tensor, numbers: Many[float]) -> Tensor:
    return changes.new_tensor(numbers).view(-1, *[1] * (changes.dim() - 1))


def least_kept(parts: Callable[[], Iterable[Tensor]], density: float) -> float:
    """Return the smallest magnitude among the largest `density` of all values of float32 tensors.

    `parts()` yields the tensors, one at a time, and is called twice: all values at once may not fit in memory. The bits
    of magnitudes are ordered as the magnitudes are, so that counting their upper and then their lower half finds it.
    """

    def bits() -> Iterable[Tensor]:
        return (part.abs().flatten().view(torch.int32) for part in parts())

    upper = _counts(one >> 16 for one in bits())
    first, left = _largest(upper, max(1, int(density * int(upper.sum()))))
    lower = _counts(one[one >> 16 == first] & (BINS - 1) for one in bits())
    last, _ = _largest(lower, left)
    return torch.tensor(first << 16 | last, dtype=torch.int32).view(torch.float32).item()


def _counts(values: Iterable[Tensor]) -> Tensor:
    return torch.stack([torch.bincount(one, minlength=BINS).cpu() for one in values]).sum(0)


def _largest(counts: Tensor, number: int) -> tuple[int, int]:
    """Return the bin of the value that is number `number` from the largest, and its number within that bin."""
    above = counts.flip(0).cumsum(0)
    place = int((above < number).sum())
    return len(counts) - 1 - place, number - (int(above[place - 1]) if place else 0)


def nearest(whole: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors [..., out, rank] and [..., rank, in], float64, whose product is nearest to `whole` [..., out, in].

    Nearest in the Frobenius norm (Eckart and Young 1936). The rows of the second factor are orthonormal and none
    is 0, so that a training can go on from there also where `whole` is 0: a factor of a fresh adapter is like that.
    """
    whole = whole.double()
    out, wide = whole.shape[-2:]
    # Eigenvectors of the smaller product: a decomposition of a large layer itself takes minutes. Squares of float32
    # weights are exact enough in float64.
    if wide <= out:
        rows = torch.linalg.eigh(whole.mT @ whole).eigenvectors[..., -rank:]
    else:
        frame, inside = torch.linalg.qr(whole.mT)
        rows = frame @ torch.linalg.eigh(inside @ inside.mT).eigenvectors[..., -rank:]
    missing = rank - rows.shape[-1]
    return pad(whole @ rows, (0, missing)), pad(rows.mT, (0, 0, 0, missing))
