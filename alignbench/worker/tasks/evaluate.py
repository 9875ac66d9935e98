"""The evaluation: one process that compares the finished cells, by what was measured of each of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.launcher import Event, Task
from alignbench.api.metric import Cell, Measure, Metric, Missing, Need
from alignbench.evaluation.comparison import LIKELIHOODS, Summary, summarise
from alignbench.recipe.schema import Named
from alignbench.results import Choice
from alignbench.rows import Prompt
from alignbench.worker.finished.cells import FinishedCells, Record, make_named
from alignbench.worker.finished.choice import choose
from alignbench.worker.finished.evidence import JUDGED, RunEvidence
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import judging
from alignbench.worker.tasks import measure as measured

ANSWERS: frozenset[Need] = frozenset({"samples"})
"""What metrics of a setting read: how the samples of the evaluation were drawn."""
OF_PEOPLE = ("win_rate", "bradley_terry", "reward")
"""People's rankings are measured by these although the recipe does not ask for them: they are there already."""


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Fill `run/evaluation` and seal it. `what`: the cells, the keys of what was measured and judged, and the key."""
    folder = task.run / layout.EVALUATION
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cells = [Cell(label, seed) for label, seed in task.what["cells"]]
    records = measured.read(task.run, task.what.get("measured", {}))
    measure(Session(task, emit), cells, folder, records, judging.read(task.run, task.what.get("judged", ())))
    store.commit(folder, key=task.what["key"], producer="alignbench")


def measure(
    session: Session,
    cells: Sequence[Cell],
    folder: Path,
    records: Mapping[Cell, Record] | None = None,
    judgments: Sequence[Any] = (),
) -> None:
    """Compare finished cells, and write all of it to `folder`. What `records` and `judgments` lack is measured here."""
    evaluation = session.recipe.evaluation
    metrics: list[Metric] = [make_named("metrics", named) for named in evaluation.metrics]
    finished = FinishedCells(session, cells, session.emit, metrics, records, judgments)
    choices = choose(finished)
    chosen = {label: one.temperature for label, one in choices.items()}
    evidence = RunEvidence(finished, chosen, metrics)
    unscaled = RunEvidence(finished, _all_at(choices, evaluation.sampling.unscaled.temperature), metrics)
    recorded = {name: judge for name, judge in finished.judges.items() if judge.recorded}
    asked = {named.name for named in evaluation.metrics}
    also = [make_named("metrics", Named(name=name)) for name in OF_PEOPLE if recorded and name not in asked]
    of_people = RunEvidence(finished, chosen, also, recorded)
    summary = summarise(
        metrics,
        evidence,
        evaluation.margin,
        unscaled=unscaled,
        judges=list(finished.judges),
        also=[(one, of_people) for one in also],
        measure=_measures,
    )
    base = finished.base()
    store.write_json(
        folder / layout.SUMMARY,
        {
            "metrics": {name: info.model_dump() for name, info in summary.metrics.items()},
            "order": list(summary.metrics),
            **_plain(summary),
            "sampling": {label: one.model_dump() for label, one in choices.items()},
            "settings": list(_settings(finished, metrics, choices)),
            "learning_curves": [{**cell._asdict(), **evidence.learning_curve(cell)} for cell in cells],
            "cost": finished.cost,
            "judges": evidence.quality(),
            "model": base["model"],
            "base": base["base"],
        },
    )
    _write_scores(folder, evidence)
    _write_prompts(folder, evidence.prompts)
    session.emit(Event("drawing"))
    figures = [
        asdict(figure)
        for metric in metrics
        for figure in metric.figures(unscaled if metric.needs & LIKELIHOODS else evidence)
    ]
    store.write_json(folder / layout.FIGURES, figures)


def _measures(metric: Metric, evidence: RunEvidence) -> list[Measure | Missing]:
    return evidence.measures(metric)


def _settings(
    finished: FinishedCells, metrics: Sequence[Metric], choices: Mapping[str, Choice]
) -> Iterator[dict[str, Any]]:
    """Yield all labels at each temperature of a grid, on the metrics that depend on how answers are drawn.

    An expensive judge judges the chosen temperatures alone, unless the recipe asks for more.
    """
    evaluation = finished.session.recipe.evaluation
    if len(evaluation.sampling.temperature) == 1:
        return
    every = evaluation.judge_every_setting
    judges = {name: one for name, one in finished.judges.items() if (one.cheap or every) and not one.recorded}
    asked = [one for one in metrics if one.needs <= (ANSWERS | JUDGED if judges else ANSWERS)]
    for temperature in evaluation.sampling.temperature:
        seen = RunEvidence(finished, _all_at(choices, temperature), asked, judges)
        yield {
            "temperature": temperature,
            **_plain(summarise(asked, seen, judges=list(finished.judges), measure=_measures)),
        }


def _all_at(choices: Mapping[str, Choice], temperature: float) -> dict[str, float | None]:
    return {label: None if one.temperature is None else temperature for label, one in choices.items()}


def _plain(summary: Summary) -> dict[str, Any]:
    """Labels, cells and comparisons of a summary as JSON values."""
    return {
        "labels": {
            label: {name: one.model_dump() for name, one in columns.items()}
            for label, columns in summary.labels.items()
        },
        "cells": [
            {
                "label": cell.label,
                "seed": cell.seed,
                "metrics": {k: v.model_dump() for k, v in columns.items()},
            }
            for cell, columns in summary.cells.items()
        ],
        "comparisons": [one.model_dump() for one in summary.comparisons],
    }


def _write_scores(folder: Path, evidence: RunEvidence) -> None:
    """Write each judge's score of each sample, and its preference between each two that it compared."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "judge": judge,
            "label": cell.label,
            "seed": cell.seed,
            "prompt_id": answer.prompt_id,
            "sample": answer.sample,
            "score": score.value,
        }
        for judge in evidence.judges
        for cell in evidence.cells
        for answer, score in zip(evidence.samples(cell), evidence.scores(judge, cell), strict=True)
    ]
    names = ("judge", "label", "seed", "prompt_id", "sample", "score")
    kinds = (pa.string(), pa.string(), pa.int64(), pa.string(), pa.int64(), pa.float64())
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / layout.SCORES)
    pairs = [
        {
            "judge": judge,
            "a": a.label,
            "b": b.label,
            "seed": a.seed,
            "prompt_id": answer.prompt_id,
            "sample": answer.sample,
            "preference": preference,
        }
        for (judge, a, b), judgments in evidence.compared.items()
        if a.seed == b.seed and a != b
        for answer, preference in zip(evidence.samples(a), judgments, strict=True)
    ]
    names = ("judge", "a", "b", "seed", "prompt_id", "sample", "preference")
    kinds = (*(pa.string(),) * 3, pa.int64(), pa.string(), pa.int64(), pa.float64())
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    pq.write_table(pa.Table.from_pylist(pairs, schema), folder / layout.PREFERENCES)


def _write_prompts(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Keep what was asked, for the report: one JSON object a line, in the order of the evaluation."""
    from alignbench.data.split import conversation_key

    lines = (
        json.dumps(
            {
                "id": one.id,
                "conversation": sha256(conversation_key(one).encode()).hexdigest()[:16],
                "prompt": [dict(turn) for turn in one.prompt],
            },
            ensure_ascii=False,
        )
        for one in prompts
    )
    store.write_text(folder / layout.PROMPTS, "".join(f"{line}\n" for line in lines))
