"""The table of the comparison before anyone draws it: rows, columns, prices and the caption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from alignbench.report import decoding, text
from alignbench.report.metrics import agreement, headline, metric_infos, title, unfit
from alignbench.report.verdicts import Verdict, against_start, answer_cost_ratio, same_cost
from alignbench.results import (
    MIN_RATERS,
    CellResult,
    LabelResult,
    Measured,
    MetricInfo,
    Results,
)

SHOWN = 4
"""Columns of a run without a metric that ranks; those of plugins stand beside them."""
LEADING = ("win_rate", "kl.base", "length.tokens")
"""The columns that follow the headline metric, where a run has them; then come the metrics of plugins."""

DEAR = 1.5
"""Tokens of a decoder's answer against those of its start's, from which a control at the same cost is missed."""
PRICES = ("cost", "with chain", "one answer")
"""The columns of what a label costs, each time and tokens, labels and judges included."""

COSTS = "Costs are the time and the tokens of all that was computed, labels and judges included."

NOT_RECORDED = Measured(missing="not measured in this run")


@dataclass(frozen=True)
class Column:
    """A metric with the decimals that its intervals can bear."""

    metric: str
    info: MetricInfo
    places: int

    @property
    def title(self) -> str:
        """The heading, with an arrow where one direction is better."""
        arrow = {True: " ↑", False: " ↓", None: ""}[self.info.higher_is_better]
        return f"{title(self.metric)}{arrow}"


@dataclass(frozen=True)
class Row:
    """One label of one run."""

    name: str
    """The label, with its run in front where several runs are shown."""
    results: Results
    label: LabelResult
    status: str
    reason: str
    verdict: Verdict | None
    notes: tuple[str, ...]
    """Departures, seeds that did not finish, missing metrics, warnings: one sentence each."""

    @property
    def temperature(self) -> str:
        """The temperature it is ranked at, where the run has several: `0.7`, or `own`."""
        return decoding.temperature(self.label.sampling) if self.results.settings else ""

    @property
    def done(self) -> bool:
        """Whether at least one seed finished."""
        return self.status == "done"

    def measured(self, column: Column) -> Measured:
        """Return the label's number for a column, or why there is none: of the method where it is known."""
        missing = NOT_RECORDED if self.done else Measured(missing=self.reason or self.status)
        return self.label.metrics.get(column.metric, missing).decisive()


@dataclass(frozen=True)
class FieldDifference:
    """A field of the fairness contract in which runs differ."""

    field: str
    values: Mapping[str, str]
    """By run."""

    def __str__(self) -> str:
        return f"{self.field}: " + ", ".join(
            f"{text.short(value)} in {run}" for run, value in self.values.items()
        )


@dataclass(frozen=True)
class Leaderboard:
    """The leaderboard of one run, or of several side by side."""

    runs: Mapping[str, Results]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str
    differences: tuple[FieldDifference, ...]

    @property
    def decoded(self) -> bool:
        """Whether a run has several temperatures."""
        return any(row.temperature for row in self.rows)


def leaderboard(*runs: Results) -> Leaderboard:
    """Return the leaderboard of `runs`; with several, equal labels stand next to each other."""
    named = _named(runs)
    infos: dict[str, MetricInfo] = {}
    for results in runs:
        infos = {**metric_infos(results), **infos}
    lead = next((name for results in runs if (name := headline(results))), None)
    # Of raters one by one the section of pairs speaks.
    others = [name for name in infos if name.startswith("win_rate@") and ":" not in name]
    custom = [name for name, info in infos.items() if info.plugin]
    wanted = [name for name in (lead, *LEADING[:1], *others, *LEADING[1:], *custom) if name in infos]
    wanted = list(dict.fromkeys(wanted))
    if not lead:
        wanted = list(dict.fromkeys([*wanted, *infos]))
        wanted = [name for place, name in enumerate(wanted) if place < SHOWN or name in custom]
    columns = tuple(Column(name, infos[name], places(runs, name)) for name in wanted)
    order = list(dict.fromkeys(label.label for results in runs for label in results.labels))
    rows = tuple(
        row(results, label, lead, wanted, f"{run}/{name}" if len(runs) > 1 else name)
        for name in order
        for run, results in named.items()
        if (label := results.label(name))
    )
    caption = _caption(rows, columns)
    for results in runs[:1] if len(runs) == 1 and lead else ():
        caption += _decoded(results) + _near(results)
    for run, results in named.items():
        if lead and (why := unfit(results, lead)):
            caption += f" No verdicts{f' for {run}' if len(runs) > 1 else ''}: {why}."
        elif lead and (agreed := agreement(results, lead)):
            caption += f" {f'{run}: ' if len(runs) > 1 else ''}{agreed[0].upper()}{agreed[1:]}."
    caption += f" {COSTS}"
    return Leaderboard(named, columns, rows, caption.strip(), differences(named))


