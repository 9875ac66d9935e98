"""Coverage of the intervals of what people say, with raters of known bias and noise.

    python benchmarks/proofs/raters.py

Three labels. A rater sees the worth of an answer with a liking for its label (the rater's bias), a liking for
the answer, and noise of the moment; from it come wins, Bradley-Terry strengths and scores from 1 to 7. Every
interval is `alignbench.evaluation.comparison`'s own: of the numbers of each label, and of the differences. The truth
is what raters and prompts without end would give. Writes raters.json next to this file: coverage now, and before,
when raters counted as fixed. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from alignbench.api.metric import Difference, Measure
from alignbench.evaluation.comparison import by_label, comparisons
from alignbench.metrics.bradley_terry import ELO
from alignbench.metrics.fits import NoFitError, keyed, strengths

Values = NDArray[np.float64]

LABELS = ("base", "a", "b")
WORTH = np.array([0.0, 0.3, 0.6])
OF_SEED, OF_PROMPT, OF_ANSWER, NOISE, SEVERITY = 0.15, 0.5, 0.3, 0.8, 0.5
"""Standard deviations: of a label at a seed, of a label at a prompt, of a rater's liking of one answer, of the
moment, and of how high a rater scores everything."""
BIASES = (0.3, 0.8)
"""Standard deviation over raters of their liking for a label, where the labels lie 0.3 apart."""
RATERS, PROMPTS, SEEDS = (3, 5, 20), (20, 50), (1, 3)
RUNS = 150
ASKED = 0.93


@dataclass(frozen=True)
class Setting:
    """One kind of labelling."""

    raters: int
    prompts: int
    seeds: int
    bias: float
    overlap: float = 1.0
    """Share of prompts that every rater ranks; each of the others goes to one rater."""


def seen(rng: np.random.Generator, one: Setting) -> tuple[Values, Values]:
    """Return what each rater sees, [raters, seeds, prompts, labels], and the seeds' part of it, [seeds, labels]."""
    shape = (one.raters, one.seeds, one.prompts, len(LABELS))
    of_seed = rng.normal(0, OF_SEED, (one.seeds, len(LABELS)))
    looks = (
        WORTH
        + of_seed[None, :, None, :]
        + rng.normal(0, OF_PROMPT, (1, 1, *shape[2:]))
        + rng.normal(0, one.bias, (one.raters, 1, 1, len(LABELS)))
        + rng.normal(0, OF_ANSWER, shape)
        + rng.normal(0, NOISE, shape)
    )
    return looks, of_seed


def wins_of(looks: Values) -> Values:
    """Return who wins by what is seen, [..., labels, labels]."""
    return (1 + np.sign(looks[..., :, None] - looks[..., None, :])) / 2


def measured(rng: np.random.Generator, one: Setting, looks: Values) -> tuple[list[Measure], list[Difference]]:
    """Return what the metrics make of one labelling."""
    names, ids = [f"r{r}" for r in range(one.raters)], [f"p{p}" for p in range(one.prompts)]
    severity = rng.normal(0, SEVERITY, (one.raters, 1, 1, 1))
    wins, points = wins_of(looks), np.clip(np.round(4 + 1.2 * looks + severity), 1, 7)
    alone = rng.random(one.prompts) >= one.overlap
    absent = alone & (np.arange(one.raters)[:, None] != rng.integers(0, one.raters, one.prompts))
    for values in (wins, points):
        values[np.broadcast_to(absent[:, None], values.shape[:3])] = np.nan

    def both(values: Values) -> dict[str, Any]:
        means = np.nanmean(values, axis=0).tolist()
        return {"values": dict(zip(ids, means, strict=True)), "by_rater": keyed(ids, names, values)}

    measures, differences = [], []
    for seed in range(one.seeds):
        fitted = ELO * strengths(np.nanmean(wins[:, seed], axis=0), wins[:, seed])[1]
        common: dict[str, Any] = {"seed": seed, "judge": "people", "higher_is_better": True}
        for i, label in enumerate(LABELS[1:], 1):
            for metric, values, span in (
                ("win_rate", wins[:, seed, :, i, 0], (0, 1)),
                ("score", points[:, seed, :, i], None),
                ("elo", fitted[..., i], None),
            ):
                measures.append(Measure(metric=metric, label=label, span=span, **common, **both(values)))
        for (i, a), (j, b) in combinations(enumerate(LABELS), 2):
            for metric, values, span in (
                ("win_rate", wins[:, seed, :, i, j] - 0.5, (-0.5, 0.5)),
                ("score", points[:, seed, :, i] - points[:, seed, :, j], None),
                ("elo", fitted[..., i] - fitted[..., j], None),
            ):
                differences.append(Difference(metric=metric, a=a, b=b, span=span, **common, **both(values)))
    return measures, differences


