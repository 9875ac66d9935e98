"""Runs tasks in child processes and collects their messages, results and crashes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from alignbench.errors import AlignbenchError
from alignbench.worker.messages import HEARTBEAT, Event, Finished, Task
from alignbench.worker.process import PRELOAD, STACKS, main

GRACE = 20.0
"""Seconds a child has, once asked to stop, to finish its step and keep it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a task of a run reports, or how it ended."""

    task: str
    event: Event | None = None
    ended: Finished | None = None
    cells: int = 0
    """Cells of the whole run."""


@dataclass(slots=True)
class Child:
    """A running child: its process, and our end of the pipe that it writes to."""

    process: BaseProcess
    pipe: Connection
    log: Path
    device: str | None
    heartbeat: float
    """Seconds that may pass without a message from it; 0: any number."""
    last_message: float = field(default_factory=time.monotonic)
    result: Finished | None = None


class Executor:
    """Starts children and waits for them. A context: leaving it ends every child with its descendants.

    Each child sees one of the `devices` alone, the one with the fewest children. Leaving it early, by an exception,
    asks the children to finish their step and keep it; a second exception on the way kills them.
    """

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self.devices = tuple(devices)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["alignbench.worker.process", *(() if devices else PRELOAD)])
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Executor:
        with _ignored(signal.SIGTERM, signal.SIGHUP):
            forkserver.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for sign, grace in ((signal.SIGINT, GRACE), (signal.SIGTERM, 3.0)):
                for child in self._children.values():
                    _signal(child.process, sign)
                end = time.monotonic() + grace
                while self._children and (left := end - time.monotonic()) > 0:
                    self.wait(lambda name, event: None, left)
        finally:
            for child in self._children.values():
                _signal(child.process, signal.SIGKILL)
                child.process.join()
            self._children.clear()

    def __len__(self) -> int:
        return len(self._children)

    def start(self, name: str, task: Task, *, heartbeat: float = 0.0) -> None:
        """Start a child; without a message for more than `heartbeat` seconds it is ended."""
        ours, theirs = self._context.Pipe(duplex=False)
        used = Counter(child.device for child in self._children.values())
        device = min(self.devices, key=lambda one: used[one], default=None)
        process = self._context.Process(target=main, args=(replace(task, device=device), theirs), name=name)
        process.start()
        theirs.close()
        self._children[name] = Child(process, ours, task.log, device, heartbeat)

    def run(self, name: str, task: Task, watch: Callable[[Progress], None]) -> None:
        """Run one task to its end. Raises its error, or AlignbenchError where it failed without one."""
        self.start(name, task)
        while self._children:
            for last in self.wait(lambda name, event: watch(Progress(name, event=event))).values():
                watch(Progress(name, ended=last))
                if last.error is not None:
                    raise last.error
                if last.status != "done":
                    raise AlignbenchError(f"{name}: {last.reason}", f"see {task.log}")

    def wait(
        self, on_event: Callable[[str, Event], None], timeout: float | None = None
    ) -> dict[str, Finished]:
        """Wait until a child sends something; return the results of those that ended, by name.

        A child that died without a result is `failed` with the reason its exit code gives, even if that is 0.
        So is one that has sent nothing for longer than its heartbeat.
        """
        pipes = {child.pipe: name for name, child in self._children.items()}
        ended: dict[str, Finished] = {}
        for pipe in wait(list(pipes), self._soonest(timeout)):
            name = pipes[pipe]  # pyright: ignore[reportArgumentType]
            child = self._children[name]
            try:
                message = child.pipe.recv()
                child.last_message = time.monotonic()
            except Exception:  # the end of the pipe, or half a message: it died
                child.process.join()
                _signal(child.process, signal.SIGKILL)  # whatever the child has started and left behind
                ended[name] = child.result or Finished("failed", _why(child.process.exitcode))
                child.pipe.close()
                del self._children[name]
                continue
            if isinstance(message, Finished):
                child.result = message
            elif message is not HEARTBEAT:
                on_event(name, message)
        for name, child in list(self._children.items()):
            if (
                child.heartbeat
                and time.monotonic() - child.last_message > child.heartbeat
                and not child.pipe.poll()
            ):
                _end_hanging(child)
                ended[name] = Finished(
                    "failed",
                    f"silent for {child.heartbeat:g} seconds, and stopped; {child.log} says where it hung",
                )
                child.pipe.close()
                del self._children[name]
        return ended

    def _soonest(self, timeout: float | None) -> float | None:
        """Return how long to wait at most: until `timeout`, or until a child's heartbeat is overdue."""
        now = time.monotonic()
        ends = [
            child.last_message + child.heartbeat - now for child in self._children.values() if child.heartbeat
        ]
        ends += [] if timeout is None else [timeout]
        return max(0.01, min(ends)) if ends else None


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the process ended with code {code} and left no result"


def _signal(process: BaseProcess, sign: signal.Signals) -> None:
    """Signal a child's process group, which outlives the child where it left a process behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, sign)


def _end_hanging(child: Child, grace: float = 5.0) -> None:
    """End a child that hangs, and its process group: stacks into its log, then SIGINT, SIGTERM, SIGKILL."""
    with suppress(ProcessLookupError):
        os.kill(child.process.pid or 0, STACKS)
    child.process.join(0.2)
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        _signal(child.process, sign)
        child.process.join(grace)
        if child.process.exitcode is not None:
            break
    _signal(child.process, signal.SIGKILL)


@contextmanager
def _ignored(*signs: signal.Signals) -> Iterator[None]:
    """Ignore signals inside; a process that is started there inherits this, so that only the parent gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
