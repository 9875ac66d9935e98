"""How sure a mean is when prompts and raters are both samples: a crossed layout with holes.

Not every rater sees every prompt. With y[p, r] = mean + prompt[p] + rater[r] + rest[p, r], each prompt counting
once, the variances of the three parts are found by the method of moments from differences within prompts,
within raters and over all (Gao and Owen 2017, Electronic Journal of Statistics 11(1)), and the mean's
variance follows from how often each prompt and each rater stands in it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from alignbench.api.metric import Cell, Evidence, matches
from alignbench.judges.people import People
from alignbench.label.quality import share
from alignbench.recipe.schema import BASE
from alignbench.stats import Estimate, NotEstimableError

MIN_RATERS = 3
"""With fewer raters an interval can speak of these raters alone."""


def estimate(values: Mapping[str, Mapping[str, float]]) -> Estimate:
    """Return the mean that other raters would find on other prompts: `values` by prompt and rater.

    The estimate is the mean over prompts of the mean over their raters. Satterthwaite's degrees of freedom
    take the raters' share of the variance as it is, not its square, as `alignbench.stats.method` does for
    seeds: the share rests on few raters and is too often small by chance. Raises NotEstimableError for fewer than
    three raters, two prompts, or where no rater has two prompts or no prompt two raters.
    """
    raters = {rater: place for place, rater in enumerate(sorted({r for of in values.values() for r in of}))}
    prompts = [of for of in values.values() if of]
    if len(raters) < MIN_RATERS:
        raise NotEstimableError(f"raters are a sample from {MIN_RATERS} on (got {len(raters)})")
    if len(prompts) < 2:
        raise NotEstimableError(f"an interval needs two prompts or more (got {len(prompts)})")
    row = np.array([place for place, of in enumerate(prompts) for _ in of])
    column = np.array([raters[rater] for of in prompts for rater in of])
    y = np.array([value for of in prompts for value in of.values()], dtype=np.float64)
    per_prompt, per_rater = np.bincount(row), np.bincount(column)
    weights = 1 / (len(prompts) * per_prompt[row])
    mean = float(weights @ y)
    rater, prompt, rest = _components(y, row, column, per_prompt, per_rater)
    of_raters = rater * float((np.bincount(column, weights) ** 2).sum()) + rest * float((weights**2).sum())
    of_prompts = prompt / len(prompts)
    total = of_raters + of_prompts
    share = of_raters / total if total else 1.0
    df = 1 / (share / (len(raters) - 1) + (1 - share) / (len(prompts) - 1))
    tail = df**0.25 * (len(raters) - 1) ** 0.75
    return Estimate("policies", mean, math.sqrt(total), df, len(prompts), len(raters), tail)


def _components(
    y: np.ndarray, row: np.ndarray, column: np.ndarray, per_row: np.ndarray, per_column: np.ndarray
) -> tuple[float, float, float]:
    """The variances of raters, prompts and the rest, none below zero."""
    n, rows, columns = len(y), len(per_row), len(per_column)
    y = y - y.mean()

    def within(group: np.ndarray, sizes: np.ndarray) -> float:
        sums = np.bincount(group, y, minlength=len(sizes))
        return float((y**2).sum() - (sums**2 / sizes).sum())

    # E[within prompts] = (rater + rest)(n - P), E[within raters] = (prompt + rest)(n - R), and over all pairs
    # E = prompt (n^2 - sum n_p^2) + rater (n^2 - sum n_r^2) + rest (n^2 - n).
    system = np.array(
        [
            [n - rows, 0.0, n - rows],
            [0.0, n - columns, n - columns],
            [n**2 - (per_column**2).sum(), n**2 - (per_row**2).sum(), n**2 - n],
        ]
    )
    if n in (rows, columns) or abs(np.linalg.det(system)) < 1e-9 * n**4:
        raise NotEstimableError("prompts and raters do not overlap enough to tell their variances apart")
    found = [within(row, per_row), within(column, per_column), n * float((y**2).sum())]
    rater, prompt, rest = np.linalg.solve(system, found)
    return max(0.0, float(rater)), max(0.0, float(prompt)), max(0.0, float(rest))


Compared = Mapping[tuple[str, Cell, Cell], Sequence[float | None]]
"""(judge, a, b) -> how probably a's answers are better, aligned with the samples of both."""


