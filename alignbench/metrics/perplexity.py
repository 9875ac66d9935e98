"""Perplexity of held-out pretraining text."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alignbench.api.metric import Evidence, Measure, Metric, Missing, Need
from alignbench.metrics.fits import ratio


class Perplexity(Metric):
    """`perplexity`: nats per token over all held-out text; its exponential is the perplexity.

    A ratio of two sums, given as one value per text with this mean (`alignbench.metrics.fits`).
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"texts", "logprobs"})
    by_cell: ClassVar[bool] = True

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        texts = evidence.texts
        sequences = [sequence for text in texts for sequence in getattr(text, "sequences", tuple)()]
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            scored = evidence.score(cell, sequences) if sequences else None
            if scored is None:
                reason = (
                    "the policy gives no log-probabilities"
                    if sequences
                    else "the recipe names no source of pretraining text (data.pretraining)"
                )
                found.append(Missing(metric="perplexity", **cell._asdict(), reason=reason))
                continue
            nats = np.array([-float(one.logps.sum()) for one in scored])
            tokens = np.array([float(len(one.logps)) for one in scored])
            values = ratio(nats, tokens)
            found.append(
                Measure(
                    metric="perplexity",
                    **cell._asdict(),
                    unit="nats per token",
                    higher_is_better=False,
                    values=dict(zip((text.id for text in texts), values.tolist(), strict=True)),
                    description=f"on {len(texts)} pieces of held-out text, {int(tokens.sum())} tokens",
                )
            )
        return found
