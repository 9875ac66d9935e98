"""Which cell runs next, how each one ended, and what is measured of it meanwhile."""

from __future__ import annotations

import heapq
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from alignbench import layout, store
from alignbench.api.launcher import Event, Finished, Launcher, Needs
from alignbench.engine import keys, resources
from alignbench.engine.cells import PlannedCell, ancestors_of, parents_of, ranks
from alignbench.engine.experiment import Experiment, Progress
from alignbench.engine.tasks import failure
from alignbench.errors import StorageError


@dataclass(frozen=True, slots=True)
class CellStatus:
    """How a cell ended."""

    status: str
    """`done`, `failed`, `diverged`, `blocked` or `cancelled`."""
    reason: str = ""
    content: str = ""
    """Content digest of a finished cell."""
    clock: float = 0.0
    """When it ended, as in Finished."""


class Scheduler:
    """Runs cells by a launcher: each once its parents are done, at most `limit` at a time where there is one.

    Among cells that may start, the first in the order of `alignbench.engine.cells.ranks` that fits does. With `measure`
    each finished cell is measured by a task of its own, for which a cell that may start never waits.
    """

    def __init__(
        self,
        experiment: Experiment,
        launcher: Launcher,
        cells: tuple[PlannedCell, ...],
        limit: int | None = None,
        *,
        train: bool = True,
        measure: bool = False,
    ):
        self.experiment, self.launcher = experiment, launcher
        self.cells, self.limit, self.train, self.measure = cells, limit, train, measure
        self.data = (store.manifest(experiment.out / layout.DATA) or {})["content"]
        self.parents = parents_of(cells)
        self.children: dict[PlannedCell, list[PlannedCell]] = {cell: [] for cell in cells}
        for cell, parents in self.parents.items():
            for parent in parents:
                self.children[parent].append(cell)
        self.seconds: dict[str, float] = {}
        """What a cell of a label takes, where one is finished."""
        self.rank: dict[PlannedCell, tuple[float, int]] = {}
        self._ranked: tuple[bool, int] | None = None
        """By what the cells are ranked: whether they run side by side, and how many labels' seconds are known."""
        self.startable: list[tuple[tuple[float, int], PlannedCell, str]] = []
        """A heap of the cells whose parents are done, by rank, each with the key it will be sealed with."""
        self.measurable: list[tuple[tuple[float, int], PlannedCell, str]] = []
        """A heap of the finished cells that are not measured, each with the key of that."""
        self.running: dict[str, tuple[PlannedCell, str]] = {}
        """By the task's name, with the key it will be sealed with."""
        self.statuses: dict[PlannedCell, CellStatus] = {}
        self.measured: dict[str, str] = {}
        """Cells that were measured, by name, with the key of that."""
        self._unmeasured: dict[str, Finished] = {}
        """Measuring tasks that failed."""

    def run(self) -> dict[PlannedCell, CellStatus]:
        """Run until every cell has a status; return them in the order of the plan, whichever ended first.

        The launcher's context is entered: outside of it, its capacity is a guess. Raises the error of the first task
        that could not measure its cell, once all have ended.
        """
        for label in {cell.label for cell in self.cells}:
            self._learn_seconds(label)
        self._sort()
        for cell in self.cells:
            if not self.parents[cell]:
                self._advance(cell)
        while self.startable or self.measurable or self.running:
            self._start_all()
            for name, last in self.launcher.wait(self._report).items():
                self._finish(name, last)
        for name, last in self._unmeasured.items():
            raise failure(name, last, self.experiment.out / name / layout.LOG)
        return {cell: self.statuses[cell] for cell in self.cells}

    @property
    def max_workers(self) -> int:
        """How many cells may run at a time now."""
        return self.limit or self.launcher.capacity(Needs(cpus=self.experiment.threads))

    def _learn_seconds(self, label: str) -> None:
        if label not in self.seconds and (known := resources.seconds(self.experiment.out, label)):
            self.seconds[label] = known

    def _sort(self) -> None:
        """Rank the cells again, where a launcher has got room for more than one, or a label's seconds got known."""
        workers = self.max_workers
        if self._ranked == (now := (workers > 1, len(self.seconds))):
            return
        self._ranked, self.rank = now, ranks(self.parents, workers, self.seconds)
        for heap in (self.startable, self.measurable):
            heap[:] = [(self.rank[cell], cell, key) for _, cell, key in heap]
            heapq.heapify(heap)

    def _start_all(self) -> None:
        """Start every cell that may start and fits, in their order; then what measures them."""
        self._sort()
        for heap, start in ((self.startable, self._start), (self.measurable, self._start_measuring)):
            waiting = []
            while heap and len(self.running) < self.max_workers:
                rank, cell, key = heapq.heappop(heap)
                needs = self._needs(cell)
                if not self.running or self.launcher.fits(needs):
                    start(cell, key, needs)
                else:
                    waiting.append((rank, cell, key))
            for one in waiting:
                heapq.heappush(heap, one)

    def _needs(self, cell: PlannedCell) -> Needs:
        known = resources.memory(self.experiment.out, cell.label)
        return Needs(cpus=self.experiment.threads, memory_bytes=known)

    def _advance(self, cell: PlannedCell) -> None:
        """Take a cell whose parents have ended from the run folder, mark it as blocked, or let it start."""
        ended = {one: self.statuses[one] for one in self.parents[cell] if one in self.statuses}
        failed = next((parent for parent, how in ended.items() if how.status != "done"), None)
        if failed is not None:
            reason = f"its start '{failed.label}' is {ended[failed].status}"
            self._finalize(cell, CellStatus("blocked", reason))
            return
        folder = cell.folder(self.experiment.out)
        key = self._key(cell, {parent.label: how.content for parent, how in ended.items()})
        if (sealed := self.experiment.sealed(folder, key)) is not None:
            shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)
            self._finalize(cell, CellStatus("done", content=sealed["content"]))
        elif not self.train:
            self._finalize(cell, _before(folder))
        else:
            heapq.heappush(self.startable, (self.rank[cell], cell, key))

    def _key(self, cell: PlannedCell, parents: dict[str, str]) -> str:
        one = self.experiment
        return keys.cell_key(
            one.plan, cell, versions=one.versions, files=one.files, data=self.data, parents=parents
        )

    def _start(self, cell: PlannedCell, key: str, needs: Needs) -> None:
        folder = cell.folder(self.experiment.out)
        folder.mkdir(parents=True, exist_ok=True)
        self.running[str(cell)] = (cell, key)
        self.experiment.observers.notify("alignbench_cell_started", label=cell.label, seed=cell.seed)
        what = {"label": cell.label, "seed": cell.seed, "folder": str(folder), "key": key}
        ancestors = ancestors_of(cell, self.parents)
        reads = [self.experiment.out / layout.DATA, *(one.folder(self.experiment.out) for one in ancestors)]
        track = list(self.experiment.trackers)
        task = self.experiment.task("cell", folder / layout.LOG, reads=reads, **what, track=track)
        self.launcher.start(str(cell), task, needs, heartbeat=self.experiment.heartbeat)

    def _start_measuring(self, cell: PlannedCell, key: str, needs: Needs) -> None:
        folder = layout.measurements_folder(self.experiment.out, cell.label, cell.seed)
        folder.mkdir(parents=True, exist_ok=True)
        name = folder.relative_to(self.experiment.out).as_posix()
        self.running[name] = (cell, key)
        reads = [self.experiment.out / layout.DATA]
        reads += [one.folder(self.experiment.out) for one in (cell, *ancestors_of(cell, self.parents))]
        what = {"label": cell.label, "seed": cell.seed, "folder": str(folder), "key": key}
        task = self.experiment.task("measure", folder / layout.LOG, reads=reads, **what)
        self.launcher.start(name, task, needs, heartbeat=self.experiment.heartbeat)

    def _finish_measuring(self, name: str, cell: PlannedCell, key: str, last: Finished) -> None:
        folder = layout.measurements_folder(self.experiment.out, cell.label, cell.seed)
        if last.status == "done" and store.manifest(folder, key=key) is None:
            last = Finished("failed", "it ended without a whole result", clock=last.clock)
        if last.status == "done":
            self.measured[str(cell)] = key
        else:
            self._unmeasured[name] = last
        self.experiment.watch(Progress(name, ended=last))

    def _finish(self, name: str, last: Finished) -> None:
        """Take note of the end of a child process. Only a sealed folder is a result."""
        cell, key = self.running.pop(name)
        if isinstance(last.error, StorageError):
            raise last.error  # no other cell could write either
        if name != str(cell):
            self._finish_measuring(name, cell, key, last)
            return
        if last.status != "done":
            self._finalize(cell, CellStatus(last.status, last.reason, clock=last.clock))
            return
        sealed = store.manifest(cell.folder(self.experiment.out), key=key)
        if sealed is None:
            self._finalize(cell, CellStatus("failed", "it ended without a whole result", clock=last.clock))
        else:
            self._learn_seconds(cell.label)
            self._finalize(cell, CellStatus("done", content=sealed["content"], clock=last.clock))

    def _finalize(self, cell: PlannedCell, how: CellStatus) -> None:
        """Record how a cell ended, on disk and to all who follow the run; then see to the cells that need it."""
        self.statuses[cell] = how
        folder = cell.folder(self.experiment.out)
        folder.mkdir(parents=True, exist_ok=True)
        store.write_json(folder / layout.STATUS, {"status": how.status, "reason": how.reason})
        ended = Finished(how.status, how.reason, clock=how.clock)
        self.experiment.watch(Progress(str(cell), ended=ended, cells=len(self.cells)))
        facts = {"label": cell.label, "seed": cell.seed, "status": how.status, "reason": how.reason}
        self.experiment.observers.notify("alignbench_cell_finished", **facts)
        if self.measure and how.status == "done":
            self._see_to_measuring(cell)
        for child in self.children[cell]:
            ready = how.status != "done" or all(one in self.statuses for one in self.parents[child])
            if ready and child not in self.statuses:
                self._advance(child)

    def _see_to_measuring(self, cell: PlannedCell) -> None:
        """Take what was measured of a finished cell as it lies in the folder, or let it be measured."""
        one = self.experiment
        chain = (cell, *ancestors_of(cell, self.parents))
        key = keys.measured_key(
            one.plan,
            cell,
            versions=one.versions,
            data=self.data,
            contents={str(link): self.statuses[link].content for link in chain},
            files=one.files,
        )
        sealed = one.sealed(layout.measurements_folder(one.out, cell.label, cell.seed), key)
        if sealed is None:
            heapq.heappush(self.measurable, (self.rank[cell], cell, key))
        else:
            self.measured[str(cell)] = sealed["key"]

    def _report(self, name: str, event: Event) -> None:
        """Pass on what a child process reports."""
        self.experiment.watch(Progress(name, event=event, cells=len(self.cells)))
        if event.numbers:
            cell, _ = self.running[name]
            logged = {"step": event.done, "numbers": dict(event.numbers)}
            self.experiment.observers.notify("alignbench_step", label=cell.label, seed=cell.seed, **logged)


def _before(folder: Path) -> CellStatus:
    """How an unfinished cell ended the last time, as its status file has it."""
    file = folder / layout.STATUS
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    status = known.get("status", "cancelled")
    return CellStatus("failed" if status == "done" else status, known.get("reason") or "it was not run")
