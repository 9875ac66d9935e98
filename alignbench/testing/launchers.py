"""The laws every launcher keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from alignbench import layout, plugins, store
from alignbench.api.launcher import Event, Finished, Launcher, Needs, Task
from alignbench.errors import AlignbenchError
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.testing.plugin import PluginSuite
from alignbench.testing.sessions import open_session
from alignbench.worker import cell, measure, samples

RECIPE = {
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


def recipe() -> Recipe:
    """Return a recipe of any installed method that has a default for each of its fields; it is never run."""
    for name in plugins.installed("methods"):
        with suppress(AlignbenchError, ValidationError):
            made = Recipe.model_validate({**RECIPE, "methods": {"any": {"method": name}}})
            resolve(made)
            return made
    pytest.skip("no method is installed whose fields all have defaults")


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
        session = open_session(tmp_path_factory.mktemp("launcher"), recipe())
        return replace(session.task, kind="cell", reads=(layout.DATA,))

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

    def test_each_task_ends_once(self, ended: Ended, open_launcher: Launcher):
        assert open_launcher.wait(ended.hear, 0.1) == {}

    def test_a_context_that_is_left_stops_what_runs_and_can_be_entered_again(
        self, cell_task: Task, ended: Ended
    ):
        made: Launcher = self.kind()(self.fields())
        with made:
            made.start("stopped/seed-0", at(cell_task, "stopped"), NEEDS)
        with made:
            assert made.wait(ended.hear, 0.1) == {}
            assert made.fits(Needs(cpus=1, memory_bytes=2**60)), "something runs still"


def at(task: Task, label: str) -> Task:
    """Return a cell task of the base that has a folder of its own."""
    folder = layout.cell_folder(task.run, label, 0)
    folder.mkdir(parents=True, exist_ok=True)
    what = {"label": "base", "seed": 0, "folder": str(folder), "key": "key"}
    return replace(task, log=folder / layout.LOG, what=what)


def made_by(task: Task) -> dict[str, Any]:
    """Return what a cell made: its answers without the seconds that they took, and the bytes of its policy."""
    folder = Path(task.what["folder"])
    assert store.manifest(folder) is not None, f"{folder} is not sealed"
    answers = [replace(one, seconds=0.0) for one in samples.read_all(folder)]
    policy = {file.name: file.read_bytes() for file in (folder / layout.POLICY).iterdir()}
    return {"answers": answers, "policy": policy}
