"""The record: gathers what the cells and the evaluation left behind into `results.json`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignbench import layout, results
from alignbench.api.method import Departure
from alignbench.engine.cells import PlannedCell
from alignbench.engine.experiment import Experiment
from alignbench.engine.scheduler import CellStatus
from alignbench.recipe.departures import over_seeds
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import BASE, Recipe
from alignbench.rows import different
from alignbench.versions import installed, versions

COUNTED = tuple(results.Cost.model_fields)
_NOT_ASKED = {"missing": "the recipe does not ask for it"}
AVERAGED = (
    "answer_tokens",
    "answer_flops",
    "answer_seconds",
    "answer_forwards",
    "answer_length",
    "answer_uncached_seconds",
    "answer_uncached_tokens",
)
"""Costs of one answer: of a chain, the last policy's alone."""


def write(
    experiment: Experiment,
    statuses: Mapping[PlannedCell, CellStatus],
    launcher: Mapping[str, Any],
    *,
    started: float,
    command: str,
    registry: str = "",
) -> results.Results:
    """Write `results.json` into the run's folder and return it; `launcher`: what it says of itself."""
    run, plan = experiment.out, experiment.plan
    recipe = plan.recipe
    data = json.loads((run / layout.DATA / layout.RECORD).read_text(encoding="utf-8"))
    summary = _read(run / layout.EVALUATION / layout.SUMMARY)
    sealed = {
        cell: _read(cell.folder(run) / layout.CELL)
        for cell, ended in statuses.items()
        if ended.status == "done"
    }
    own = {cell: results.Cost(**_cost(cell_record, summary)) for cell, cell_record in sealed.items()}

    def total(cells: Iterable[PlannedCell], last: results.Cost | None = None) -> results.Cost:
        cells = list(cells)
        return _sum((own[cell] for cell in cells), _read_twice(run, cells), last=last)

    measured = _cells(summary)
    followed = {PlannedCell(one["label"], one["seed"]): one for one in summary.get("learning_curves", ())}
    record = results.Results(
        schema=results.SCHEMA,
        run=run.resolve().name,
        command=command,
        registry=registry,
        recipe=recipe.model_dump(mode="json"),
        environment={
            "versions": versions(),
            "installed": installed(),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "device": summary.get("base", {}).get("device"),
            "cores": len(os.sched_getaffinity(0)),
            "threads": experiment.threads,
            "mixed": list(experiment.mixed),
            "host": platform.node(),
            "launcher": dict(launcher),
            "started": _date(started),
            "finished": _date(time.time()),
        },
        fairness=_fairness(recipe, data, summary),
        model=results.Model(**summary.get("model", {})),
        data=_counts(data),
        judges=_judges(summary),
        metrics={name: summary["metrics"][name] for name in summary.get("order", ())},
        labels=tuple(
            _label(label, plan, statuses, sealed, own, total, summary) for label in _labels(statuses)
        ),
        cells=tuple(
            results.CellResult(
                label=cell.label,
                seed=cell.seed,
                status=ended.status,  # pyright: ignore[reportArgumentType]
                reason=ended.reason,
                metrics=measured.get(PlannedCell(cell.label, cell.seed), {}),
                warnings=(
                    *sealed.get(cell, {}).get("warnings", ()),
                    *followed.get(PlannedCell(cell.label, cell.seed), {}).get("warnings", ()),
                ),
                judges=_judges(sealed.get(cell, {})),
                device=sealed.get(cell, {}).get("device"),
                cost=own.get(cell, results.Cost()),
                samples=_there(cell, run, layout.SAMPLES),
                log=_there(cell, run, layout.TRAINING_LOG),
                learning_curve=followed.get(PlannedCell(cell.label, cell.seed), {}).get("learning_curve", ()),
            )
            for cell, ended in statuses.items()
        ),
        comparisons=tuple(summary.get("comparisons", ())),
        settings=tuple(summary.get("settings", ())),
        frontier=(*_finished(measured, _unscaled(plan.recipe, summary)), *_on_the_way(followed)),
        cost=total(own),
        tuning=_tuning(run),
        evaluation=results.Cost(**summary.get("cost", {})),
    )
    results.write(record, run)
    return record


def _tuning(run: Path) -> results.Cost:
    """What the trials of the run's sweep cost; nothing where it has none."""
    trials = run / layout.SWEEP
    return results.read(trials).cost if (trials / layout.RESULTS).is_file() else results.Cost()


