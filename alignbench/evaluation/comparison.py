"""From values per prompt to the verdicts of `results.json`: every label, every cell, every pair of labels."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from alignbench import plugins, results, stats
from alignbench.api.metric import Cell, Difference, Evidence, Measure, Metric, Missing, Need
from alignbench.errors import AlignbenchError, PluginError, Problem, RecipeError
from alignbench.evaluation.one_row import measured
from alignbench.evaluation.raters import Raters, raters_of, with_raters
from alignbench.rows import Prompt, conversation

Clusters = Mapping[str, str]
"""Prompt id -> the conversation it belongs to; a prompt that is absent stands for itself."""
NO_CLUSTERS: Clusters = {}
OWN = __name__.partition(".")[0]
"""The package whose metrics have their own places in the report."""
LIKELIHOODS: frozenset[Need] = frozenset({"logprobs", "entropy"})
"""What is defined on samples that were drawn at temperature 1."""


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


def summarise(
    metrics: Sequence[Metric],
    evidence: Evidence,
    margins: Mapping[str, float] | None = None,
    *,
    unscaled: Evidence | None = None,
    judges: Sequence[str] | None = None,
    also: Iterable[tuple[Metric, Any]] = (),
    measure: Callable[[Metric, Any], list[Measure | Missing]] = measured,
) -> Summary:
    """Measure every cell of `evidence` with every metric, and compare every pair of labels.

    `margins`: column -> the difference below which two labels are equivalent. `unscaled`: the same cells with
    samples drawn at temperature 1, for metrics that read log-probabilities. `judges`: all of the run, in order,
    where `evidence` has some of them. `also`: further metrics, each with the view of the same cells that it reads.
    `measure`: what lets a metric measure.
    Prompts of one conversation count as one
    (`alignbench.rows.conversation`). Raises RecipeError for a margin of no column.
    """
    labels = list(dict.fromkeys(cell.label for cell in evidence.cells))
    measures: list[Measure | Missing] = []
    differences: list[Difference] = []
    of_plugins: set[str] = set()
    views = [
        (metric, unscaled if unscaled is not None and metric.needs & LIKELIHOODS else evidence)
        for metric in metrics
    ]
    for metric, seen in (*views, *also):
        try:
            found = measure(metric, seen)
            differences += [
                one for a, b in combinations(labels, 2) for one in metric.differences(seen, found, a, b)
            ]
        except Exception as error:  # a plugin's fault is its own column's
            if isinstance(error, AlignbenchError) and not isinstance(error, PluginError):
                raise  # it says what is wrong with the recipe, and how to mend it
            traceback.print_exc()
            reason = f"the metric failed: {plugins.blamed(error) or _said(error)}"
            name = metric.name or type(metric).__name__.lower()
            found = [Missing(metric=name, **cell._asdict(), reason=reason) for cell in evidence.cells]
        measures += found
        if type(metric).__module__.partition(".")[0] != OWN:
            of_plugins.update(one.metric for one in found)
    judges, margins = list(evidence.judges) if judges is None else judges, margins or {}
    clusters = clusters_of(evidence.prompts)
    columns, of_labels = infos(measures, judges, of_plugins), by_label(measures, judges, clusters)
    if unknown := [name for name in margins if name not in columns]:
        raise RecipeError(
            Problem(
                f"{', '.join(map(repr, unknown))} is not a column of this run",
                f"name one of {', '.join(columns)}",
                field="evaluation.margin",
            )
        )
    compared = comparisons(differences, judges, clusters, margins)
    return Summary(
        metrics=columns,
        labels=of_labels,
        cells=by_cell(measures, judges, clusters),
        comparisons=compared + gaps(columns, of_labels, compared),
    )


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


def clusters_of(prompts: Iterable[Prompt]) -> Clusters:
    """Return the conversation of each prompt."""
    return {one.id: conversation(one.prompt) for one in prompts}


def column(metric: str, judge: str | None, judges: Sequence[str]) -> str:
    """Return the name of a column: the first judge's bears the metric's name alone, `reward`; the others'
    add theirs, `reward@reward-model`."""
    return metric if judge is None or judge == judges[0] else f"{metric}@{judge}"


def infos(
    measures: Iterable[Measure | Missing], judges: Sequence[str], of_plugins: Collection[str] = ()
) -> dict[str, results.MetricInfo]:
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
                plugin=one.metric in of_plugins,
            )
        else:
            found.setdefault(name, results.MetricInfo(judge=one.judge, plugin=one.metric in of_plugins))
    return found


def by_label(
    measures: Iterable[Measure | Missing], judges: Sequence[str], clusters: Clusters = NO_CLUSTERS
) -> dict[str, dict[str, results.Measured]]:
    """Return each label's columns over all of its seeds, under both estimands."""
    groups: dict[tuple[str, str], list[Measure | Missing]] = defaultdict(list)
    for one in measures:
        groups[one.label, column(one.metric, one.judge, judges)].append(one)
    found: dict[str, dict[str, results.Measured]] = defaultdict(dict)
    for (label, name), group in groups.items():
        found[label][name] = _measured(group, clusters)
    return dict(found)


