"""How well raters agree with each other, with themselves, and with known answers.

Two raters say of two answers that the first is better, the second is, or neither. The same counts 1, a tie
of one of them alone a half, the opposite 0. Intervals take each item with all its pairs as one observation.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from alignbench.label.design import CHOICES, Design
from alignbench.label.journal import Annotation

Signs = Sequence[int]
"""For every two answers of an item, in the order of `combinations`: 1 first better, -1 second, 0 a tie."""


def quality(design: Design, annotations: Sequence[Annotation]) -> dict[str, Any]:
    """Return what is known of the labelling: how it was chosen, agreement of all raters, and each rater.

    `agreement` is the share of pairs of answers that two raters order alike; `alpha` is Krippendorff's over the
    same (ordinal; each pair counted in both directions, so that chance prefers neither answer). Of each rater:
    `agreement` with the others, `consistency` with the own annotations on repeated items, `checks` with known
    answers, and `first`, how often the answer that stood higher on the page is preferred.
    """
    items = {item.id: item for item in design.items}
    given: dict[str, dict[tuple[str, int], Signs]] = defaultdict(dict)
    ranked: dict[str, dict[str, Signs]] = defaultdict(dict)
    standing: dict[str, list[tuple[float, float]]] = defaultdict(list)
    flagged: dict[str, int] = defaultdict(int)
    for one in annotations:
        item = items.get(one.item)
        if item is None or one.automatic:
            continue
        given[one.rater][one.item, one.round] = signs = pair_signs(one.ranks)
        flagged[one.rater] += sum(map(len, one.flags))
        standing[one.rater].append(_first_wins(one))
        if one.round == 0 and not item.known:
            ranked[one.item][one.rater] = signs
    counts = {
        id: [Counter(of_pair) for of_pair in zip(*signs.values(), strict=True)]
        for id, signs in ranked.items()
    }
    raters = {}
    for rater, own in given.items():
        again = [(own[id, 0], own[id, 1]) for id, round in own if round == 1 and (id, 0) in own]
        known = [(pair_signs(items[id].known), signs) for (id, _), signs in own.items() if items[id].known]
        others = [_with_others(signs[rater], counts[id]) for id, signs in ranked.items() if rater in signs]
        raters[rater] = {
            "items": sum(round == 0 for _, round in own),
            "agreement": share(others),
            "consistency": share(_alike(a, b) for a, b in again),
            "checks": share(_alike(a, b, decided=True) for a, b in known),
            "first": share(standing[rater]),
            "flags": flagged[rater],
        }
    return {
        "chosen": f"{CHOICES[design.choice]}: {design.prompts} of {design.of}"
        if design.of
        else "all items of a file",
        "items": len(ranked),
        "overlap": design.overlap,
        "repeats": design.repeats,
        "agreement": share(map(_among, counts.values())),
        "alpha": _alpha(ranked, list(raters)),
        "raters": raters,
    }


def pair_signs(ranks: Sequence[int]) -> list[int]:
    """Return for every two answers, in the order of `combinations`, which is better: 1 the first, -1, or 0."""
    return [(b > a) - (b < a) for a, b in combinations(ranks, 2)]


def share(counts: Iterable[tuple[float, float]]) -> dict[str, Any] | None:
    """Return a share over items with its 95% interval: `value`, `ci95`, `n` (pairs), `items`; None without any.

    `counts` holds for each item what agreed and out of how many. The interval is Wilson's with the number of
    observations that has the variance found between items, and Student's quantile.
    """
    from scipy.special import stdtrit

    known = [(hits, of) for hits, of in counts if of]
    if not known:
        return None
    items, total = len(known), sum(of for _, of in known)
    value = sum(hits for hits, _ in known) / total
    found = {"value": value, "ci95": None, "n": round(total), "items": items}
    if items > 1:
        squares = sum((hits - value * of) ** 2 for hits, of in known) * items / (items - 1)
        variance = squares / total**2
        size = items if variance == 0 or value in (0, 1) else min(total, value * (1 - value) / variance)
        found["ci95"] = wilson(value, size, float(stdtrit(items - 1, 0.975)))
    return found


def wilson(value: float, size: float, quantile: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's interval of a share `value` out of `size` observations."""
    square = quantile**2
    middle = (value + square / (2 * size)) / (1 + square / size)
    half = quantile / (1 + square / size) * math.sqrt(value * (1 - value) / size + square / (4 * size**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _alike(a: Signs, b: Signs, *, decided: bool = False) -> tuple[float, float]:
    """How many pairs two raters order alike, and of how many; `decided`: only those that `a` decides."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x or not decided]
    return sum(_match(x, y) for x, y in pairs), len(pairs)


def _match(x: int, y: int) -> float:
    return 1 - abs(x - y) / 2


def _among(counts: Sequence[Mapping[int, int]]) -> tuple[float, float]:
    """The same over every two raters of one item: `counts` says for each pair how often each sign was given."""
    hits = pairs = 0.0
    for of_pair in counts:
        better, worse, tied = (of_pair.get(sign, 0) for sign in (1, -1, 0))
        hits += (
            better * (better - 1) + worse * (worse - 1) + tied * (tied - 1) + tied * (better + worse)
        ) / 2
        pairs += sum(of_pair.values()) * (sum(of_pair.values()) - 1) / 2
    return hits, pairs


def _with_others(signs: Signs, counts: Sequence[Mapping[int, int]]) -> tuple[float, float]:
    """The same of one rater, whose own signs are in the counts, with each of the others."""
    hits = sum(
        sum(_match(own, sign) * count for sign, count in of_pair.items()) - 1
        for own, of_pair in zip(signs, counts, strict=True)
    )
    return hits, sum(sum(of_pair.values()) - 1 for of_pair in counts)


def _first_wins(annotation: Annotation) -> tuple[float, float]:
    """How often the answer that stood higher on the page was preferred, of the decided pairs."""
    if not annotation.shown:  # an imported annotation: nobody knows how the answers stood
        return 0, 0
    ranks = [annotation.ranks[place] for place in annotation.shown]
    decided = [sign for sign in pair_signs(ranks) if sign]
    return sum(sign > 0 for sign in decided), len(decided)


def _alpha(ranked: Mapping[str, Mapping[str, Signs]], raters: Sequence[str]) -> float | None:
    import numpy as np
    from krippendorff import alpha

    columns = [
        [one[rater][place] if rater in one else math.nan for rater in raters]
        for one in ranked.values()
        if len(one) > 1
        for place in range(len(next(iter(one.values()))))
    ]
    if not columns:
        return None
    table = np.array(columns, dtype=float).T
    table = np.concatenate([table, -table], axis=1)
    if len(set(table[~np.isnan(table)].tolist())) < 2:
        return None
    return float(alpha(reliability_data=table, level_of_measurement="ordinal"))
