"""Real nodes, workers and commands that are killed while a run goes: it ends with the bytes of a run that was not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alignbench_ray import Ray, RayConfig

from alignbench import layout
from alignbench.launchers import Receiver
from alignbench.testing.launchers import NEEDS, RECIPE, Ended, at, made_by
from alignbench.testing.sessions import open_session

from .conftest import Folder, Nodes, on, outcome

ROOT = Path(__file__).parents[4]
METHODS = """
  sft: {start: base, budget: {steps: 40}, learning_rate: 1.0e-3}
"""
EVERY_STEP = ("--checkpoint-every", "0")


LONG = pytest.mark.skipif(os.environ.get("TESTS") != "long", reason="in the long version: make ray")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on this machine that nobody disturbs."""
    user = Folder(tmp_path_factory.mktemp("reference"))
    user.recipe(METHODS)
    user.run("run", "--jobs", "1")
    return user.folder / "run"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes: a head that runs no cell, and two with a processor. Every test leaves as many."""
    made = Nodes(tmp_path_factory.mktemp("cluster"))
    made.add()
    made.add()
    yield made
    made.cluster.shutdown()


def until(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Read what a run tells until something that is wanted."""
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if wanted(events[-1]):
            return events
    raise AssertionError(f"the run ended before that: {events[-3:]}, {process.communicate()[1]}")


def in_the_middle(event: dict[str, Any], task: str = "sft/seed-0") -> bool:
    return event.get("task") == task and event["event"] == "progress" and bool(event["numbers"])


def steps(events: list[dict[str, Any]], task: str = "sft/seed-0") -> list[int]:
    """The steps of which a training told."""
    return [one["done"] for one in events if in_the_middle(one, task)]


def phases(events: list[dict[str, Any]]) -> str:
    return "\n".join(one.get("phase", "") for one in events)


