"""The laws every launcher keeps."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from alignbench import layout, store
from alignbench.api.launcher import Event, Finished, Launcher, Needs, Task
from alignbench.errors import AlignbenchError
from alignbench.recipe.plan import Plan
from alignbench.testing.plugin import PluginSuite
from alignbench.testing.sessions import open_session
from alignbench.worker.finished import samples
from alignbench.worker.tasks import cell, measure

RECIPE: dict[str, Any] = {
    "model": {"id": "sandbox"},
    "data": {"train": "sandbox", "limit": 24, "max_length": 128},
    "training": {"threads": 1},
    "evaluation": {
        "prompts": 4,
        "sampling": {"max_new_tokens": 8},
        "judges": ["gold"],
        "metrics": ["length"],
    },
}
NEEDS = Needs(cpus=1)
PATIENCE = 120.0
"""Seconds after which a task that should end has not."""
SILENCE = 2.0
"""Seconds without a report after which a task has failed, where a law is about that."""
ENDING = "alignbench-suite-of-launchers"
"""The distribution of the method with whose tasks the laws on ends are tried; it is installed while they are."""
METHOD = '''"""A method that dies, is interrupted, or does not end."""

import os
import signal
import time
from typing import Literal

from alignbench import Method, MethodConfig


class Ending(Method):
    """Trains nothing. Source: none."""

    api = 2
    consumes = ()

    class Config(MethodConfig):
        """Its end."""

        end: Literal["killed", "interrupted", "never"] = "never"
        """How it ends."""

    def align(self, run):
        print("pid", os.getpid(), flush=True)
        if self.config.end != "never":
            os.kill(os.getpid(), signal.SIGKILL if self.config.end == "killed" else signal.SIGINT)
        time.sleep(3600)
'''


class Ended:
    """What became of tasks: how each ended, and what was reported of it."""

    def __init__(self) -> None:
        self.results: dict[str, Finished] = {}
        self.events: list[tuple[str, Event]] = []

    def hear(self, name: str, event: Event) -> None:
        self.events.append((name, event))


class LauncherSuite(PluginSuite):
    """Subclass it, name the launcher, and pytest does the rest. Set `config` where it needs an address."""

    group = "launchers"
    launcher: ClassVar[str]

    @classmethod
    def name(cls) -> str:
        return cls.launcher

    @pytest.fixture(scope="class")
    @classmethod
    def cell_task(cls, tmp_path_factory: pytest.TempPathFactory) -> Task:
        """A cell of the base, in a run whose rows are prepared."""
        session = open_session(tmp_path_factory.mktemp("launcher"), RECIPE)
        return replace(session.task, kind="cell", reads=(layout.DATA,))

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder of packages with the method of `install_ending`. Override it where tasks run on other machines, with
        a folder that is on their path as well."""
        return install_ending(tmp_path_factory.mktemp("site"))

    @pytest.fixture(scope="class")
    @classmethod
    def ending(cls, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
        """A cell of the label `killed`, `interrupted` or `never`, of a method that ends in that way."""
        methods = {end: {"method": "ending", "end": end} for end in ("killed", "interrupted", "never")}
        with pytest.MonkeyPatch.context() as patched:
            patched.syspath_prepend(str(site))
            folder = tmp_path_factory.mktemp("ends")
            task = open_session(folder, {**RECIPE, "methods": methods}).task
            yield replace(task, kind="cell", reads=(layout.DATA,))

    @pytest.fixture(scope="class")
    @classmethod
    def open_launcher(cls) -> Iterator[Launcher]:
        """The launcher, its context entered: one for all tests, as to start one may take seconds."""
        made: Launcher = cls.kind()(cls.fields())
        with made:
            yield made

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, cell_task: Task, open_launcher: Launcher) -> Ended:
        """A cell that is good and one whose plan is none, both run to their ends."""
        found = Ended()
        open_launcher.start("good/seed-0", at(cell_task, "good"), NEEDS)
        wrong = at(cell_task, "wrong")
        nameless = {name: value for name, value in wrong.what.items() if name != "label"}
        open_launcher.start("wrong/seed-0", replace(wrong, what=nameless), NEEDS)
        while len(found.results) < 2:
            found.results |= open_launcher.wait(found.hear, PATIENCE)
        return found

    def test_it_runs_at_least_one_task_at_a_time_and_every_task_fits_where_nothing_runs(
        self, open_launcher: Launcher
    ):
        assert open_launcher.capacity(NEEDS) >= 1
        assert open_launcher.fits(Needs(cpus=1, memory_bytes=2**60))

    def test_a_task_that_is_done_leaves_the_bytes_that_it_leaves_on_this_machine(
        self, cell_task: Task, ended: Ended
    ):
        assert ended.results["good/seed-0"].status == "done", ended.results
        here = at(cell_task, "here")
        cell.main(here, lambda event: None)
        assert made_by(at(cell_task, "good")) == made_by(here)

    def test_a_task_that_measures_a_cell_leaves_what_it_leaves_on_this_machine(
        self, cell_task: Task, ended: Ended, open_launcher: Launcher
    ):
        cell.main(at(cell_task, "base"), lambda event: None)
        found = []
        for run in ("there", "here"):
            folder = cell_task.run / run
            reads = (
                layout.DATA,
                layout.cell_folder(cell_task.run, "base", 0).relative_to(cell_task.run).as_posix(),
            )
            what = {"label": "base", "seed": 0, "folder": str(folder), "key": "measured"}
            task = replace(cell_task, kind="measure", log=folder / layout.LOG, what=what, reads=reads)
            if run == "here":
                measure.main(task, lambda event: None)
            else:
                folder.mkdir()
                open_launcher.start(run, task, NEEDS)
                last = {}
                while run not in last:
                    last = open_launcher.wait(ended.hear, PATIENCE)
                assert last[run].status == "done", last
            found.append((store.manifest(folder) or {}).get("content"))
        assert found[0] is not None, "its folder is not sealed"
        assert found[0] == found[1]

    def test_what_a_task_reports_and_logs_arrives(self, cell_task: Task, ended: Ended):
        phases = {event.phase for name, event in ended.events if name == "good/seed-0"}
        assert "answering" in phases, f"of the good task only {sorted(phases)} arrived"
        assert at(cell_task, "good").log.exists(), "its log did not arrive"

    def test_a_task_that_goes_wrong_has_failed_with_its_reason(self, cell_task: Task, ended: Ended):
        last = ended.results["wrong/seed-0"]
        assert (last.status, bool(last.reason)) == ("failed", True), last
        assert not (Path(at(cell_task, "wrong").what["folder"]) / store.COMMIT).exists()

    def test_a_task_that_is_killed_has_failed_with_a_reason(
        self, ending: Task, ended: Ended, open_launcher: Launcher
    ):
        last = run_to_its_end(open_launcher, ended, ending, "killed")
        assert (last.status, bool(last.reason)) == ("failed", True), last
        assert not (Path(at(ending, "killed").what["folder"]) / store.COMMIT).exists()

    def test_a_task_that_is_interrupted_is_cancelled(
        self, ending: Task, ended: Ended, open_launcher: Launcher
    ):
        assert run_to_its_end(open_launcher, ended, ending, "interrupted").status == "cancelled"

    def test_a_task_that_reports_nothing_for_longer_than_its_heartbeat_has_failed_and_is_gone(
        self, ending: Task, ended: Ended, open_launcher: Launcher
    ):
        last = run_to_its_end(open_launcher, ended, ending, "never", heartbeat=SILENCE)
        assert (last.status, bool(last.reason)) == ("failed", True), last
        assert open_launcher.fits(Needs(cpus=1, memory_bytes=2**60)), "it runs still"
        pid = begun(at(ending, "never"))
        assert pid is None or is_gone(pid), "its process runs still"

    def test_each_task_ends_once(self, ended: Ended, open_launcher: Launcher):
        assert open_launcher.wait(ended.hear, 0.1) == {}

    def test_a_context_that_is_left_stops_what_runs_and_can_be_entered_again(
        self, ending: Task, ended: Ended
    ):
        made: Launcher = self.kind()(self.fields())
        stopped = at(ending, "never")
        stopped.log.unlink(missing_ok=True)
        with made:
            made.start("stopped/seed-0", stopped, NEEDS)
            until = time.monotonic() + PATIENCE
            while (pid := begun(stopped)) is None:
                for last in made.wait(ended.hear, 0.2).values():
                    seen_there(last)
                    pytest.fail(f"it ended before it was stopped: {last}")
                assert time.monotonic() < until, "it did not begin"
        assert is_gone(pid), "its process runs still"
        with made:
            assert made.wait(ended.hear, 0.1) == {}
            assert made.fits(Needs(cpus=1, memory_bytes=2**60)), "something runs still"


