"""Labels in the formats of others: rows for training, and exports of Argilla and Label Studio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from alignbench.label.design import Design
from alignbench.label.journal import Verdict


def rankings(design: Design, verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    """Return rows for training: one Ranking for each rater and item, without repeats and checks."""
    items = {item.id: item for item in design.items}
    for verdict in verdicts:
        item = items.get(verdict.item)
        if item is None or item.known or verdict.round or verdict.automatic:
            continue
        yield {
            "prompt": [dict(turn) for turn in item.prompt],
            "answers": [one.text for one in item.answers],
            "ranks": list(compact(verdict.ranks)),
            "annotator": verdict.rater,
        }


def compact(ranks: Sequence[int]) -> tuple[int, ...]:
    """Return ranks without gaps: 1, 2, 2, 4 becomes 1, 2, 2, 3."""
    order = sorted(set(ranks))
    return tuple(order.index(rank) + 1 for rank in ranks)
