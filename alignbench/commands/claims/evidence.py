"""From finished runs to what they say of a part: one estimate over seeds and prompts, or the reason for none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from alignbench import layout, results, stats
from alignbench.commands.claims.registry import Part
from alignbench.results import Results


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and its folder for what the record does not have."""

    results: Results
    folder: Path = Path()

    @cached_property
    def scores(self) -> dict[tuple[str, int], dict[str, float]]:
        """The first judge's mean score of each evaluation prompt, by label and seed."""
        import pyarrow.parquet as pq

        judge = self.results.judges[0]["name"]
        found: dict[tuple[str, int], dict[str, list[float]]] = {}
        for row in pq.read_table(self.folder / layout.EVALUATION / layout.SCORES).to_pylist():
            if row["judge"] == judge and row["score"] is not None:
                of = found.setdefault((row["label"], row["seed"]), {})
                of.setdefault(row["prompt_id"], []).append(row["score"])
        return {cell: {id: fmean(ones) for id, ones in of.items()} for cell, of in found.items()}

    def kl(self, label: str, seed: int) -> float | None:
        """The KL from base of a cell's answers, in nats an answer: the mean over the evaluation prompts."""
        (cell,) = (one for one in self.results.cells if (one.label, one.seed) == (label, seed))
        return cell.metrics.get("kl.base", results.Measured()).value

    def judged(self, label: str, seed: int, share: str) -> dict[str, float]:
        """Return a share, such as `accuracy`, of the judge that a cell trained on each held-out row; {} if none was."""
        cell = json.loads(
            (layout.cell_folder(self.folder, label, seed) / layout.CELL).read_text(encoding="utf-8")
        )
        of_rows = (one["quality"].get(layout.OF_ROWS) for one in cell["judges"])
        return {id: row[share] for id, row in next(filter(None, of_rows), {}).items() if share in row}

    @cached_property
    def conversations(self) -> dict[str, str]:
        """The conversation of each evaluation prompt: prompts of one conversation count as one."""
        text = (self.folder / layout.EVALUATION / layout.PROMPTS).read_text(encoding="utf-8")
        return {one["id"]: one["conversation"] for one in map(json.loads, text.splitlines())}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What runs say of one part: an estimate of a minus b (or of a minus `around`), or why there is none."""

    estimate: stats.Estimate | None = None
    missing: str = ""
    value: float | None = None
    """The number, where there are too few seeds for an estimate."""
    left_out: int = 0
    """Seeds at which a label of the part, or what it starts from, diverged."""
    seeds: int = 0
    """Seeds that were run."""


def evidence(part: Part, runs: Mapping[str, Run]) -> Evidence:
    """Return what `runs`, by variant, say of a part."""
    sides = [_place(label) for label in part.labels]
    absent = [variant for variant, _ in sides if variant not in runs]
    if absent:
        return Evidence(missing="not run yet")
    ran = [{cell.seed: cell for cell in runs[of].results.cells_of(label)} for of, label in sides]
    seeds = sorted(set.union(*map(set, ran)))
    bad = [seed for seed in seeds if any(seed not in of or of[seed].status != "done" for of in ran)]
    known = [seed for seed in seeds if seed not in bad]
    found = _estimate(part, sides, runs, known)
    if isinstance(found, str):
        value = _of_policies(part, sides, runs) if found == _FEW else None
        return Evidence(missing=found, value=value, left_out=len(bad), seeds=len(seeds))
    return Evidence(_shifted(found, part.around), left_out=len(bad), seeds=len(seeds))


def _estimate(
    part: Part, sides: Sequence[tuple[str, str]], runs: Mapping[str, Run], seeds: Sequence[int]
) -> stats.Estimate | str:
    if part.frontier:
        return _at_equal_kl(
            [label for _, label in sides], runs[sides[0][0]], seeds, flat=part.beyond == "flat"
        )
    if part.metric.startswith("judge."):
        return _of_judges(part.metric.partition(".")[2], sides, runs, seeds)
    if len({variant for variant, _ in sides}) > 1:
        return _by_prompt(sides, runs, seeds)
    at = _at(part, runs[sides[0][0]].results)
    if at is None:
        return f"nothing was measured at temperature {part.temperature:g}"
    run, labels = at
    first, second = sides[0][1], sides[-1][1]
    if len(sides) == 1:
        measured = labels.get(first, {}).get(part.metric, results.Measured())
        return _restored(measured.method or results.Estimate(missing=measured.missing or _FEW))
    found = run.comparison(first, second, part.metric, "method")
    if found is not None:
        return _restored(found)
    policies = run.comparison(first, second, part.metric)
    return _NONE if policies is None else policies.missing or _FEW


def _of_policies(part: Part, sides: Sequence[tuple[str, str]], runs: Mapping[str, Run]) -> float | None:
    """The number that the trained policies show, where it is in one run's record."""
    variants = {variant for variant, _ in sides}
    if len(variants) > 1 or part.frontier or part.metric.startswith("judge."):
        return None
    at = _at(part, runs[variants.pop()].results)
    if at is None:
        return None
    run, labels = at
    if len(sides) == 1:
        value = labels.get(sides[0][1], {}).get(part.metric, results.Measured()).value
        return None if value is None else value - part.around
    found = run.comparison(sides[0][1], sides[1][1], part.metric)
    return found.difference if found else None


