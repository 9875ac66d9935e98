"""Runs tasks to their ends, outside the scheduler of cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from alignbench.api.launcher import Finished, Launcher, Needs, Task
from alignbench.engine.experiment import Progress
from alignbench.errors import AlignbenchError


def complete(launcher: Launcher, tasks: Mapping[str, Task], watch: Callable[[Progress], None]) -> None:
    """Run tasks to their ends, as many at a time as there is room for. Raises the error of the first that fails."""
    waiting, running = list(tasks), set[str]()
    while waiting or running:
        while waiting:
            needs = Needs(cpus=tasks[waiting[0]].threads)
            if running and (len(running) >= launcher.capacity(needs) or not launcher.fits(needs)):
                break
            running.add(name := waiting.pop(0))
            launcher.start(name, tasks[name], needs)
        for name, last in launcher.wait(lambda name, event: watch(Progress(name, event=event))).items():
            running.discard(name)
            watch(Progress(name, ended=last))
            if last.status != "done":
                raise failure(name, last, tasks[name].log)


def failure(name: str, last: Finished, log: Path) -> AlignbenchError:
    """Return the error of a task that failed."""
    return last.error or AlignbenchError(f"{name}: {last.reason}", f"see {log}")
