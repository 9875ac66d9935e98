"""How good a reward model is on held-out comparisons: accuracy, calibration, and the accuracy of length alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from alignbench.layout import OF_ROWS
from alignbench.rows import Pair, Ranking

BINS = 10

Compared = Pair | Ranking


@dataclass(frozen=True)
class Comparison:
    """Two answers of one row, by their places, and the probability that the first is the better one."""

    better: int
    worse: int
    preference: float = 1.0


def comparisons(row: Compared) -> list[Comparison]:
    """Return all untied comparisons of a row: C(K, 2) of them where a ranking of K answers has no ties."""
    if isinstance(row, Pair):
        return [Comparison(0, 1, row.preference)]
    return [Comparison(*one) for one in row.comparisons()]


def quality(rows: Sequence[Compared], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the quality of `scores`, one for each answer of each row, against the rows' labels.

    `accuracy`: share of untied comparisons ordered as the label has them, all rows with equal weight; `log_loss` and
    `calibration` (expected calibration error over ten bins) of the logistic function of the margin;
    `length_accuracy`: the better of "longer wins" and "shorter wins"; `groups`: accuracy by annotator group;
    `agreement`: how often two annotators of the same answers agree, an upper bound of the accuracy, where the
    rows name their annotators and answers were ranked twice; `of_rows`: accuracy and log loss of each row by its id.
    """
    margins: list[tuple[float, float]] = []
    by_group: dict[str, list[float]] = defaultdict(list)
    longer: list[float] = []
    of_rows: dict[str, dict[str, float]] = {}
    for row, given in zip(rows, scores, strict=True):
        pairs = comparisons(row)
        lengths = [len(one.response) for one in row.sequences()]
        right, lost = [], []
        for one in pairs:
            margin = given[one.better] - given[one.worse]
            margins.append((margin, one.preference))
            right.append(_right(margin, one.preference))
            lost.append(_log_loss(margin, one.preference))
            longer.append(_right(lengths[one.better] - lengths[one.worse], one.preference))
        if pairs:
            by_group[str(row.extra.get("group", ""))].append(sum(right) / len(right))
            of_rows[row.id] = {"accuracy": sum(right) / len(right), "log_loss": sum(lost) / len(lost)}
    if not margins:
        return {"comparisons": 0}
    length = sum(longer) / len(longer)
    found: dict[str, Any] = {
        "comparisons": len(margins),
        "rows": len(of_rows),
        **{name: fmean(one[name] for one in of_rows.values()) for name in ("accuracy", "log_loss")},
        "calibration": calibration(margins),
        "length_accuracy": max(length, 1 - length),
        OF_ROWS: of_rows,
    }
    if set(by_group) != {""}:
        ceiling = agreement(rows)
        found["groups"] = {
            name: {"accuracy": sum(right) / len(right), "rows": len(right), "agreement": ceiling.get(name)}
            for name, right in sorted(by_group.items())
        }
    return found


def with_gap(held_out: Mapping[str, Any], learned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the quality on held-out rows with that on rows it was trained on, and the gap of the two.

    `train_accuracy`, `train_log_loss`; `gap`: the log loss on held-out rows less that on the others, which grows as it
    over-fits. In `of_rows` it is that of each held-out row.
    """
    if not held_out["comparisons"] or not learned["comparisons"]:
        return dict(held_out)
    train = learned["log_loss"]
    of_rows = {id: {**one, "gap": one["log_loss"] - train} for id, one in held_out[OF_ROWS].items()}
    return {
        **held_out,
        "train_accuracy": learned["accuracy"],
        "train_log_loss": train,
        "gap": held_out["log_loss"] - train,
        OF_ROWS: of_rows,
    }


def calibration(margins: Sequence[tuple[float, float]]) -> float:
    """Return the expected calibration error of s(margin): mean distance of probability and share, by bin."""
    bins: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for margin, preference in margins:
        # Both orders of a comparison, so that the order in which it is stored does not matter.
        for sign, share in ((1, preference), (-1, 1 - preference)):
            predicted = 1 / (1 + math.exp(-max(-60.0, min(60.0, sign * margin))))
            bins[min(int(predicted * BINS), BINS - 1)].append((predicted, share))
    total = sum(map(len, bins.values()))
    return sum(abs(sum(predicted - share for predicted, share in found)) for found in bins.values()) / total


def agreement(rows: Sequence[Compared]) -> Mapping[str, float]:
    """Return for each group how often its annotators order answers as others order the same answers.

    Only rows with one prompt and common answers count; {} where no prompt was ranked twice.
    """
    ranked: dict[str, list[tuple[str, str, dict[tuple[str, str], int]]]] = defaultdict(list)
    for row in rows:
        orders: dict[tuple[str, str], int] = {}
        texts = (row.chosen, row.rejected) if isinstance(row, Pair) else row.answers
        for one in comparisons(row):
            better, worse = texts[one.better], texts[one.worse]
            orders[min(better, worse), max(better, worse)] = 1 if better < worse else -1
        key = repr([(turn["role"], turn["content"]) for turn in row.prompt])
        ranked[key].append((str(row.extra.get("annotator", row.id)), str(row.extra.get("group", "")), orders))
    hits: dict[str, list[bool]] = defaultdict(list)
    for same in ranked.values():
        for (who, group, ours), (other, theirs_group, theirs) in combinations(same, 2):
            if who == other:
                continue
            equal = [ours[pair] == theirs[pair] for pair in ours.keys() & theirs.keys()]
            for one in {group, theirs_group}:
                hits[one] += equal
    return {group: sum(found) / len(found) for group, found in hits.items() if found}


def _right(margin: float, preference: float) -> float:
    if margin == 0:
        return 0.5
    return preference if margin > 0 else 1 - preference


def _log_loss(margin: float, preference: float) -> float:
    def softplus(x: float) -> float:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    return preference * softplus(-margin) + (1 - preference) * softplus(margin)
