"""From values per prompt to tables, and from p values to verdicts; and which setting of a label is its best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from alignbench.stats.estimates import LEVEL, NotEstimableError, Table, policies

Verdict = Literal["better", "worse", "equivalent", "not told apart"]

APART = 2.0
"""Standard errors by which a label's own best setting must lead the one that is best for most: see `best_settings`."""


def tabulate(per_seed: Sequence[Mapping[str, float]], clusters: Mapping[str, str] | None = None) -> Table:
    """Return the table [seeds, prompts] of the prompts that every seed has, in the order of the first seed.

    Prompts with an equal value in `clusters` count as one, since they are not an independent sample: their
    column is the mean plus the sum of their distances from it, scaled so that the columns' mean is that of
    the prompts, and their spread the cluster-robust one (Liang and Zeger 1986).

    Raises NotEstimableError where no prompt has a value at every seed, or a value is not finite.
    """
    common = set.intersection(*map(set, per_seed)) if per_seed else set()
    if not common:
        raise NotEstimableError("no prompt has a value at every seed")
    order = [id for id in per_seed[0] if id in common]
    table = np.array([[values[id] for id in order] for values in per_seed], dtype=np.float64)
    if odd := table.size - int(np.isfinite(table).sum()):
        raise NotEstimableError(f"{odd} of {table.size} values are not finite")
    of = [(clusters or {}).get(id, id) for id in order]
    names = {name: place for place, name in enumerate(dict.fromkeys(of))}
    if len(names) == len(of):
        return table
    mean, columns = table.mean(), np.zeros((len(names), len(table)))
    np.add.at(columns, [names[name] for name in of], (table - mean).T)
    return mean + columns.T * len(names) / len(of)


def best_settings(tables: Mapping[str, Mapping[float, Table]]) -> dict[str, float]:
    """Return the setting of each label that its scores choose.

    `tables` holds each label's scores [seeds, prompts] at each setting, on prompts that nothing is reported on.
    A label has its own best setting where its prompts tell it from the setting that is best for most labels (of
    equally many, by the sum of their means) by APART standard errors, else that one; the lowest of equal ones.
    The best by the highest mean alone would rank equal labels at different settings by chance, and find
    differences between them too often (`benchmarks/proofs/aa.py`); the sum alone would let one label that fails
    at a setting decide for all others.
    """
    means = {label: {one: float(table.mean()) for one, table in of.items()} for label, of in tables.items()}
    settings = sorted({one for of in tables.values() for one in of})
    best = {label: max(sorted(of), key=of.__getitem__) for label, of in means.items()}
    votes = Counter(best.values())
    shared = max(settings, key=lambda one: (votes[one], sum(of.get(one, -math.inf) for of in means.values())))
    chosen = {}
    for label, of in tables.items():
        own = best[label]
        gain = None if own == shared else policies(of[own] - of[shared])
        chosen[label] = own if gain is not None and gain.value > APART * gain.se else shared
    return chosen


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjust p values so that the chance of one false verdict among them is at most alpha (Holm 1979)."""
    p = np.asarray(list(p_values), dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted.tolist()


def verdict(
    difference: float, p_adjusted: float, higher_is_better: bool | None, p_equivalence: float | None = None
) -> Verdict | None:
    """Say whether a difference is real, and in whose favour; None where neither direction is better.

    `equivalent` where it is smaller than a margin that was named before, by `p_equivalence`, adjusted too.
    """
    if higher_is_better is None:
        return None
    if difference != 0 and p_adjusted <= 1 - LEVEL:
        return "better" if (difference > 0) == higher_is_better else "worse"
    return "equivalent" if p_equivalence is not None and p_equivalence <= 1 - LEVEL else "not told apart"
