"""From values per prompt to the verdicts of `results.json`: every label, every cell, every pair of labels."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from alignbench import results, stats
from alignbench.api.metric import Cell, Difference, Evidence, Measure, Metric, Missing
from alignbench.errors import AlignbenchError


@dataclass(frozen=True, slots=True)
class Summary:
    """All metrics of a run, as `results.json` holds them."""

    metrics: dict[str, results.MetricInfo]
    """Column -> what it means, in the order of the recipe."""
    labels: dict[str, dict[str, results.Measured]]
    """Label -> column -> value over all seeds."""
    cells: dict[Cell, dict[str, results.Measured]]
    """Cell -> column -> value at this seed."""
    comparisons: tuple[results.Comparison, ...]
    """Every pair of labels, in the order of the labels, once: the first minus the second."""


def summarise(metrics: Sequence[Metric], evidence: Evidence) -> Summary:
    """Measure every cell of `evidence` with every metric, and compare every pair of labels."""
    labels = list(dict.fromkeys(cell.label for cell in evidence.cells))
    measures: list[Measure | Missing] = []
    differences: list[Difference] = []
    for metric in metrics:
        try:
            found = metric.measure(evidence)
            differences += [
                one for a, b in combinations(labels, 2) for one in metric.differences(evidence, found, a, b)
            ]
        except AlignbenchError:
            raise  # it says what is wrong with the recipe, and how to mend it
        except Exception as error:  # a plugin's fault is its own column's
            traceback.print_exc()
            reason = f"the metric failed: {type(error).__name__}: {error}"
            name = type(metric).__name__.lower()
            found = [Missing(metric=name, **cell._asdict(), reason=reason) for cell in evidence.cells]
        measures += found
    judges = list(evidence.judges)
    columns, of_labels = infos(measures, judges), by_label(measures, judges)
    compared = comparisons(differences, judges)
    return Summary(
        metrics=columns,
        labels=of_labels,
        cells=by_cell(measures, judges),
        comparisons=compared + gaps(columns, of_labels, compared),
    )


def column(metric: str, judge: str | None, judges: Sequence[str]) -> str:
    """Return the name of a column: the first judge's bears the metric's name alone, `reward`; the others'
    add theirs, `reward@reward-model`."""
    return metric if judge is None or judge == judges[0] else f"{metric}@{judge}"


def infos(measures: Iterable[Measure | Missing], judges: Sequence[str]) -> dict[str, results.MetricInfo]:
    """Return what each column means, in the order in which the metrics gave them."""
    found: dict[str, results.MetricInfo] = {}
    for one in measures:
        name = column(one.metric, one.judge, judges)
        if isinstance(one, Measure):
            found[name] = results.MetricInfo(
                unit=one.unit,
                higher_is_better=one.higher_is_better,
                description=one.description,
                judge=one.judge,
            )
        else:
            found.setdefault(name, results.MetricInfo(judge=one.judge))
    return found


def by_label(
    measures: Iterable[Measure | Missing], judges: Sequence[str]
) -> dict[str, dict[str, results.Measured]]:
    """Return each label's columns over all of its seeds, under both estimands."""
    groups: dict[tuple[str, str], list[Measure | Missing]] = defaultdict(list)
    for one in measures:
        groups[one.label, column(one.metric, one.judge, judges)].append(one)
    found: dict[str, dict[str, results.Measured]] = defaultdict(dict)
    for (label, name), group in groups.items():
        found[label][name] = _measured(group)
    return dict(found)


def by_cell(
    measures: Iterable[Measure | Missing], judges: Sequence[str]
) -> dict[Cell, dict[str, results.Measured]]:
    """Return each cell's columns: what its one policy does."""
    found: dict[Cell, dict[str, results.Measured]] = defaultdict(dict)
    for one in measures:
        found[Cell(one.label, one.seed)][column(one.metric, one.judge, judges)] = _measured([one])
    return dict(found)


def comparisons(differences: Iterable[Difference], judges: Sequence[str]) -> tuple[results.Comparison, ...]:
    """Return every pair of labels on every column, under each estimand.

    Holm's correction holds within one column and estimand: over all the pairs that one reads down a column
    of the table. `p_holm_all` holds over all columns too, for who looks for any difference in any of them.
    `smallest_detectable` stands on the correction's strictest step: what the run would have
    found even if no other pair differed.
    """
    columns: dict[str, dict[tuple[str, str], list[Difference]]] = defaultdict(lambda: defaultdict(list))
    for one in differences:
        columns[column(one.metric, one.judge, judges)][one.a, one.b].append(one)
    return _over_all(
        [
            compared
            for name, pairs in columns.items()
            for estimand in stats.ESTIMATORS
            for compared in _family(name, estimand, pairs)
        ]
    )


