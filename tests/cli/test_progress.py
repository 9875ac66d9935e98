"""What a run shows while it works."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from alignbench.api.launcher import Event, Finished
from alignbench.cli.progress import watching
from alignbench.engine.experiment import Progress
from alignbench.errors import DataError
from alignbench.worker.finished import answering

STORY = [
    Progress("data", Event("preparing data")),
    Progress("data", ended=Finished()),
    Progress("rpo/seed-0", Event("training", 3, 32), cells=2),
    Progress("rpo/seed-0", Event("training", 4, None, {"loss": 0.69314}), cells=2),
    Progress("rpo/seed-0", Event("answering", 0, 200), cells=2),
    Progress("rpo/seed-0", ended=Finished("diverged", "the loss is nan\x1b[2J\nat step 4"), cells=2),
    Progress("ppo/seed-0", ended=Finished(), cells=2),
]


def shown(story: list[Progress], *, terminal: bool, width: int = 120) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    with watching(console) as watch:
        for message in story:
            watch(message)
    return file.getvalue()


def test_where_nobody_watches_each_ended_task_is_one_line() -> None:
    lines = shown(STORY, terminal=False).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["data", "done"],
        ["rpo/seed-0", "diverged"],
        ["ppo/seed-0", "done"],
    ]
    assert lines[2] == "ppo/seed-0  done  (already finished)"


def test_a_reason_is_one_line_and_cannot_steer_the_terminal() -> None:
    assert "the loss is nan\\x1b[2J at step 4" in shown(STORY, terminal=False)


def test_an_error_that_stops_the_run_is_told_once_and_not_here() -> None:
    error = DataError("rows.jsonl:4: rejected: is missing")
    story = [Progress("data", ended=Finished("failed", str(error), error))]
    assert shown(story, terminal=False).split()[:2] == ["data", "failed"]
    assert "rejected" not in shown(story, terminal=False)


def test_a_terminal_sees_the_phase_how_far_it_is_and_the_numbers_of_now() -> None:
    last = shown(STORY[:4], terminal=True)
    assert "rpo/seed-0  training" in last
    assert "4/32" in last
    assert "loss 0.693" in last
    assert "cells" in last


def test_a_new_phase_forgets_the_total_and_the_numbers_of_the_old_one() -> None:
    story = [*STORY[:4], Progress("rpo/seed-0", Event("saving"), cells=2)]
    last = shown(story, terminal=True).split("rpo/seed-0  saving")[-1]
    assert "/32" not in last
    assert "loss" not in last


def test_answers_are_counted_as_they_end_and_not_told_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(answering.time, "monotonic", lambda: now)
    events: list[Event] = []
    count = answering.counting(events.append, 8)
    count(3)
    now = 1.0
    count(2)
    count(1)
    count(2)
    assert [(event.phase, event.done, event.total) for event in events] == [
        ("answering", 0, 8),
        ("answering", 5, 8),
        ("answering", 8, 8),
    ]
    assert "5/8" in shown([Progress("rpo/seed-0", event, cells=2) for event in events[:2]], terminal=True)


@pytest.mark.parametrize("score", ["objective/scores", "reward"])
def test_eighty_columns_hold_the_cell_how_far_it_is_the_time_left_and_its_numbers(score: str) -> None:
    numbers = {"rewards/margins": 0.5, "objective/kl": 0.0412, score: -0.25, "loss": 0.69314}
    story = [
        Progress("a-label-of-many-words/seed-0", Event("training", done, 64, numbers), cells=2)
        for done in (3, 4)
    ]
    last = [line for line in shown(story, terminal=True, width=80).splitlines() if "training" in line][-1]
    assert re.search(
        rf"a-label-o…/seed-0  training .* 4/64 +(--:--|\d\d:\d\d) loss 0\.693  {score} -0\.25", last
    )
    assert "margins" not in last
