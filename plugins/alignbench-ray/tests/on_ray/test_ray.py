"""The launcher `ray` on nodes of this machine's loopback: the laws, and the bytes of a run on this machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alignbench_ray import Ray, RayConfig, RemoteTask, is_loopback
from alignbench_ray.node import forget, keep, kept
from pydantic import ValidationError

from alignbench import Task
from alignbench.launchers import Receiver
from alignbench.testing import LauncherSuite
from alignbench.testing.launchers import NEEDS

from .conftest import Folder, Nodes, on, outcome

METHODS = """
  sft: {start: base, budget: {steps: 3}, learning_rate: 1.0e-3}
  orpo: {start: sft, budget: {steps: 3}, learning_rate: 1.0e-3}
"""


class TestRay(LauncherSuite):
    launcher = "ray"

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, nodes: Nodes) -> Path:
        return nodes.site

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def on_the_cluster(cls, nodes: Nodes) -> None:
        cls.config = {"address": nodes.address}


def test_a_run_on_ray_ends_with_the_bytes_of_a_run_on_this_machine(nodes: Nodes, user: Folder):
    user.recipe(METHODS)
    user.run("here/run", "--jobs", "1")
    here, there = user.folder / "here/run", user.folder / "there/run"
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("cells", "evaluation", "results.json"))
    events = user.run("there/run", *on(nodes))
    assert outcome(there) == outcome(here)
    found = json.loads((there / "results.json").read_text())["environment"]["launcher"]
    assert (found["name"], found["address"]) == ("ray", nodes.address)
    phases = {one["phase"] for one in events if one["event"] == "progress" and one["task"] == "sft/seed-0"}
    assert {"aligning", "answering"} <= phases
    assert all((file.parent / "log.txt").exists() for file in there.glob("cells/*/*/COMMIT"))


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("10.0.0.5:6379", False),
        ("auto", False),
        ("localhost.example.org:6379", False),
    ],
)
def test_an_address_that_others_reach_needs_a_word(address: str, own: bool):
    assert is_loopback(address) == own
    if own:
        RayConfig(address=address)
    else:
        with pytest.raises(ValidationError, match="Ray trusts everyone who can reach it"):
            RayConfig(address=address)
    assert RayConfig(address=address, trust_network=True).address == address


def test_a_launcher_of_this_machine_alone_listens_on_loopback_whatever_it_is_asked_first():
    """A run asks for its capacity before it enters the context, and Ray reads where to listen as it is imported."""
    code = "from alignbench_ray import Ray; Ray().capacity(NEEDS); import ray; print(ray.util.get_node_ip_address())"
    code = f"from alignbench import Needs; NEEDS = Needs(cpus=1); {code}"
    env = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "127.0.0.1", done.stderr


@pytest.mark.parametrize(
    "storage", ["memory://checkpoints", "file://{folder}/checkpoints", "{folder}/checkpoints"]
)
def test_checkpoints_are_kept_at_a_path_or_url_and_deleted_from_it(storage: str, tmp_path: Path):
    cells = [f"{storage.format(folder=tmp_path)}/run/sft/seed-{n}.checkpoints" for n in (1, 10)]
    assert kept(cells[0]) is None
    for number, cell in enumerate(cells):
        keep(cell, b"old")
        keep(cell, b"new %d" % number)
    assert [kept(cell) for cell in cells] == [b"new 0", b"new 1"]
    forget(cells[0])
    assert [kept(cell) for cell in cells] == [None, b"new 1"]


def test_checkpoints_are_at_the_same_place_from_every_host_and_at_another_for_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A Slurm job that runs again may have another first node."""
    launcher = Ray(RayConfig(storage="s3://bucket/folder/"))
    for run in ("one", "two"):
        folder = tmp_path / run
        task = Task("cell", folder, tmp_path, "", tmp_path, folder / "log.txt", 1)
        launcher._running[run] = RemoteTask(task, NEEDS, 0.0, Receiver(task))
    places = [launcher._storage(run) for run in ("one", "two")]
    monkeypatch.setattr(platform, "node", lambda: "another-host")
    assert [launcher._storage(run) for run in ("one", "two")] == places
    first, second = (place.rpartition("/")[0] for place in places)
    assert first != second
    assert first.startswith("s3://bucket/folder/")
    launcher.config = RayConfig()
    assert launcher._storage("one") == ""


def test_the_command_line_says_so_before_anything_runs(user: Folder):
    recipe = user.recipe(METHODS)
    process = user.start("run", "--launcher", "ray", "--set", "launcher.address=10.0.0.5:6379")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "launcher.trust_network=true" in output + errors
    assert not (recipe.parent / "run").exists()