def _cost(sealed: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell spent, with the cost of an answer at the temperature that its label is ranked at."""
    chosen = summary.get("sampling", {}).get(sealed["label"], {}).get("temperature")
    answering = {one["temperature"]: one for one in sealed["answering"]}
    of_one = answering.get(chosen, sealed["answering"][-1])
    return {**sealed["cost"], **{name: of_one[name] for name in AVERAGED}}


def _cells(summary: Mapping[str, Any]) -> dict[PlannedCell, dict[str, Any]]:
    return {PlannedCell(one["label"], one["seed"]): one["metrics"] for one in summary.get("cells", ())}


def _unscaled(recipe: Recipe, summary: Mapping[str, Any]) -> dict[PlannedCell, dict[str, Any]]:
    """What was measured at the temperature at which divergences are: that of the frontier."""
    temperature = recipe.evaluation.sampling.unscaled.temperature
    found = (one for one in summary.get("settings", ()) if one["temperature"] == temperature)
    return _cells(next(found, {}))


def _finished(
    measured: Mapping[PlannedCell, Mapping[str, Any]], unscaled: Mapping[PlannedCell, Mapping[str, Any]]
) -> Iterator[results.Point]:
    for cell, columns in measured.items():
        rewards = unscaled.get(cell, {}) if "reward" in unscaled.get(cell, {}) else columns
        kl, reward = columns.get("kl.base", _NOT_ASKED), rewards.get("reward", _NOT_ASKED)
        yield results.Point(label=cell.label, seed=cell.seed, kl=kl, reward=reward)


def _on_the_way(followed: Mapping[PlannedCell, Mapping[str, Any]]) -> Iterator[results.Point]:
    for cell, found in followed.items():
        for one in found["learning_curve"]:
            if one["kl"] is not None and one["score"] is not None:
                yield results.Point(
                    label=cell.label, seed=cell.seed, step=one["step"], kl=one["kl"], reward=one["score"]
                )


def _label(
    label: str,
    plan: Plan,
    statuses: Mapping[PlannedCell, CellStatus],
    sealed: Mapping[PlannedCell, dict[str, Any]],
    own: Mapping[PlannedCell, results.Cost],
    total: Callable[[Iterable[PlannedCell], results.Cost], results.Cost],
    summary: Mapping[str, Any],
) -> results.LabelResult:
    planned = plan.labels.get(label)
    cells = [cell for cell in statuses if cell.label == label]
    source = plan.source("methods", planned.method) if planned else None
    found = [sealed[cell]["departures"] for cell in cells if cell in sealed]
    seen = over_seeds([Departure(**one) for one in each] for each in found)
    start = planned.start if planned else None
    done = [cell for cell in cells if cell in own]
    cost = _mean([own[cell] for cell in done])
    return results.LabelResult(
        label=label,
        method=planned.method if planned else None,
        distribution=source.distribution if source else None,
        version=source.version if source else None,
        start=start if start is None or isinstance(start, str) else start.model_dump(),
        departures=tuple(
            dict.fromkeys((*(planned.departures if planned else ()), *seen, *_elsewhere(cells, sealed)))
        ),
        seeds=tuple(cell.seed for cell in cells),
        sampling=summary.get("sampling", {}).get(label),
        metrics=summary.get("labels", {}).get(label, {}),
        cost=results.Costs(
            own=cost,
            chain=_mean([total(_chain(cell, statuses), own[cell]) for cell in done]),
        ),
        same_cost_as=planned.same_cost_as if planned else None,
        decoding=_decoding(cost, start, _mean([own[cell] for cell in own if cell.label == start])),
    )


def _elsewhere(
    cells: Iterable[PlannedCell], sealed: Mapping[PlannedCell, Mapping[str, Any]]
) -> list[Departure]:
    """Return a departure for each model of device, and for the libraries, that some of `cells` ran with and most cells
    of the run did not."""
    cells = list(cells)
    devices = {cell: one["device"] for cell, one in sealed.items() if one.get("device")}
    libraries = {
        cell: ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        for cell, one in sealed.items()
        if one.get("versions")
    }
    found = []
    for what, known in (("device", devices), ("libraries", libraries)):
        usual = max(known.values(), key=list(known.values()).count, default="")
        others = dict.fromkeys(known.get(cell, usual) for cell in cells)
        found += [Departure(what, usual, other) for other in others if other != usual]
    return found


def _decoding(cost: results.Cost, start: Any, plain: results.Cost) -> results.Decoding | None:
    """Set what an answer token costs against the plain decoding of the start."""
    if cost.answer_uncached_tokens is None or not cost.answer_length or not plain.answer_length:
        return None

    def token(one: results.Cost, what: str) -> float | None:
        value, length = getattr(one, what), one.answer_length
        return None if value is None or not length else value / length

    def times(what: str, theirs: float | None) -> float | None:
        ours = token(cost, what)
        return None if ours is None or not theirs else ours / theirs

    return results.Decoding(
        against=start,
        forwards=token(cost, "answer_forwards"),
        tokens=token(cost, "answer_tokens"),
        seconds=token(cost, "answer_seconds"),
        cached_forwards=times("answer_forwards", token(plain, "answer_forwards")),
        cached_tokens=times("answer_tokens", token(plain, "answer_tokens")),
        cached_seconds=times("answer_seconds", token(plain, "answer_seconds")),
        uncached_tokens=times("answer_tokens", token(cost, "answer_uncached_tokens")),
        uncached_seconds=times("answer_seconds", token(cost, "answer_uncached_seconds")),
    )


def _chain(cell: PlannedCell, cells: Mapping[PlannedCell, Any]) -> list[PlannedCell]:
    """The cell and every cell of its chain, each once."""
    found, queue = [], [cell]
    while queue:
        link = queue.pop()
        if link not in found:
            found.append(link)
            queue += [other for other in cells if other.seed == link.seed and other.label in link.parents]
    return found


def _judges(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """What is known of judges, without their quality on each row."""
    return tuple(
        {**one, "quality": {name: known for name, known in one["quality"].items() if name != layout.OF_ROWS}}
        for one in record.get("judges", ())
    )


def _sum(
    costs: Iterable[results.Cost], twice: Mapping[str, int | None], *, last: results.Cost | None = None
) -> results.Cost:
    """Add up what was spent; the peak of memory is the highest. `twice` is what was read more than once, None where
    that is not known; `last` says what one answer costs."""
    costs = list(costs)
    total: dict[str, float | None] = {}
    for name in COUNTED:
        values = [getattr(cost, name) for cost in costs if getattr(cost, name) is not None]
        total[name] = (max if name == "peak_memory_bytes" else sum)(values) if values else None
        if name in AVERAGED:
            total[name] = getattr(last, name) if last else None
    for name, more in twice.items():
        found = total[name]
        total[name] = None if more is None or found is None else found - more
    return results.Cost(**total)


def _read_twice(run: Path, cells: Iterable[PlannedCell]) -> dict[str, int | None]:
    """Return how many prompts and comparisons several of the cells read, each time after the first.

    A cell of an earlier version, which does not say what it read, leaves all of them unknown. One cell is read at a
    time: its ids are many.
    """
    known: dict[str, set[str]] = {"prompts": set(), "comparisons": set(), "ai_comparisons": set()}
    added = dict.fromkeys(known, 0)
    for cell in cells:
        found = _read(cell.folder(run) / layout.USED)
        if not found:
            return dict.fromkeys(known)
        for name, ids in found.items():
            added[name] += len(ids)
            known[name].update(ids)
    return {
        name: added[name] - len(different(ids) if name == "prompts" else ids) for name, ids in known.items()
    }


def _mean(costs: list[results.Cost]) -> results.Cost:
    """The mean over the finished seeds, of what every one of them counted."""
    mean: dict[str, float | None] = {}
    for name in COUNTED:
        values = [getattr(cost, name) for cost in costs]
        mean[name] = None if not values or None in values else sum(values) / len(values)
    return results.Cost(**mean)


def _fairness(recipe: Recipe, data: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What was equal for all labels; two runs whose contracts differ are not comparable."""
    fields = recipe.model_dump(mode="json")
    del fields["evaluation"]["curve"]  # it changes no policy and no sample
    return {
        "base": {**fields["model"], **summary.get("base", {})},
        "data": data.get("fingerprints", {}),
        "stages": recipe.data.stages,
        "comparisons": _comparisons(fields["data"]["source"]),
        "max_length": recipe.data.max_length,
        "training": fields["training"],
        "tuning": fields["sweep"],
        "budget": {name: value for name, value in fields["budget"].items() if value is not None},
        "loss": "end of sequence in, prompt out, last assistant turn",
        "order": "one permutation for each seed and epoch, from the length of the shared row",
        "evaluation": {
            **fields["evaluation"],
            **{
                group: [_short(one) for one in fields["evaluation"][group]] for group in ("judges", "metrics")
            },
        },
        "seeds": list(recipe.seeds),
    }


def _comparisons(source: str | Mapping[str, Any]) -> Any:
    return source if isinstance(source, str) else {**source, "judge": _short(source["judge"])}


def _short(named: Mapping[str, Any]) -> Any:
    """A plugin as a recipe names it: by its name alone where all its fields have their defaults."""
    return {named["name"]: named["config"]} if named["config"] else named["name"]


def _counts(data: Mapping[str, Any]) -> results.DataCounts:
    """The prepared table's record, with the rows kept in each split and dropped for each reason on top."""
    dropped = Counter(data["dropped"])
    for split in data["splits"].values():
        dropped.update(split["dropped"])
    kept = {name: split["kept"] for name, split in data["splits"].items()}
    return results.DataCounts(**{**data, "kept": kept, "dropped": dict(dropped)})


def _labels(statuses: Mapping[PlannedCell, Any]) -> list[str]:
    return list(dict.fromkeys([BASE, *(cell.label for cell in statuses)]))


def _there(cell: PlannedCell, run: Path, name: str) -> str | None:
    path = cell.folder(run) / name
    return path.relative_to(run).as_posix() if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