def _at(part: Part, run: Results) -> tuple[Results, Mapping[str, Mapping[str, results.Measured]]] | None:
    """Return a run with the comparisons at the part's temperature, and each label's numbers there."""
    if part.temperature is None or len(run.recipe["evaluation"]["sampling"]["temperature"]) == 1:
        return run, {one.label: one.metrics for one in run.labels}
    at = next((one for one in run.settings if one.temperature == part.temperature), None)
    return None if at is None else (run.model_copy(update={"comparisons": at.comparisons}), at.labels)


def _restored(one: results.Comparison | results.Estimate) -> stats.Estimate | str:
    """The estimate that a record holds."""
    value = one.difference if isinstance(one, results.Comparison) else one.value
    if value is None or one.t is None:
        return one.missing or _NONE
    t = one.t
    return stats.Estimate(
        "method",
        value,
        t.se,
        t.df,
        t.prompts,
        t.seeds,
        t.tail,
        t.centre,
        of_seeds=t.of_seeds,
        of_prompts=t.of_prompts,
    )


def _by_prompt(
    sides: Sequence[tuple[str, str]], runs: Mapping[str, Run], seeds: Sequence[int]
) -> stats.Estimate | str:
    """Two labels of two runs, paired by seed and prompt."""
    (one, a), (two, b) = sides
    mine, theirs = runs[one].scores, runs[two].scores
    shared = [seed for seed in seeds if (a, seed) in mine and (b, seed) in theirs]
    per_seed = [
        {id: value - theirs[b, seed][id] for id, value in mine[a, seed].items() if id in theirs[b, seed]}
        for seed in shared
    ]
    try:
        return stats.method(stats.tabulate(per_seed, runs[one].conversations))
    except stats.NotEstimableError as reason:
        return str(reason)


def _at_equal_kl(
    labels: Sequence[str], run: Run, seeds: Sequence[int], *, flat: bool
) -> stats.Estimate | str:
    """The reward of the first label less that of the others at its KL from base, prompt by prompt.

    The reward at a KL lies on the straight line between the two labels whose KL, the mean over the prompts of that
    seed, is next to it; if `flat`, beyond the largest KL it is that of the label there. Seeds and prompts are samples;
    the weights of the line vary with the seed.
    """
    first = labels[0]
    per_seed = []
    for seed in seeds:
        kl = {label: run.kl(label, seed) for label in labels}
        at = kl.pop(first)
        if at is None or None in kl.values():
            return _NONE
        known = sorted((value, label) for label, value in kl.items() if value is not None)
        if flat and at > known[-1][0]:
            known.append((at, known[-1][1]))
        around = next((both for both in pairwise(known) if both[0][0] <= at <= both[1][0]), None)
        if around is None:
            return f"at seed {seed} the KL of {first}, {at:.2f}, is outside of {known[0][0]:.2f} to {known[-1][0]:.2f}"
        (low, lower), (high, upper) = around
        share = (at - low) / (high - low) if high > low else 0.5
        mine, below, above = (run.scores[label, seed] for label in (first, lower, upper))
        per_seed.append(
            {
                id: value - (1 - share) * below[id] - share * above[id]
                for id, value in mine.items()
                if id in below and id in above
            }
        )
    try:
        return stats.method(stats.tabulate(per_seed, run.conversations))
    except stats.NotEstimableError as reason:
        return str(reason)


def _of_judges(
    share: str, sides: Sequence[tuple[str, str]], runs: Mapping[str, Run], seeds: Sequence[int]
) -> stats.Estimate | str:
    """What judges that were trained on the way are worth on held-out rows, paired by seed and row where there are two:
    rows are a sample as seeds are."""
    per_seed = []
    for seed in seeds:
        first, *second = (runs[variant].judged(label, seed, share) for variant, label in sides)
        if not first or not all(second):
            return _NONE
        if second and first.keys() != second[0].keys():
            return "the two judges were measured on different rows"
        per_seed.append({id: value - (second[0][id] if second else 0.0) for id, value in first.items()})
    try:
        return stats.method(stats.tabulate(per_seed))
    except stats.NotEstimableError as reason:
        return str(reason)


def _shifted(one: stats.Estimate, around: float) -> stats.Estimate:
    if not around:
        return one
    centre = one.value if one.centre is None else one.centre
    return replace(one, value=one.value - around, centre=centre - around)


def _place(label: str) -> tuple[str, str]:
    variant, _, name = label.rpartition("/")
    return variant, name


_FEW = f"the method needs {stats.MIN_SEEDS} seeds or more"
_NONE = "there is no such number in this run"
