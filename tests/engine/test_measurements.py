"""What a task of its own measures of a cell is what the evaluation would measure itself, to the last digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignbench import layout, store
from alignbench.api.launcher import Event, Task
from alignbench.api.metric import Cell
from alignbench.api.policy import TokenScores
from alignbench.errors import AlignbenchError
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.testing.sessions import open_session
from alignbench.worker.finished import cells as finished
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell as one_cell
from alignbench.worker.tasks import evaluate, judging, measure

METRICS = [
    "reward",
    "win_rate",
    "kl",
    "preference",
    "length",
    "entropy",
    "refusal",
    "toxicity",
    "bradley_terry",
]
EVALUATION: dict[str, Any] = {
    "prompts": 6,
    "tuning_prompts": 5,
    "sampling": {"temperature": [0, 1], "max_new_tokens": 8},
    "curve": {"evaluations": 2, "prompts": 4},
    "judges": ["gold", "toxicity"],
    "metrics": [
        {name: {"prompts": "sandbox", "limit": 4}} if name == "toxicity" else name for name in METRICS
    ],
}
RECIPE: dict[str, Any] = {
    "model": {"id": "sandbox"},
    "data": {"train": "sandbox", "limit": 24, "max_length": 128},
    "training": {"threads": 1, "batch": 8},
    "budget": {"steps": 2},
    "evaluation": EVALUATION,
    "methods": {
        "sft": {"learning_rate": 1e-2},
        "prompted": {"method": "few-shot", "start": "sft", "shots": 1},
    },
}
CELLS = [Cell("base", 0), Cell("sft", 0), Cell("prompted", 0)]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The task of a run whose cells are finished."""
    made = open_session(tmp_path_factory.mktemp("measured"), RECIPE).task
    for label, seed in CELLS:
        folder = layout.cell_folder(made.run, label, seed)
        what = {"label": label, "seed": seed, "folder": str(folder), "key": label}
        one_cell.main(replace(made, what=what), lambda event: None)
    return made


@pytest.fixture(scope="module")
def measured(task: Task) -> dict[str, str]:
    """The keys of what tasks of their own have measured of each cell, the last cell first."""
    keys = {}
    for label, seed in reversed(CELLS):
        folder = layout.measurements_folder(task.run, label, seed)
        what = {"label": label, "seed": seed, "folder": str(folder), "key": f"of {label}"}
        measure.main(replace(task, what=what), lambda event: None)
        keys[layout.cell_name(label, seed)] = what["key"]
    return keys


def evaluated(task: Task, folder: Path, **what: Any) -> tuple[dict[str, bytes], list[str], Session]:
    """The files of an evaluation, what it reported, and its session."""
    folder.mkdir()
    phases: list[str] = []
    session = Session(task, lambda event: phases.append(event.phase))
    evaluate.measure(session, CELLS, folder, **what)
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}, phases, session


def test_the_evaluation_finds_the_same_whether_the_cells_were_measured_before_or_not(
    task: Task, measured: dict[str, str], tmp_path: Path
):
    whole, _, _ = evaluated(task, tmp_path / "whole")
    records = measure.read(task.run, measured)
    assert list(records) == list(reversed(CELLS))
    parts, phases, session = evaluated(task, tmp_path / "parts", records=records)
    assert parts == whole
    assert "_base" not in vars(session), "it loaded the model although everything was measured"
    assert not [phase for phase in phases if phase.startswith(("scoring", "judging", "gold judges"))]
    summary = json.loads(whole[layout.SUMMARY])
    assert summary["cost"]["generated_tokens"] > 0
    assert summary["learning_curves"][1]["learning_curve"]
    assert {"reward", "reward@toxicity", "kl.base", "toxicity.biased"} <= set(summary["metrics"])


def test_only_what_is_sealed_with_its_key_is_read(task: Task, measured: dict[str, str]):
    name = layout.cell_name("sft", 0)
    assert Cell("sft", 0) not in measure.read(task.run, {**measured, name: "another"})
    folder = layout.measurements_folder(task.run, "sft", 0)
    values = (folder / layout.VALUES).read_bytes()
    try:
        (folder / layout.VALUES).write_bytes(values[:-2] + b"?\n")
        assert Cell("sft", 0) not in measure.read(task.run, measured)
    finally:
        (folder / layout.VALUES).write_bytes(values)
    assert store.manifest(folder, key=measured[name]) is not None