def _over_all(compared: Sequence[results.Comparison]) -> tuple[results.Comparison, ...]:
    """Add the correction over all columns: one family under each estimand, of the pairs that have a verdict."""
    corrected: dict[int, float] = {}
    for estimand in stats.ESTIMATORS:
        family = {
            place: one.p_value
            for place, one in enumerate(compared)
            if one.estimand == estimand and one.verdict is not None and one.p_value is not None
        }
        corrected.update(zip(family, stats.holm(family.values()), strict=True))
    return tuple(
        one.model_copy(update={"p_holm_all": corrected.get(place)}) for place, one in enumerate(compared)
    )


def gaps(
    columns: Mapping[str, results.MetricInfo],
    labels: Mapping[str, Mapping[str, results.Measured]],
    compared: Iterable[results.Comparison],
) -> tuple[results.Comparison, ...]:
    """Return an entry with its reason for each pair of labels that could not be compared on a column."""
    seen = {(one.metric, one.a, one.b) for one in compared}
    found = []
    for name, info in columns.items():
        for a, b in combinations(labels, 2):
            if (name, a, b) not in seen:
                absent = {label: labels[label].get(name, results.Measured()).missing for label in (a, b)}
                reasons = [f"{label}: {why}" for label, why in absent.items() if why]
                missing = "; ".join(reasons) or "they share no seed"
                found.append(results.Comparison(a=a, b=b, metric=name, judge=info.judge, missing=missing))
    return tuple(found)


def _family(
    name: str, estimand: stats.Estimand, pairs: Mapping[tuple[str, str], Sequence[Difference]]
) -> Iterator[results.Comparison]:
    estimates = {pair: _estimate(estimand, group) for pair, group in pairs.items()}
    known = {pair: one for pair, one in estimates.items() if isinstance(one, stats.Estimate)}
    if estimand == "method" and not known:
        return  # too few seeds in the whole run
    p_values = {pair: one.p_value() for pair, one in known.items()}
    p_holm = dict(zip(p_values, stats.holm(p_values.values()), strict=True))
    for (a, b), one in estimates.items():
        judge, higher_is_better = pairs[a, b][0].judge, pairs[a, b][0].higher_is_better
        if isinstance(one, str):
            yield results.Comparison(a=a, b=b, metric=name, judge=judge, estimand=estimand, missing=one)
            continue
        yield results.Comparison(
            a=a,
            b=b,
            metric=name,
            judge=judge,
            estimand=estimand,
            difference=one.value,
            ci95=one.interval(),
            p_value=p_values[a, b],
            p_holm=p_holm[a, b],
            verdict=stats.verdict(one.value, p_holm[a, b], higher_is_better),
            p_permutation=stats.permutation(_rows(pairs[a, b])) if estimand == "policies" else None,
            smallest_detectable=one.smallest_detectable(alpha=(1 - stats.LEVEL) / len(known)),
        )


def _measured(group: Sequence[Measure | Missing]) -> results.Measured:
    """The seeds of one label and column as one entry; where none was measured, the reasons."""
    measures = [one for one in group if isinstance(one, Measure)]
    if not measures:
        reasons = dict.fromkeys(one.reason for one in group if isinstance(one, Missing))
        return results.Measured(missing="; ".join(reasons))
    policies, method = (_estimate(estimand, measures) for estimand in stats.ESTIMATORS)
    if isinstance(policies, str):
        return results.Measured(missing=policies)
    return results.Measured(
        **_fields(policies, policies.prompts),
        method=None if isinstance(method, str) else results.Estimate(**_fields(method, method.seeds)),
    )


def _fields(one: stats.Estimate, n: int) -> dict[str, Any]:
    return {"value": one.value, "ci95": one.interval(), "n": n}


def _estimate(estimand: stats.Estimand, group: Sequence[Measure | Difference]) -> stats.Estimate | str:
    """One estimate over the seeds of `group`, or the reason why there is none."""
    if reasons := [one.missing for one in group if isinstance(one, Difference) and one.missing]:
        return "; ".join(dict.fromkeys(reasons))
    sides = [(one.seed, one.against) for one in group if isinstance(one, Difference)]
    try:
        table = _rows(group)
        if estimand == "method" and any(against is not None for _, against in sides):
            # Every seed of a against every seed of b, in the order of `alignbench.api.metric.matches`.
            seeds = len({seed for seed, _ in sides})
            return stats.unpaired(table.reshape(seeds, -1, table.shape[1]))
        return stats.ESTIMATORS[estimand](table)
    except stats.NotEstimableError as reason:
        return str(reason)


def _rows(group: Sequence[Measure | Difference]) -> stats.Table:
    return stats.tabulate([one.values for one in group])