def truth(worth: Values, one: Setting, extra: float = 0.0) -> dict[tuple[str, ...], float]:
    """Return the true values of labels with `worth` [labels] and a further variance of each answer, by
    (metric, label) and (metric, a, b)."""
    variance = OF_PROMPT**2 + one.bias**2 + OF_ANSWER**2 + NOISE**2 + extra
    wins = ndtr((worth[:, None] - worth[None, :]) / np.sqrt(2 * variance))
    spread = np.sqrt(1.44 * variance + SEVERITY**2)
    cuts = np.arange(1.5, 7)
    scores = 1 + ndtr((4 + 1.2 * worth[:, None] - cuts) / spread).sum(axis=1)
    elo = ELO * strengths(wins[None])[0][0]
    found: dict[tuple[str, ...], float] = {}
    for i, label in enumerate(LABELS[1:], 1):
        found |= {
            ("win_rate", label): wins[i, 0],
            ("score", label): scores[i],
            ("elo", label): elo[i] - elo[0],
        }
    for (i, a), (j, b) in combinations(enumerate(LABELS), 2):
        found |= {
            ("win_rate", a, b): wins[i, j] - 0.5,
            ("score", a, b): scores[i] - scores[j],
            ("elo", a, b): elo[i] - elo[j],
        }
    return found


def intervals(
    measures: Sequence[Measure], differences: Sequence[Difference]
) -> Iterator[tuple[str, tuple[str, ...], tuple[float, float]]]:
    """Yield the estimand, what is estimated, and the interval of everything in the record."""
    for label, columns in by_label(measures, ["people"]).items():
        for metric, one in columns.items():
            for estimand, found in (("policies", one), ("method", one.method)):
                if found is not None and found.ci95 is not None:
                    yield estimand, (metric, label), found.ci95
    for one in comparisons(differences, ["people"]):
        if one.ci95 is not None:
            yield one.estimand, (one.metric, one.a, one.b), one.ci95


def coverage(one: Setting, runs: int = RUNS) -> dict[str, dict[str, float]]:
    """Return how often the intervals hold the truth, `now` and `before`, by estimand and what is measured."""
    rng = np.random.default_rng(
        [one.raters, one.prompts, one.seeds, int(10 * one.bias), int(10 * one.overlap)]
    )
    of_method = truth(WORTH, one, OF_SEED**2)
    draws = [truth(WORTH + rng.normal(0, OF_SEED, 3), one) for _ in range(500)]
    of_method |= {
        what: float(np.mean([each[what] for each in draws])) for what in of_method if what[0] == "elo"
    }
    hits: dict[str, Counter[str]] = {"now": Counter(), "before": Counter()}
    count: Counter[str] = Counter()
    for _ in range(runs):
        looks, of_seed = seen(rng, one)
        each = [truth(WORTH + ours, one) for ours in of_seed]
        of_these = {what: float(np.mean([at[what] for at in each])) for what in each[0]}
        true = {"policies": of_these, "method": of_method}
        try:
            measures, differences = measured(rng, one, looks)
        except NoFitError:
            continue
        fixed = [replace(m, by_rater={}) for m in measures], [replace(d, by_rater={}) for d in differences]
        for when, given in (("now", (measures, differences)), ("before", fixed)):
            for estimand, what, (low, high) in intervals(*given):
                kind = f"{estimand}: {what[0]}{' difference' if len(what) > 2 else ''}"
                hits[when][kind] += low <= true[estimand][what] <= high
                count[kind] += when == "now"
    return {
        when: {kind: round(found[kind] / count[kind], 4) for kind in count} for when, found in hits.items()
    }


def settings() -> Iterator[Setting]:
    """Yield every labelling that is simulated."""
    for raters, prompts, seeds, bias in product(RATERS, PROMPTS, SEEDS, BIASES):
        yield Setting(raters, prompts, seeds, bias)
    for raters in RATERS:
        yield Setting(raters, 50, 1, 0.3, overlap=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="simulated labellings of each setting")
    runs = parser.parse_args().runs
    found = []
    for one in settings():
        found.append({**asdict(one), **coverage(one, runs)})
        print(json.dumps(found[-1]), flush=True)
        whole = {"asked": ASKED, "runs": runs, **summary(found), "settings": found}
        Path(__file__).with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the least coverage of any setting, and the mean over settings of each kind of interval."""
    kinds = dict.fromkeys(kind for one in found for kind in one["now"])
    return {
        "least": {when: min(min(one[when].values()) for one in found) for when in ("now", "before")},
        "mean": {
            kind: {
                when: round(float(np.mean([one[when][kind] for one in found if kind in one[when]])), 4)
                for when in ("now", "before")
            }
            for kind in kinds
        },
    }


if __name__ == "__main__":
    main()