def facts(evidence: Evidence, people: People, compared: Compared) -> dict[str, Any]:
    """Return what a judge of recorded verdicts adds to its quality once there are answers to compare.

    `win_rate`: each label's rate of wins over base with an interval for other raters on other prompts, or
    why there is none. `as_a_rater`: how often each other judge orders two answers as one rater does, and, as
    `another rater`, how often a second rater does on the same answers. Only what the metrics `compared` is
    counted, so that no judge is asked for this alone.
    """
    return {
        "win_rate": _win_rates(evidence, people),
        "as_a_rater": _as_a_rater(evidence, people, compared),
    }


def _win_rates(evidence: Evidence, people: People) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label in dict.fromkeys(cell.label for cell in evidence.cells if cell.label != BASE):
        said: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for _, _, prompt, by_rater in _said(evidence, people, label, BASE):
            for rater, value in by_rater.items():
                said[prompt][rater].append(value)
        values = {
            prompt: {rater: fmean(ones) for rater, ones in of.items()} for prompt, of in said.items() if of
        }
        try:
            one, wide = estimate(values), estimate(padded(values))
        except NotEstimableError as reason:
            found[label] = str(reason)
            continue
        low, high = wide.interval()
        found[label] = {"value": one.value, "ci95": (max(0.0, low), min(1.0, high)), "raters": one.seeds}
    return found


def padded(values: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """The values with two prompts more that all raters give 0 and two that all give 1: an interval of shares then
    has a width at its ends too (Agresti and Coull 1998)."""
    who = sorted({rater for of in values.values() for rater in of})
    more = {f"/{share}/{number}": dict.fromkeys(who, share) for share in (0.0, 1.0) for number in (1, 2)}
    return {**values, **more}


def _as_a_rater(evidence: Evidence, people: People, compared: Compared) -> dict[str, Any]:
    """Shares of equal verdicts on two answers with one rater's, a tie of one side alone a half."""
    counts: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)

    def count(who: str, prompt: str, hits: list[float]) -> None:
        old = counts[who].get(prompt, (0.0, 0.0))
        counts[who][prompt] = (old[0] + sum(hits), old[1] + len(hits))

    others = [name for name, judge in evidence.judges.items() if not judge.recorded]
    labels = dict.fromkeys(cell.label for cell in evidence.cells)
    for a, b in combinations(labels, 2):
        for cells, place, prompt, by_rater in _said(evidence, people, a, b):
            if evidence.samples(cells[0])[place].text == evidence.samples(cells[1])[place].text:
                continue  # a tie of everybody
            ones = list(by_rater.values())
            count("another rater", prompt, [_match(x, y) for x, y in combinations(ones, 2)])
            for name in others:
                one_cell, other_cell = cells
                a_first = compared.get((name, one_cell, other_cell))
                b_first = compared.get((name, other_cell, one_cell))
                verdict = a_first[place] if a_first else b_first[place] if b_first else None
                if verdict is not None:
                    count(name, prompt, [_match(verdict if a_first else 1 - verdict, one) for one in ones])
    return {who: found for who, of in counts.items() if (found := share(of.values()))}


def _match(x: float, y: float) -> float:
    return 1 - abs(int(np.sign(x - 0.5)) - int(np.sign(y - 0.5))) / 2


def _said(
    evidence: Evidence, people: People, a: str, b: str
) -> Iterator[tuple[tuple[Cell, Cell], int, str, dict[str, float]]]:
    """What each rater said of the answers of two labels, where anybody ranked them."""
    asked = {prompt.id: prompt for prompt in evidence.prompts}
    for seed, against in matches(evidence.cells, a, b):
        cells = Cell(a, seed), Cell(b, seed if against is None else against)
        first, second = (evidence.samples(cell) for cell in cells)
        prompts = [asked[one.prompt_id] for one in first]
        said = people.by_rater(prompts, [one.text for one in first], [one.text for one in second])
        for place, by_rater in enumerate(said):
            if by_rater:
                yield cells, place, prompts[place].id, by_rater