def test_a_metric_that_fails_on_a_cell_alone_is_the_evaluation_s_to_explain(
    task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from alignbench.metrics.length import Length

    def fails(metric: Length, evidence: Any) -> Any:
        raise ValueError("no such luck")

    monkeypatch.setattr(Length, "measure", fails)
    events: list[Event] = []
    record = measure.measure(Session(task, events.append), Cell("base", 0))
    assert not any("Length" in name for name in record["measures"])
    found, _, _ = evaluated(task, tmp_path / "out", records={Cell("base", 0): record})
    summary = json.loads(found[layout.SUMMARY])
    assert "no such luck" in summary["labels"]["base"]["length"]["missing"]


def test_judges_that_are_not_cheap_say_of_parts_of_the_prompts_what_they_say_of_all(
    task: Task, measured: dict[str, str], tmp_path: Path
):
    """With temperatures to choose from, they judge at those that were chosen."""
    recipe = {**RECIPE, "evaluation": {**EVALUATION, "judges": ["gold", {"self": {"wording": "sandbox"}}]}}
    judged = replace(task, plan=resolve(Recipe.model_validate(recipe)).model_dump_json())
    whole, _, _ = evaluated(judged, tmp_path / "whole")
    events: list[Event] = []
    measure.measure(Session(judged, events.append), Cell("base", 0))
    assert "opening the judge self" not in [event.phase for event in events], "it waits for the temperatures"
    keys = [f"part {place}" for place in range(3)]
    for place, key in reversed(list(enumerate(keys))):
        folder = layout.judging_folder(task.run, place)
        what = {
            "cells": CELLS,
            "measured": measured,
            "part": place,
            "parts": 3,
            "folder": str(folder),
            "key": key,
        }
        judging.main(replace(judged, what=what), lambda event: None)
    judgments = judging.read(task.run, keys)
    kinds = [len(name) for name, _ in judgments]
    assert (kinds.count(2), kinds.count(3)) == (3, 3), (
        "three cells are scored, and three pairs of them compared"
    )
    parts, phases, _ = evaluated(judged, tmp_path / "parts", judgments=judgments)
    assert parts.keys() == whole.keys()
    summary = {
        name: json.loads(found[layout.SUMMARY]) for name, found in (("whole", whole), ("parts", parts))
    }
    assert summary["parts"]["sampling"] == summary["whole"]["sampling"]
    assert flat(summary["parts"]) == pytest.approx(flat(summary["whole"]), rel=1e-4, abs=1e-6)
    assert "self judges sft" not in phases
    assert not [phase for phase in phases if phase.startswith("self compares")]
    with pytest.raises(AlignbenchError, match="part-0 is not whole"):
        judging.read(task.run, ["another", *keys[1:]])


def flat(value: Any, at: str = "") -> dict[str, float]:
    """The numbers of a summary, by place."""
    if isinstance(value, bool | str) or value is None:
        return {}
    if isinstance(value, int | float):
        return {at: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {place: number for name, one in items for place, number in flat(one, f"{at}/{name}").items()}


@pytest.mark.parametrize(
    "scores",
    [
        None,
        [],
        [TokenScores(np.array([-1.5, -0.1], np.float32)), TokenScores(np.zeros(0, np.float32))],
        [TokenScores(np.array([-1 / 3], np.float32), np.array([2 / 7], np.float32))],
    ],
)
def test_log_probabilities_come_back_bit_by_bit(scores: Sequence[TokenScores] | None):
    packed = json.loads(json.dumps(finished._packed_tokens(scores)))
    back = finished._token_scores(packed)
    if scores is None or back is None:
        assert back is scores
        return
    assert len(back) == len(scores)
    for ours, theirs in zip(back, scores, strict=True):
        assert ours.logps.tobytes() == theirs.logps.tobytes()
        assert (ours.entropy is None) == (theirs.entropy is None)
        if ours.entropy is not None and theirs.entropy is not None:
            assert ours.entropy.tobytes() == theirs.entropy.tobytes()