def by_cell(
    measures: Iterable[Measure | Missing], judges: Sequence[str], clusters: Clusters = NO_CLUSTERS
) -> dict[Cell, dict[str, results.Measured]]:
    """Return each cell's columns: what its one policy does."""
    found: dict[Cell, dict[str, results.Measured]] = defaultdict(dict)
    for one in measures:
        found[Cell(one.label, one.seed)][column(one.metric, one.judge, judges)] = _measured([one], clusters)
    return dict(found)


def comparisons(
    differences: Iterable[Difference],
    judges: Sequence[str],
    clusters: Clusters = NO_CLUSTERS,
    margins: Mapping[str, float] | None = None,
) -> tuple[results.Comparison, ...]:
    """Return every pair of labels on every column, under each estimand.

    Holm's correction holds within one column and estimand: over all the pairs that one reads down a column
    of the table. `p_holm_all` holds over all columns too, for a reader who searches all of them for a difference.
    `smallest_detectable` is based on the correction's strictest step, what the run would have found even if
    no other pair differed, and on the planning variance of the whole column.
    """
    columns: dict[str, dict[stats.Pair, list[Difference]]] = defaultdict(lambda: defaultdict(list))
    for one in differences:
        columns[column(one.metric, one.judge, judges)][one.a, one.b].append(one)
    return _over_all(
        [
            compared
            for name, pairs in columns.items()
            for estimand in stats.ESTIMATORS
            for compared in _family(name, estimand, pairs, clusters, (margins or {}).get(name))
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
    name: str,
    estimand: stats.Estimand,
    pairs: Mapping[stats.Pair, Sequence[Difference]],
    clusters: Clusters,
    margin: float | None,
) -> Iterator[results.Comparison]:
    tables = {pair: _table(group, clusters, estimand) for pair, group in pairs.items()}
    raters = {pair: raters_of([one.by_rater for one in group], clusters) for pair, group in pairs.items()}
    estimates = {
        pair: with_raters(one, raters[pair]) if isinstance(one, stats.Estimate) else one
        for pair, one in _estimates(estimand, pairs, tables).items()
    }
    known = {pair: one for pair, one in estimates.items() if isinstance(one, stats.Estimate)}
    if estimand == "method" and not known:
        return  # too few seeds in the whole run
    p_values = {pair: one.p_value() for pair, one in known.items()}
    p_holm = _corrected(p_values)
    p_equivalence = _corrected(
        {pair: one.p_equivalence(margin) for pair, one in known.items()} if margin else {}
    )
    vary = {pair for pair, one in raters.items() if one and one.vary}
    spans = {pair: group[0].span for pair, group in pairs.items()}
    least = _detectable(
        estimand, known, {pair: one for pair, one in tables.items() if pair not in vary}, spans
    )
    for pair, one in estimates.items():
        table = tables[pair]
        first = pairs[pair][0]
        common: dict[str, Any] = {
            "a": pair[0],
            "b": pair[1],
            "metric": name,
            "judge": first.judge,
            "estimand": estimand,
            "seeds": tuple(dict.fromkeys(each.seed for each in pairs[pair])),
            "against": tuple(dict.fromkeys(each.against for each in pairs[pair] if each.against is not None)),
        }
        if isinstance(one, str) or isinstance(table, str):
            yield results.Comparison(**common, missing=str(one))
            continue
        yield results.Comparison(
            **common,
            difference=one.value,
            ci95=_interval(one),
            t=_student_t(one),
            p_value=p_values[pair],
            p_holm=p_holm[pair],
            verdict=stats.verdict(one.value, p_holm[pair], first.higher_is_better, p_equivalence.get(pair)),
            p_permutation=stats.permutation(table) if estimand == "policies" and pair not in vary else None,
            raters=_count(raters[pair]),
            margin=margin,
            p_equivalence=p_equivalence.get(pair),
            smallest_detectable=least[pair],
        )


def _corrected(p_values: Mapping[stats.Pair, float]) -> dict[stats.Pair, float]:
    return dict(zip(p_values, stats.holm(p_values.values()), strict=True))


def _estimates(
    estimand: stats.Estimand,
    pairs: Mapping[stats.Pair, Sequence[Difference]],
    tables: Mapping[stats.Pair, stats.Table | str],
) -> dict[stats.Pair, stats.Estimate | str]:
    """Each pair's estimate, or the reason why there is none; the method's seeds are pooled over labels."""
    found: dict[stats.Pair, stats.Estimate | str] = {}
    shared: dict[stats.Pair, stats.Table] = {}
    for pair, table in tables.items():
        span = pairs[pair][0].span
        if isinstance(table, str):
            found[pair] = table
        elif estimand == "method" and table.ndim == 2 and min(len(table) - 1, table.shape[1]) >= 2:
            found[pair] = ""  # keeps its place
            shared[pair] = stats.padded(table, span) if span else table
        else:
            found[pair] = _or_reason(
                stats.unpaired if table.ndim == 3 else stats.ESTIMATORS[estimand], table, span
            )
    for pair, one in stats.pooled(shared).items() if shared else ():
        table, span = tables[pair], pairs[pair][0].span
        assert not isinstance(table, str)
        found[pair] = stats.unpadded(one, table, span) if span else one
    return found


def _detectable(
    estimand: stats.Estimand,
    known: Mapping[stats.Pair, stats.Estimate],
    tables: Mapping[stats.Pair, stats.Table | str],
    spans: Mapping[stats.Pair, tuple[float, float] | None],
) -> dict[stats.Pair, float]:
    """What each pair would have shown, by the variance of the whole column and not by the pair's own.

    Of values that end at a span, by the table that its test reads: with the prompts of the prior, which draw what is
    found towards the middle.

    By the pair's own where it has no paired table in `tables` (seeds of its own, or raters who vary), and where a label
    of it varies far more than the others.
    """
    found: dict[stats.Pair, float] = {}
    paired = {
        pair: stats.padded(table, span) if (span := spans[pair]) else table
        for pair in known
        if (table := tables.get(pair)) is not None and not isinstance(table, str) and table.ndim == 2
    }
    if estimand == "method" and all(len(table) >= stats.MIN_SEEDS for table in paired.values()):
        paired = stats.alike(paired)
    if paired:
        planning = stats.planned(paired.values())
        found = {
            pair: stats.detectable(
                planning,
                estimand,
                seeds=len(table),
                prompts=table.shape[1],
                pairs=len(known),
                labels=len({label for both in paired for label in both}),
            )
            for pair, table in paired.items()
        }
    for pair, one in known.items():
        found.setdefault(pair, one.smallest_detectable(alpha=(1 - stats.LEVEL) / len(known)))
        if span := spans[pair]:
            found[pair] *= 1 + stats.added(span) / one.prompts
    return found


def _measured(group: Sequence[Measure | Missing], clusters: Clusters) -> results.Measured:
    """The seeds of one label and column as one entry; where none was measured, the reasons."""
    measures = [one for one in group if isinstance(one, Measure)]
    if not measures:
        reasons = dict.fromkeys(one.reason for one in group if isinstance(one, Missing))
        return results.Measured(missing="; ".join(reasons))
    table = _table(measures, clusters, "policies")
    if isinstance(table, str):
        return results.Measured(missing=table)
    policies, method = (_or_reason(one, table, measures[0].span) for one in stats.ESTIMATORS.values())
    if isinstance(policies, str):
        return results.Measured(missing=policies)
    raters = raters_of([one.by_rater for one in measures], clusters)
    return results.Measured(
        **_fields(policies, policies.prompts, raters),
        method=None if isinstance(method, str) else results.Estimate(**_fields(method, method.seeds, raters)),
    )


def _fields(one: stats.Estimate, n: int, raters: Raters | None) -> dict[str, Any]:
    widened = with_raters(one, raters)
    return {
        "value": one.value,
        "ci95": _interval(widened),
        "n": n,
        "raters": _count(raters),
        "t": _student_t(widened),
    }


def _interval(one: stats.Estimate) -> results.Interval | None:
    """The 95% interval; None where all prompts have one value other than zero, which says nothing of its spread.

    Zero on every prompt is what two policies with equal answers have.
    """
    return None if one.se == 0 and one.value != 0 else one.interval()


def _student_t(one: stats.Estimate) -> results.StudentT | None:
    """The distribution of a number of the method; None for one of these policies."""
    if one.estimand != "method":
        return None
    return results.StudentT(
        se=one.se,
        df=one.df,
        tail=one.tail,
        centre=one.value if one.centre is None else one.centre,
        seeds=one.seeds,
        prompts=one.prompts,
        of_seeds=one.of_seeds,
        of_prompts=one.of_prompts,
    )


def _count(raters: Raters | None) -> int | None:
    return raters.count if raters else None


def _or_reason(
    estimator: Callable[[stats.Table], stats.Estimate], table: stats.Table, span: tuple[float, float] | None
) -> stats.Estimate | str:
    try:
        return stats.with_prior(span, estimator, table)
    except stats.NotEstimableError as reason:
        return str(reason)


def _table(
    group: Sequence[Measure | Difference], clusters: Clusters, estimand: stats.Estimand
) -> stats.Table | str:
    """The values of `group`, [seeds, prompts], or why there are none; for the method of labels with seeds of
    their own [seeds of a, seeds of b, prompts], in the order of `alignbench.api.metric.matches`."""
    if reasons := [one.missing for one in group if isinstance(one, Difference) and one.missing]:
        return "; ".join(dict.fromkeys(reasons))
    try:
        table = stats.tabulate([one.values for one in group], clusters)
    except stats.NotEstimableError as reason:
        return str(reason)
    if estimand == "method" and any(isinstance(one, Difference) and one.against is not None for one in group):
        return table.reshape(len({one.seed for one in group}), -1, table.shape[1])
    return table