def row(results: Results, label: LabelResult, lead: str | None, wanted: list[str], name: str) -> Row:
    """Return one label's row; what is missing of the `wanted` metrics and of its own is in a note."""
    status, reason = status_of(results, label)
    gaps: dict[str, list[str]] = {}
    for metric in dict.fromkeys([*wanted, *label.metrics]) if status == "done" else ():
        if (measured := label.metrics.get(metric, NOT_RECORDED)).value is None:
            gaps.setdefault(measured.missing, []).append(metric)
    unfinished = [
        f"seed {cell.seed} {cell.status}" + (f": {cell.reason}" if cell.reason else "")
        for cell in results.cells_of(label.label)
        if cell.status != "done" and status == "done"
    ]
    warnings: dict[str, list[int]] = {}
    for cell in results.cells_of(label.label):
        for warning in cell.warnings:
            warnings.setdefault(warning, []).append(cell.seed)
    ignores = results.settings and label.sampling is not None and label.sampling.temperature is None
    notes = (
        *(_without_control(results, label) if status == "done" else ()),
        *(["ignores the sampling temperature: it has the same answers at each"] if ignores else []),
        *(f"departure: {departure}" for departure in label.departures),
        *unfinished,
        *(f"warning at seed {text.listed(seeds)}: {warning}" for warning, seeds in warnings.items()),
        *(f"no {text.listed(_families(gap, label.metrics))}: {why}" for why, gap in gaps.items()),
        *_on_fewer(results, label, lead),
    )
    verdict = against_start(results, label, lead) if lead and status == "done" else None
    return Row(name, results, label, status, reason, verdict, notes)


def _on_fewer(results: Results, label: LabelResult, metric: str | None) -> Iterator[str]:
    """Say where a label's number rests on fewer prompts than others': a judge may abstain on hard ones."""
    counts = {one.label: one.metrics[metric].n or 0 for one in results.labels if metric in one.metrics}
    own, most = counts.get(label.label, 0), max(counts.values(), default=0)
    if metric and 0 < own < most:
        yield (
            f"{title(metric)} is of {own:,} prompts, and of {most:,} for others: two labels are compared on the "
            "prompts that both have"
        )


def _without_control(results: Results, label: LabelResult) -> Iterator[str]:
    """Say where a decoder's answers cost more than those of its start and no label answers at the same cost."""
    if label.decoding is None or same_cost(results, label):
        return
    times = answer_cost_ratio(results, label.label, label.decoding.against)
    if times is not None and times >= DEAR:
        yield f"no label answers at the same cost, {text.number(times, 1)} times that of {label.decoding.against}"


def _families(gap: list[str], known: Iterable[str]) -> Iterator[str]:
    """Yield metrics as headings; all numbers of one metric, where all of them are missing, as one."""
    names: dict[str, None] = {}
    for metric in gap:
        head = metric.partition(".")[0]
        family = [name for name in known if name.partition(".")[0] == head]
        whole = len(family) > 1 and set(family) <= set(gap)
        names[title(head if whole else metric)] = None
    yield from names


def status_of(results: Results, label: LabelResult) -> tuple[str, str]:
    """Return what became of a label and why: `done` as soon as one seed is."""
    cells: tuple[CellResult, ...] = results.cells_of(label.label)
    if not cells or any(cell.status == "done" for cell in cells):
        return "done", ""
    # A seed that failed says more than one that was blocked by it.
    first = next((cell for cell in cells if cell.status not in ("blocked", "cancelled")), cells[0])
    return first.status, first.reason


def start_of(label: LabelResult) -> str:
    """Return the start in words: a label, `adapter x`, or nothing."""
    if isinstance(label.start, Mapping):
        return ", ".join(f"{kind} {where}" for kind, where in label.start.items())
    return label.start or ""


def differences(runs: Mapping[str, Results]) -> tuple[FieldDifference, ...]:
    """Return the fields in which the runs' fairness contracts, and their rows, differ."""
    contracts = {
        run: dict(flat({**results.fairness, "data": results.data.fingerprints}))
        for run, results in runs.items()
    }
    fields = dict.fromkeys(field for contract in contracts.values() for field in contract)
    compared = (
        FieldDifference(field, {run: c.get(field, "not recorded") for run, c in contracts.items()})
        for field in fields
    )
    return tuple(one for one in compared if len(set(one.values.values())) > 1)


