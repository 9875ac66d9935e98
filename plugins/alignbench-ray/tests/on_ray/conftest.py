"""Clusters of real nodes on this machine's loopback, and recipes that are small enough to run on them."""

from __future__ import annotations

import os

# Ray reads these as it is imported: nothing listens beyond this machine, and nothing is sent to anybody.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray runs its workers at a low priority: on a busy machine these tests would hardly go on.
os.environ |= {"RAY_worker_niceness": "0"}

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from alignbench import results
from alignbench.testing.launchers import install_ending

MIB = 2**20
RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 48, max_length: 128}
training: {threads: 1, batch: 8}
evaluation: {prompts: 6, sampling: {temperature: 1.0, max_new_tokens: 8}, judges: [gold], metrics: [reward, length]}
methods:
"""


class Nodes:
    """A cluster whose head runs no cell; its nodes have one processor and a store of their own each."""

    def __init__(self, folder: Path):
        from ray.cluster_utils import Cluster

        self.folder = folder
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * MIB}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    @property
    def site(self) -> Path:
        """Packages that the nodes have in addition."""
        return self.folder / "site"

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, **environment: str) -> Any:
        """Add a node; `environment` of the processes on it."""
        home = self.folder / f"node-{uuid4().hex[:8]}"
        variables = {"ALIGNBENCH_HOME": str(home), "HF_HUB_OFFLINE": "1", **environment}
        node = self.cluster.add_node(num_cpus=1, object_store_memory=100 * MIB, env_vars=variables)
        self.nodes.append(node)
        return node

    def kill(self, node: Any) -> None:
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def running(self, task: str) -> dict[int, Any]:
        """The processes that run a task, each with its node: another cluster of this machine may run its like."""
        raylets = {
            node.all_processes["raylet"][0].process.pid: node
            for node in self.nodes
            if node.all_processes.get("raylet")
        }
        return {
            process: raylets[parent]
            for process, (parent, title) in processes().items()
            if parent in raylets and title.startswith(f"ray::{task}".encode())
        }

    @contextmanager
    def paused(self, task: str) -> Iterator[None]:
        """Hold a task inside, as soon as it has started: it keeps its place, does nothing and reports nothing."""
        end = time.monotonic() + 120
        while not self.running(task) and time.monotonic() < end:
            time.sleep(0.1)
        (worker,) = self.running(task)
        held = [worker]
        os.kill(worker, signal.SIGSTOP)
        for one in held:  # grows as it goes
            held += [process for process, (parent, _) in processes().items() if parent == one]
        for one in held:
            os.kill(one, signal.SIGSTOP)
        try:
            yield
        finally:
            for one in held:
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGCONT)


def processes() -> dict[int, tuple[int, bytes]]:
    """Every process of this machine, with its parent and its title."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = (parent, (folder / "cmdline").read_bytes())
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head that runs no cell, and a node: the tests of faults have two."""
    made = Nodes(tmp_path_factory.mktemp("cluster"))
    install_ending(made.site)
    made.add(PYTHONPATH=os.pathsep.join([str(made.site), os.environ.get("PYTHONPATH", "")]))
    yield made
    made.cluster.shutdown()


class Folder:
    """A user's folder: recipes, and runs of them by the command line."""

    def __init__(self, folder: Path):
        self.folder = folder

    def recipe(self, methods: str) -> Path:
        path = self.folder / "recipe.yaml"
        path.write_text(RECIPE + methods)
        return path

    def start(self, out: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-c",
            "from alignbench.cli import app; app()",
            "run",
            "recipe.yaml",
            "--out",
            out,
        ]
        return subprocess.Popen(
            [*command, "--json", *options],
            cwd=self.folder,
            env={**os.environ, "ALIGNBENCH_HOME": str(self.folder / "home"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, out: str, *options: str, **environment: str) -> list[dict[str, Any]]:
        """Run to the end; return the events of the run."""
        process = self.start(out, *options, **environment)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, output + errors
        return [json.loads(line) for line in output.splitlines() if line.startswith('{"')]


@pytest.fixture
def user(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def on(nodes: Nodes, *settings: str) -> list[str]:
    """The options that name a cluster."""
    chosen = [f"launcher.address={nodes.address}", *settings]
    return ["--launcher", "ray", *(word for one in chosen for word in ("--set", one))]


def outcome(run: Path) -> Any:
    """What a run found, without what may differ between two equal runs, and the bytes of its policies."""
    stable = results.without_volatile(results.read(run))
    policies = sorted((run / "cells").glob("*/*/policy/*"))
    return stable, {file.relative_to(run).as_posix(): file.read_bytes() for file in policies}