def finish(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    return [json.loads(line) for line in output.splitlines()]


def test_a_node_that_is_killed_loses_a_cell_which_goes_on_on_a_node_that_joins_late(
    cluster: Nodes, user: Folder, reference: Path
):
    """The other node works on another cell all the while: the late one is used in addition to it."""
    user.recipe(METHODS)
    storage = f"launcher.storage={user.folder / 'storage'}"
    process = user.start("run", *EVERY_STEP, *on(cluster, storage))
    with cluster.paused("base/seed-0"):
        until(process, lambda event: in_the_middle(event) and any(user.folder.rglob("*.checkpoints")))
        (node,) = cluster.running("sft/seed-0").values()
        cluster.kill(node)
        late = cluster.add()
        until(process, lambda event: "lost (" in event.get("phase", ""))
        events = until(process, in_the_middle)
        assert list(cluster.running("sft/seed-0").values()) == [late]
        assert [other for other in cluster.running("base/seed-0").values() if other is not late]
    events += finish(process)
    assert min(steps(events)) > 1, "it began at its first step again"
    assert outcome(user.folder / "run") == outcome(reference)
    assert not any(user.folder.rglob("*.checkpoints")), "those of finished cells are of no use"


@LONG
def test_a_worker_that_is_killed_loses_a_cell_which_begins_again(
    cluster: Nodes, user: Folder, reference: Path
):
    user.recipe(METHODS)
    process = user.start("run", *on(cluster))
    until(process, in_the_middle)
    (worker,) = cluster.running("sft/seed-0")
    os.kill(worker, signal.SIGKILL)
    assert "lost (WorkerCrashedError" in phases(finish(process))
    assert outcome(user.folder / "run") == outcome(reference)


def test_after_a_killed_command_nothing_runs_and_the_same_command_goes_on(
    cluster: Nodes, user: Folder, reference: Path
):
    user.recipe(METHODS)
    process = user.start("run", *on(cluster))
    until(process, lambda event: event["event"] == "ended" and event["task"] == "base/seed-0")
    until(process, in_the_middle)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 60
    while cluster.running("sft/seed-0") and time.monotonic() < end:
        time.sleep(0.5)
    assert not cluster.running("sft/seed-0")
    events = user.run("run", *on(cluster))
    assert not any(one["event"] == "progress" and one["task"] == "base/seed-0" for one in events)
    assert outcome(user.folder / "run") == outcome(reference)


def test_ctrl_c_keeps_the_step_of_every_cell_and_the_same_command_goes_on_from_them(
    cluster: Nodes, user: Folder, reference: Path
):
    user.recipe(METHODS + METHODS.replace("sft: {", "other: {method: sft, ").replace("1.0e-3", "2.0e-3"))
    for part in (layout.DATA, "cells/base", "measurements/base"):  # both nodes are free for the trainings
        shutil.copytree(reference / part, user.folder / "run" / part)
    storage = f"launcher.storage={user.folder / 'storage'}"
    tasks = ["sft/seed-0", "other/seed-0"]
    process = user.start("run", "--checkpoint-every", "3600", *on(cluster, storage))
    first = until(process, lambda event: any(in_the_middle(event, task) for task in tasks))[-1]["task"]
    with cluster.paused(first):
        until(process, lambda event: any(in_the_middle(event, task) for task in tasks if task != first))
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "nothing is lost, continue with:" in errors
    events = user.run("run", *on(cluster, storage))
    for task in tasks:
        assert min(steps(events, task)) > 1, f"{task} began at its first step again"
    (_, ours), (_, theirs) = outcome(user.folder / "run"), outcome(reference)
    assert theirs.items() <= ours.items()


@LONG
def test_a_node_that_is_not_like_this_machine_is_refused_by_name(user: Folder, reference: Path):
    """On it a plugin has another line."""
    other = user.folder / "other"
    shutil.copytree(ROOT / "plugins/alignbench-sft/alignbench_sft", other / "alignbench_sft")
    with (other / "alignbench_sft/__init__.py").open("a") as file:
        file.write("# another line\n")
    unlike = {"PYTHONPATH": os.pathsep.join([str(other), os.environ.get("PYTHONPATH", "")])}
    user.recipe(METHODS)
    alone = Nodes(user.folder / "alone")
    alone.add(**unlike)
    try:
        process = user.start("refused", *on(alone))
        output, errors = process.communicate(timeout=600)
        assert process.returncode != 0
        assert "is refused: 'sft' is alignbench-sft 0.1.0 (source" in output + errors
        alone.add()
        events = user.run("run", *on(alone))  # two cells may start: each node gets one
    finally:
        alone.cluster.shutdown()
    assert "is refused: 'sft' is alignbench-sft 0.1.0 (source" in phases(events)
    assert outcome(user.folder / "run") == outcome(reference)


@LONG
def test_runs_of_two_users_on_one_cluster_do_not_mix(cluster: Nodes, tmp_path: Path, reference: Path):
    users = []
    for name, rate in (("one", "1.0e-3"), ("two", "2.0e-3")):
        (tmp_path / name).mkdir()
        user = Folder(tmp_path / name)
        user.recipe(METHODS.replace("1.0e-3", rate))
        users.append(user)
    both = [user.start("run", *on(cluster)) for user in users]
    for process in both:
        finish(process)
    users[1].run("here/run", "--jobs", "1")
    assert outcome(users[0].folder / "run") == outcome(reference)
    assert outcome(users[1].folder / "run") == outcome(users[1].folder / "here/run")


def test_a_torn_result_is_found_and_the_cell_begins_again(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torn = []
    take = Receiver.take

    def tearing(receiver: Receiver, message: dict[str, Any], on_event: Any) -> Any:
        if "sealed" in message and not torn:
            torn.append(message)
            message = {"sealed": message["sealed"][:-1] + b"?"}
        return take(receiver, message, on_event)

    monkeypatch.setattr(Receiver, "take", tearing)
    session = open_session(tmp_path / "torn", RECIPE)
    task = at(replace(session.task, kind="cell", reads=(layout.DATA,)), "torn")
    ended = Ended()
    with Ray(RayConfig(address=cluster.address)) as launcher:
        launcher.start("torn", task, NEEDS)
        while not ended.results:
            ended.results |= launcher.wait(ended.hear, 60)
    assert torn
    assert ended.results["torn"].status == "done"
    assert any("the transfer was torn" in event.phase for _, event in ended.events)
    assert made_by(task)["answers"]


def test_a_cell_that_is_lost_again_and_again_fails_and_one_that_says_why_it_failed_is_not_tried_again(
    cluster: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    take = Receiver.take

    def tearing(receiver: Receiver, message: dict[str, Any], on_event: Any) -> Any:
        return take(receiver, {"sealed": b"torn"} if "sealed" in message else message, on_event)

    monkeypatch.setattr(Receiver, "take", tearing)
    session = open_session(tmp_path / "lost", RECIPE)
    task = replace(session.task, kind="cell", reads=(layout.DATA,))
    torn, wrong = at(task, "torn"), at(task, "wrong")
    nameless = {name: value for name, value in wrong.what.items() if name != "label"}
    ended = Ended()
    with Ray(RayConfig(address=cluster.address, retries=1)) as launcher:
        launcher.start("torn", torn, NEEDS)
        launcher.start("wrong", replace(wrong, what=nameless), NEEDS)
        while len(ended.results) < 2:
            ended.results |= launcher.wait(ended.hear, 60)
    assert ended.results["torn"].status == "failed"
    assert "it was lost 2 times, the last time because" in ended.results["torn"].reason
    assert ended.results["wrong"] == replace(
        ended.results["wrong"], status="failed", reason="KeyError: 'label'"
    )
    lost = [
        (name, event.phase.rpartition("; ")[2]) for name, event in ended.events if "lost (" in event.phase
    ]
    assert lost == [("torn", "try 2 of 2")]
    assert wrong.log.read_text().count("Traceback") == 1


@LONG
def test_the_quickstart_in_small_ends_with_the_same_bytes(cluster: Nodes, user: Folder):
    shutil.copy(ROOT / "recipes/quickstart.yaml", user.folder / "recipe.yaml")
    small = ["data.limit=48", "evaluation.prompts=6", "evaluation.tuning_prompts=4", "training.threads=1"]
    sets = [word for one in small for word in ("--set", one)]
    user.run("here/run", *sets, ALIGNBENCH_HOME=str(user.folder / "home-here"))
    user.run("there/run", *sets, *on(cluster))
    assert outcome(user.folder / "there/run") == outcome(user.folder / "here/run")
    stages = list(cluster.folder.glob("node-*/store/*/*"))
    assert stages, "no stage was made on a node"
    assert {one.name for one in stages} <= {one.name for one in (user.folder / "home/store").glob("*/*")}
    assert (user.folder / "there/run" / layout.RESULTS).exists()
