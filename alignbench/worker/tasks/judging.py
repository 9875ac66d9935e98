"""A part of the prompts, judged by judges that are not cheap: the answers of every two labels side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignbench import layout, plugins, store
from alignbench.api.launcher import Event, Task
from alignbench.api.metric import Cell, Metric
from alignbench.errors import AlignbenchError
from alignbench.worker.finished.cells import FinishedCells, PromptPart, make_named
from alignbench.worker.finished.choice import choose
from alignbench.worker.finished.evidence import RunEvidence
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import measure
from alignbench.worker.tasks.cell import GROWING, clear


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Fill the folder of a part and seal it. `what`: the cells, the keys of what was measured of them, which `part` of
    how many `parts`, folder and key."""
    what, folder = task.what, Path(task.what["folder"])
    clear(folder)
    cells = [Cell(label, seed) for label, seed in what["cells"]]
    found = judge(Session(task, emit), cells, what["measured"], PromptPart(what["part"], what["parts"]))
    store.write_text(folder / layout.VALUES, json.dumps(found, ensure_ascii=False) + "\n")
    store.commit(folder, key=what["key"], producer="alignbench", leave_out=GROWING)


def judge(session: Session, cells: Sequence[Cell], keys: Mapping[str, str], part: PromptPart) -> list[Any]:
    """Return what judges that are not cheap say of the answers to a part of the prompts: `FinishedCells.judgments`."""
    evaluation = session.recipe.evaluation
    metrics: list[Metric] = [make_named("metrics", named) for named in evaluation.metrics]
    records = measure.read(session.run, keys)
    whole = FinishedCells(session, cells, session.emit, metrics, records)
    chosen = {label: one.temperature for label, one in choose(whole).items()}
    views = [chosen]
    if evaluation.chooses and evaluation.judge_every_setting:
        views += [
            {label: None if at is None else temperature for label, at in chosen.items()}
            for temperature in evaluation.sampling.temperature
        ]
    kinds = {one.name: plugins.load("judges", one.name) for one in evaluation.judges}
    judges = [name for name, kind in kinds.items() if not kind.cheap and not kind.recorded]
    some = FinishedCells(session, cells, session.emit, metrics, judges=judges, part=part)
    compares = any("comparisons" in metric.needs for metric in metrics)
    for view in views:
        seen = RunEvidence(some, view, metrics)
        for name in judges:
            if evaluation.chooses and not evaluation.judge_every_setting:
                for cell in cells:
                    seen.scores(name, cell)
            if compares:
                seen.everyone(name)
    return some.judgments()


def read(run: Path, keys: Sequence[str]) -> list[Any]:
    """Return what the parts hold together, each sealed with its key. Raises AlignbenchError where one is not whole."""
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for place, key in enumerate(keys):
        folder = layout.judging_folder(run, place)
        if store.manifest(folder, key=key) is None:
            raise AlignbenchError(f"{folder} is not whole", "run the same command again")
        for name, values in json.loads((folder / layout.VALUES).read_text(encoding="utf-8")):
            found.setdefault(json.dumps(name), (name, []))[1].extend(values)
    return list(found.values())
