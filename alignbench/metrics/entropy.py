"""Entropy of a policy's next-token distribution along its own answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from alignbench.api.metric import Evidence, Figure, Measure, Metric, Missing, Need, by_prompt, histograms

POSITIONS = ((1, 1), (2, 4), (5, 8), (9, 16), (17, 32), (33, None))
"""Ranges of positions in an answer, from 1, that are averaged: `entropy.2-4`."""
BITS = float(np.log2(np.e))


class Entropy(Metric):
    """`entropy`: the mean entropy, in bits, of the next-token distribution at temperature 1 over the whole
    vocabulary, teacher-forced along the policy's own samples; `entropy.1`, `entropy.2-4` and so on by position.

    Comparable only between policies with the same tokenizer, and only at similar answer lengths: the last
    token of an answer is nearly certain.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "logprobs", "entropy"})
    by_cell: ClassVar[bool] = True

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            scored = evidence.logprobs(cell, under="self")
            entropies = None if scored is None else [one.entropy for one in scored]
            for name, first, last in (
                ("entropy", 1, None),
                *((f"entropy.{_name(first, last)}", first, last) for first, last in POSITIONS),
            ):
                if entropies is None:
                    reason = "the policy gives no log-probabilities"
                    found.append(Missing(metric=name, **cell._asdict(), reason=reason))
                    continue
                parts = [
                    None if one is None else one[first - 1 : last].astype(np.float64) * BITS
                    for one in entropies
                ]
                means = [float(one.mean()) if one is not None and one.size else None for one in parts]
                values = by_prompt(evidence.samples(cell), means)
                found.append(
                    Measure(
                        metric=name,
                        **cell._asdict(),
                        unit="bits",
                        values=values,
                        description="of the next token, along the policy's own answers",
                    )
                    if values
                    else Missing(metric=name, **cell._asdict(), reason="no answer is that long")
                )
        return found

    def figures(self, evidence: Evidence) -> Sequence[Figure]:
        found: dict[str, list[np.ndarray]] = {}
        for cell in evidence.cells:
            for one in evidence.logprobs(cell, under="self") or ():
                if one.entropy is not None and len(one.entropy):
                    found.setdefault(cell.label, []).append(one.entropy.astype(np.float64) * BITS)
        every = {label: np.concatenate(parts) for label, parts in found.items()}
        if not every:
            return ()
        top = float(np.ceil(max(np.quantile(ones, 0.999) for ones in every.values()))) or 1.0
        edges, shares = histograms(every, (0.0, top))
        description = "Entropy of the next token: mass on the left is certainty, as in a collapsed policy."
        title = "entropy of the next token, bits"
        return (Figure(kind="histogram", title=title, description=description, data=shares, edges=edges),)


def _name(first: int, last: int | None) -> str:
    return f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"
