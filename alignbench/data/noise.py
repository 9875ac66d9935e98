"""Labels turned at random, to ask how noisy annotators may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from alignbench.errors import DataError
from alignbench.rows import Pair, Ranking, Row, UnpairedPreference


def flip(rows: Sequence[Row], rate: float, seed: int) -> tuple[list[Row], int]:
    """Return the rows with the label of about a share `rate` of them flipped, and how many were.

    A pair changes places, a ranking is read backwards, so that each of its comparisons turns; an unpaired
    label is negated. Which rows turn depends on id and seed alone, and a higher rate turns those of a lower one
    too. Raises DataError for rows that carry no label.
    """
    done = [_turned(row) if _draw(row, seed) < rate else row for row in rows]
    return done, sum(new is not row for new, row in zip(done, rows, strict=True))


def _draw(row: Row, seed: int) -> float:
    return int.from_bytes(sha256(f"noise/{seed}/{row.id}".encode()).digest()[:8], "big") / 2**64


def _turned(row: Row) -> Row:
    if isinstance(row, Ranking):
        last = max(row.ranks) + min(row.ranks)
        preferences = tuple(None if p is None else 1 - p for p in row.preferences)
        return replace(row, ranks=tuple(last - rank for rank in row.ranks), preferences=preferences)
    if isinstance(row, Pair):
        return replace(
            row,
            chosen=row.rejected,
            rejected=row.chosen,
            chosen_ids=row.rejected_ids,
            rejected_ids=row.chosen_ids,
        )
    if isinstance(row, UnpairedPreference):
        return replace(row, desirable=not row.desirable)
    raise DataError(f"{type(row).__name__} rows carry no label that could be turned", "leave out data.noise")
