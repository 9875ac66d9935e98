"""A tree of token sets: their priors, visits and values, and how a value is backed up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Ids = tuple[int, ...]

NOISE = 0.25
"""Share of the uniform distribution in the priors at the root."""


@dataclass(eq=False)
class Node:
    """A set of tokens that may come next."""

    tokens: Ids
    prior: float
    parent: Node | None
    step: int
    """Sets before this one, from the beginning of the answer."""
    end: bool = False
    """Nothing follows: the answer is finished, or as long as it may be."""
    n: float = 0.0
    """Visits, and the parts of visits that similar siblings gave."""
    visits: int = 0
    value: float = 0.0
    embedding: NDArray[np.float32] | None = None
    children: dict[Ids, Node] = field(default_factory=dict)
    candidates: list[tuple[Ids, float]] = field(default_factory=list)
    """Every candidate that was proposed below, with its probability, the latest first."""
    drawn: int = 0
    """Candidates that were drawn below."""


def upwards(node: Node) -> Iterator[Node]:
    """A node and all above it, up to the root."""
    at: Node | None = node
    while at is not None:
        yield at
        at = at.parent


def weighed(drawn: list[tuple[Ids, float]]) -> list[tuple[Ids, float]]:
    """Drop sets that came twice; the greedy one, the first, was not drawn and gets a share of its own."""
    (greedy, share), *others = drawn
    distinct = {tokens: p for tokens, p in others if tokens != greedy}
    if distinct:
        shares = distinct.values()
        share = max(min(share, sum(shares)), max(shares) + min(shares))
    return [(greedy, share), *distinct.items()]


def mixed(priors: list[float]) -> list[float]:
    """Priors with a share of the uniform distribution."""
    blend = [(1 - NOISE) * prior + NOISE / len(priors) for prior in priors]
    return [one / sum(blend) for one in blend]


def flatten(root: Node) -> None:
    """Mix the priors of a new root's children."""
    children = list(root.children.values())
    for child, prior in zip(children, mixed([child.prior for child in children]), strict=True):
        child.prior = prior


def most_visited(node: Node) -> Node | None:
    """The child visited most, and of those the best."""
    return max(node.children.values(), key=lambda one: (one.n, one.value), default=None)


def back_up(
    node: Node, value: float, embeddings: NDArray[np.float32] | None, similarity: float, threshold: float
) -> None:
    """Add the value of a leaf to it and all above it, and their siblings as far as they are alike.

    Without embeddings nothing is alike.
    """
    for place, at in enumerate(upwards(node)):
        at.n += 1
        at.visits += 1
        if at.parent is not None and embeddings is not None:
            old, new = at.embedding, embeddings[place]
            at.embedding = new.copy() if old is None else old + (new - old) / at.visits
            alike(at, value, similarity, threshold)
        at.value += (value - at.value) / at.n


def alike(node: Node, value: float, similarity: float, threshold: float) -> None:
    """Count a visit in part for those siblings whose embedding is close."""
    assert node.parent is not None
    assert node.embedding is not None
    others = [one for one in node.parent.children.values() if one is not node and one.embedding is not None]
    if not others or not similarity:
        return
    matrix = np.stack([one.embedding for one in others])  # pyright: ignore[reportArgumentType, reportCallIssue]
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(node.embedding)
    cosines = matrix @ node.embedding / np.maximum(norms, 1e-8)
    for other, cosine in zip(others, cosines.tolist(), strict=True):
        if cosine >= threshold:
            weight = similarity * cosine
            other.value = (other.value * other.n + weight * value) / (other.n + weight)
            other.n += weight