def at(task: Task, label: str) -> Task:
    """Return a cell task in a folder of its own: of the label, where the plan has it, or of the base."""
    folder = layout.cell_folder(task.run, label, 0)
    folder.mkdir(parents=True, exist_ok=True)
    known = label if label in Plan.model_validate_json(task.plan).labels else "base"
    what = {"label": known, "seed": 0, "folder": str(folder), "key": "key"}
    return replace(task, log=folder / layout.LOG, what=what)


def install_ending(site: Path) -> Path:
    """Write the distribution of the method `ending` to a folder that is on the path; return the folder."""
    metadata = site / f"{ENDING.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {ENDING}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[alignbench.methods]\nending = ending_of_tasks:Ending\n")
    (site / "ending_of_tasks.py").write_text(METHOD)
    return site


def begun(task: Task) -> int | None:
    """Return the process id that a task of the method `ending` has logged; None where it has not begun."""
    said = re.search(r"^pid (\d+)$", task.log.read_text() if task.log.exists() else "", re.M)
    return int(said[1]) if said else None


def run_to_its_end(
    launcher: Launcher, ended: Ended, task: Task, end: str, *, heartbeat: float = 0.0
) -> Finished:
    """Return how a task of the method `ending` ended."""
    launcher.start(end, at(task, end), NEEDS, heartbeat=heartbeat)
    last: dict[str, Finished] = {}
    until = time.monotonic() + PATIENCE
    while end not in last:
        try:
            last = launcher.wait(ended.hear, 1.0)
        except AlignbenchError as error:
            seen_there(Finished("failed", str(error)))
            raise
        assert last or time.monotonic() < until, f"it has not ended after {PATIENCE:.0f} seconds"
    seen_there(last[end])
    return last[end]


def seen_there(last: Finished) -> None:
    """Skip the test where the tasks run on a machine that lacks the method which is installed here."""
    if ENDING in last.reason:
        pytest.skip(f"its tasks do not see what is installed here: {last.reason}")


def is_gone(pid: int, patience: float = 10.0) -> bool:
    """Return whether a process of this machine has ended, or ends soon."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def made_by(task: Task) -> dict[str, Any]:
    """Return what a cell made: its answers without the seconds that they took, and the bytes of its policy."""
    folder = Path(task.what["folder"])
    assert store.manifest(folder) is not None, f"{folder} is not sealed"
    answers = [replace(one, seconds=0.0) for one in samples.read_all(folder)]
    policy = {file.name: file.read_bytes() for file in (folder / layout.POLICY).iterdir()}
    return {"answers": answers, "policy": policy}
