"""The measuring of one cell: all that the evaluation says of it without looking at another cell."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignbench import layout, plugins, store
from alignbench.api.launcher import Event, Task
from alignbench.api.metric import Cell, Metric
from alignbench.errors import AlignbenchError, PluginError
from alignbench.evaluation.comparison import LIKELIHOODS
from alignbench.worker.finished.cells import FinishedCells, make_named
from alignbench.worker.finished.evidence import DRAWN, RunEvidence
from alignbench.worker.run.session import Session
from alignbench.worker.tasks.cell import GROWING, clear


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Fill the folder of the cell's measurements and seal it. `what`: label, seed, folder and key."""
    folder = Path(task.what["folder"])
    clear(folder)
    cell = Cell(task.what["label"], task.what["seed"])
    found = measure(Session(task, emit), cell)
    for name in (layout.SAMPLES, layout.TUNING_SAMPLES):  # who judges the answers needs no policy then
        if (answers := layout.cell_folder(task.run, *cell) / name).is_file():
            shutil.copyfile(answers, folder / name)
    store.write_text(folder / layout.VALUES, json.dumps(found, ensure_ascii=False) + "\n")
    store.commit(folder, key=task.what["key"], producer="alignbench", leave_out=GROWING)


def measure(session: Session, cell: Cell) -> dict[str, Any]:
    """Return what was measured of a cell, by name: JSON values.

    Its answers are measured at each temperature, since its label's is chosen only when all cells are done. A judge that
    is not cheap judges them where the recipe names one temperature, or asks for all.
    """
    evaluation = session.recipe.evaluation
    metrics: list[Metric] = [make_named("metrics", named) for named in evaluation.metrics]
    whole = not evaluation.chooses or evaluation.judge_every_setting
    kinds = {one.name: plugins.load("judges", one.name) for one in evaluation.judges}
    able = [name for name, kind in kinds.items() if not kind.recorded and (kind.cheap or whole)]
    first = next(iter(kinds), "")
    follows = evaluation.curve is not None and not kinds[first].recorded
    asked = {*able, first} if follows else able
    finished = FinishedCells(session, [cell], session.emit, metrics, judges=asked)
    finished.base()
    finished.tuning_scores(cell)
    judges = {name: finished.judges[name] for name in able}
    temperatures = finished.temperatures(cell)
    for temperature in temperatures:
        seen = RunEvidence(finished, {cell.label: temperature}, metrics, judges)
        for judge in judges:
            seen.scores(judge, cell)
        for metric in metrics:
            if not metric.needs & LIKELIHOODS and (metric.needs & DRAWN or temperature == temperatures[0]):
                _ask(metric, seen)
    plain = None if None in temperatures else evaluation.sampling.unscaled.temperature
    seen = RunEvidence(finished, {cell.label: plain}, metrics, judges)
    for metric in metrics:
        if metric.needs & LIKELIHOODS:
            _ask(metric, seen)
    if follows:
        RunEvidence(finished, {cell.label: plain}, metrics).learning_curve(cell)
    return dict(finished.record(cell))


def _ask(metric: Metric, evidence: RunEvidence) -> None:
    """Let a metric ask for what it reads. What it cannot say of one cell alone, it says in the end."""
    try:
        evidence.measures(metric)
    except Exception as error:  # the evaluation gives the reason in the metric's own columns
        if isinstance(error, AlignbenchError) and not isinstance(error, PluginError):
            raise
        traceback.print_exc()


def read(run: Path, keys: Mapping[str, str]) -> dict[Cell, dict[str, Any]]:
    """Return what was measured of cells, by their names and keys; what is not sealed with its key is left out."""
    found = {}
    for name, key in keys.items():
        folder = run / layout.MEASUREMENTS / name
        if store.manifest(folder, key=key) is not None:
            label, _, seed = name.rpartition("/seed-")
            found[Cell(label, int(seed))] = json.loads((folder / layout.VALUES).read_text(encoding="utf-8"))
    return found