def prices(label: LabelResult) -> tuple[tuple[str, str], ...]:
    """Return time and tokens of a label: of its own, with its chain, and of one answer; see `PRICES`."""
    own, chain = label.cost.own, label.cost.chain
    found = (
        (own.seconds, own.tokens),
        (chain.seconds, chain.tokens),
        (own.answer_seconds, own.answer_tokens),
    )
    return tuple((text.duration(seconds), text.count(tokens)) for seconds, tokens in found)


def _caption(rows: tuple[Row, ...], columns: tuple[Column, ...]) -> str:
    seen = [row.measured(column) for row in rows for column in columns]
    estimands = {one.estimand for one in seen if one.value is not None}
    sentence = ""
    if estimands == {"method"}:
        sentence = "95% intervals of the method, over seeds and prompts."
    elif estimands == {"policies"}:
        sentence = "95% intervals of these policies only, over prompts: another training may differ by more."
    elif estimands:
        sentence = (
            "95% intervals of the method, over seeds and prompts; of a label with fewer than three seeds, of "
            "these policies only."
        )
    return " ".join([sentence, *_on_raters(rows, columns)])


def _on_raters(rows: tuple[Row, ...], columns: tuple[Column, ...]) -> Iterator[str]:
    """Yield what the intervals of columns by people are about; columns with the same statement are named together."""
    of: dict[str, list[str]] = {}
    for column in columns:
        counts = {one.raters for row in rows if (one := row.measured(column)).raters}
        if counts:
            few = min(counts)
            sentence = (
                "over raters too: other raters are inside the interval"
                if few >= MIN_RATERS
                else f"of {'one rater' if few == 1 else f'{few} raters'} only: another rater may differ by more"
            )
            of.setdefault(sentence, []).append(title(column.metric))
    for sentence, names in of.items():
        yield f"{text.listed(names)}: {sentence}."


def _decoded(results: Results) -> str:
    """Say at which temperature labels are ranked."""
    if not results.settings:
        return ""
    if any(label.sampling and label.sampling.same_prompts for label in results.labels):
        return (
            " Each label is ranked at the temperature T that is best on these same prompts: its numbers are"
            " too high."
        )
    if any(label.sampling and label.sampling.scores for label in results.labels):
        return (
            " Each label is ranked at the temperature T that validation prompts choose: its own best where they"
            " tell it apart, else the one that is best for most labels."
        )
    return ""


def _near(results: Results) -> str:
    """Say how many prompts of the evaluation's split nearly repeat a training prompt."""
    split = results.recipe.get("evaluation", {}).get("split", "test")
    counted = (results.data.model_extra or {}).get("near_duplicates")
    count = counted.get(split) if isinstance(counted, Mapping) else None
    if not count:
        return ""
    return f" Of the {split} prompts of the data, {count} nearly repeat{'s' if count == 1 else ''} a training prompt."


def _named(runs: tuple[Results, ...]) -> dict[str, Results]:
    named: dict[str, Results] = {}
    for place, results in enumerate(runs, 1):
        name = results.run or f"run {place}"
        named[name if name not in named else f"{name} ({place})"] = results
    return named


def places(runs: Iterable[Results], metric: str) -> int:
    """Return how many decimals a metric's column can bear."""
    return text.decimals(
        label.metrics[metric].decisive()
        for results in runs
        for label in results.labels
        if metric in label.metrics
    )


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every leaf of nested mappings with its dotted name, in words."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else str(key))
    elif not isinstance(value, Mapping):
        yield name, _word(value)


def _word(value: Any) -> str:
    """Return a setting in words: `gold, http (model x, votes 3)`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{text.line(key)} {_inner(item)}".rstrip() for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_each(item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else text.line(value)


def _inner(value: Any) -> str:
    nested = isinstance(value, (Mapping, list, tuple))
    return (f"({_word(value)})" if value else "") if nested else _word(value)


def _each(value: Any) -> str:
    """Return one of several: a plugin with its fields as `name (field 1)`."""
    if isinstance(value, Mapping) and set(value) == {"name", "config"}:
        return f"{text.line(value['name'])} {_inner(value['config'])}".rstrip()
    return _word(value) if isinstance(value, Mapping) and len(value) == 1 else _inner(value)
