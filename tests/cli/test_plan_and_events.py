"""What a run says to a program, to nobody, and to a tracker; and what a plan knows before it starts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from alignbench.api.launcher import Event, Finished
from alignbench.cli.progress import printing_json, watching
from alignbench.commands.forecast import Clock, _line, side_by_side
from alignbench.engine.cells import PlannedCell
from alignbench.engine.experiment import Progress
from alignbench.errors import RecipeError
from alignbench.worker.clock import busy_clock
from alignbench.worker.run.cell_state import steps_expected
from alignbench.worker.run.trackers import Tracking, check_trackers

NEWS = [
    Progress("dpo/seed-0", Event("training", 3, 32, {"loss": float("nan"), "margin": 0.5})),
    Progress("dpo/seed-0", ended=Finished("failed", "no\nluck")),
]


def test_a_program_reads_one_object_a_line() -> None:
    lines: list[str] = []
    hear = printing_json(lines.append)
    for one in NEWS:
        hear(one)
    first, last = map(json.loads, lines)
    assert (first["event"], first["task"], first["phase"]) == ("progress", "dpo/seed-0", "training")
    assert (first["done"], first["total"]) == (3, 32)
    assert first["numbers"] == {"loss": None, "margin": 0.5}
    assert (last["event"], last["status"], last["reason"]) == ("ended", "failed", "no\nluck")


def test_a_quiet_run_says_nothing() -> None:
    file = io.StringIO()
    with watching(Console(file=file, quiet=True)) as watch:
        for one in NEWS:
            watch(one)
    assert file.getvalue() == ""


def test_a_training_tells_its_total_from_the_share_of_the_budget_that_is_spent() -> None:
    assert steps_expected(8, 0.25) == 32
    assert steps_expected(8, 0.0) is None
    assert steps_expected(33, 1.0) == 33


@pytest.mark.parametrize(
    ("machine", "forward", "batch"), [(1 << 30, "128 MiB", "128 MiB"), (64 << 30, "384 MiB", "512 MiB")]
)
def test_a_plan_says_what_memory_bounds_a_forward_pass_and_a_batch_of_answers(
    alignbench, root: Path, monkeypatch: pytest.MonkeyPatch, machine: int, forward: str, batch: str
) -> None:
    """A quarter of what two cells of one thread have each, or fixed bytes where that is less."""
    monkeypatch.setattr("alignbench.models.forward.memory.machine", lambda: machine)
    monkeypatch.setattr("alignbench.engine.resources.threads", lambda plan: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    said = " ".join(alignbench("plan", root / "recipes" / "quickstart.yaml").stdout.split())
    assert f"what their backward pass needs, into {forward}; a batch of answers, with its keys" in said
    assert f"values, into {batch}." in said


def test_a_tracker_nobody_knows_is_named_with_those_that_are() -> None:
    with pytest.raises(RecipeError, match=r"there is no tracker 'paper'.*tensorboard"):
        check_trackers(["paper"])


def test_no_tracker_imports_nothing_and_writes_nothing(tmp_path: Path) -> None:
    tracking = Tracking((), tmp_path, "dpo", 0, {})
    tracking.log(1, {"loss": 1.0})
    tracking.end()
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_is_let_go_and_named_and_the_others_are_told_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import integration_utils

    heard: list[str] = []

    class Tracker:
        def __init__(self, name: str):
            self.name = name

        def on_train_begin(self, *_: object, **__: object) -> None:
            if self.name == "mlflow":
                raise OSError("no\nserver")

        def on_log(self, *_: object, **__: object) -> None:
            heard.append(self.name)

        on_train_end = on_log

    kinds = lambda names: [lambda: Tracker(names[0])]  # noqa: E731
    monkeypatch.setattr(integration_utils, "get_reporting_integration_callbacks", kinds)
    lost: list[tuple[str, str]] = []
    tracking = Tracking(
        ["mlflow", "wandb"], tmp_path, "dpo", 0, {}, lambda name, why: lost.append((name, why))
    )
    tracking.log(1, {"loss": 1.0})
    tracking.end()
    assert lost == [("mlflow", "OSError: no server")]
    assert heard == ["wandb", "wandb"]


def test_tensorboard_gets_a_run_for_the_cell_with_its_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracking = Tracking(["tensorboard"], tmp_path / "run", "dpo", 1, {"beta": 0.1})
    for step in (1, 2, 3):
        tracking.log(step, {"loss": 1 / step})
    tracking.end()
    seen = EventAccumulator(str(tmp_path / "run/tracking/dpo/seed-1"))
    seen.Reload()
    (name,) = (tag for tag in seen.Tags()["scalars"] if tag.endswith("loss"))
    assert [(one.step, round(one.value, 3)) for one in seen.Scalars(name)] == [(1, 1.0), (2, 0.5), (3, 0.333)]


def test_two_points_give_what_grows_and_what_does_not() -> None:
    assert _line([(16, 10.0), (48, 14.0)], 1000) == pytest.approx(8 + 1000 / 8)
    assert _line([(2, 9.0), (16, 10.0), (48, 14.0)], 1000) == pytest.approx(8 + 1000 / 8)  # the last two
    assert _line([(16, 14.0), (48, 12.0)], 144) == 18.0  # what is done once never makes more rows cheaper
    assert _line([(16, 14.0), (48, 12.0)], 144, proportional=False) == 12.0
    assert _line([(10, 2.0)], 100) == 11.0  # half of one part is taken to be done once
    assert _line([(10, 2.0)], 100, fixed=0.25) == 15.5
    assert _line([(10, 2.0)], 100, proportional=False) == 2.0


def test_cells_side_by_side_wait_for_what_they_start_from_and_for_a_lane() -> None:
    base, sft, dpo, orpo = (
        PlannedCell("base", 0),
        PlannedCell("sft", 0),
        PlannedCell("dpo", 0, ("sft",)),
        PlannedCell("orpo", 0),
    )
    took = {base: 1.0, sft: 4.0, dpo: 3.0, orpo: 3.0}
    assert side_by_side(took, 1) == 11.0
    assert side_by_side(took, 2) == 7.0  # orpo in parallel with sft, and dpo after it
    assert (
        side_by_side({**took, PlannedCell("dpo", 1, ("sft",)): 5.0}, 4) == 7.0
    )  # its sft is not a cell of these
    assert side_by_side({}, 2) == 0.0


def test_a_task_takes_what_its_own_clock_says_and_answers_are_a_part_of_it() -> None:
    clock = Clock()
    for event in (Event("loading the base", clock=100.0), Event("training", 1, clock=101.0)):
        clock.update(Progress("dpo/seed-0", event))
    clock.update(Progress("dpo/seed-0", Event("answering", 0, 8, clock=105.0)))
    clock.update(Progress("dpo/seed-0", Event("answering", 8, 8, clock=106.0)))
    clock.update(Progress("dpo/seed-0", ended=Finished(clock=107.5)))
    clock.update(Progress("rlhf/seed-0", Event("training", clock=107.5)))
    clock.update(Progress("rlhf/seed-0", ended=Finished("failed", "killed by SIGKILL")))
    assert (clock.spent("dpo/seed-0"), clock.answers("dpo/seed-0")) == (7.5, 2.5)
    assert (clock.spent("rlhf/seed-0"), clock.spent("orpo/seed-0")) == (0.0, 0.0)


def test_the_busy_clock_stands_still_while_another_process_has_the_core() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel does not count the waiting")
    allowed = os.sched_getaffinity(0)
    core = {min(allowed)}
    os.sched_setaffinity(0, core)
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        wall, busy, worked = time.monotonic(), busy_clock(), time.process_time()
        while time.process_time() - worked < 0.3:
            pass
        wall, busy = time.monotonic() - wall, busy_clock() - busy
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, allowed)
    assert wall > 0.4
    assert busy == pytest.approx(0.3, abs=0.06)
