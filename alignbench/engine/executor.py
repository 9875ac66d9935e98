"""Runs tasks in child processes, side by side where they do not need each other, and outlives them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from alignbench.worker.messages import ALIVE, Event, Finished, Task
from alignbench.worker.process import PRELOAD, STACKS, main


def has_cuda() -> bool:
    """Return whether this machine has a CUDA device, without touching it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and Path("/dev/nvidiactl").exists()


PATIENCE = 20.0
"""Seconds a child has, once asked to stop, to finish its step and keep it."""


@dataclass(slots=True)
class Child:
    """A running child: its process and the end of the pipe it speaks through."""

    process: BaseProcess
    pipe: Connection
    log: Path
    heartbeat: float
    """Seconds it may be silent; 0 for ever."""
    heard: float = field(default_factory=time.monotonic)
    last: Finished | None = None


class Executor:
    """Starts children and hears them. Use as a context: leaving it ends every child with its descendants.

    Who leaves it early, by an exception, asks the children to finish their step and keep it; a second
    exception on the way, and they are killed.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["alignbench.worker.process", *(() if has_cuda() else PRELOAD)])
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Executor:
        with _unheard(signal.SIGTERM, signal.SIGHUP):
            forkserver.ensure_running()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for sign, patience in ((signal.SIGINT, PATIENCE), (signal.SIGTERM, 3.0)):
                for child in self._children.values():
                    _signal(child.process, sign)
                end = time.monotonic() + patience
                while self._children and (left := end - time.monotonic()) > 0:
                    self.hear(lambda name, event: None, left)
        finally:
            for child in self._children.values():
                _signal(child.process, signal.SIGKILL)
                child.process.join()
            self._children.clear()

    def __len__(self) -> int:
        return len(self._children)

    def start(self, name: str, task: Task, *, heartbeat: float = 0.0) -> None:
        """Start a child under `name`; one that is silent for more than `heartbeat` seconds is ended."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=main, args=(task, theirs), name=name)
        process.start()
        theirs.close()
        self._children[name] = Child(process, ours, task.log, heartbeat)

    def hear(self, heard: Callable[[str, Event], None], timeout: float | None = None) -> dict[str, Finished]:
        """Wait until a child says something; return the last words of those that ended.

        A child that died without a last word is `failed` with the reason its exit code gives, even if that
        is 0: only a last word counts. So is one that has been silent for longer than its heartbeat.
        """
        pipes = {child.pipe: name for name, child in self._children.items()}
        ended: dict[str, Finished] = {}
        for pipe in wait(list(pipes), self._soonest(timeout)):
            name = pipes[pipe]  # pyright: ignore[reportArgumentType]
            child = self._children[name]
            try:
                said = child.pipe.recv()
                child.heard = time.monotonic()
            except Exception:  # the end of the pipe, or half a word: it died while it spoke
                child.process.join()
                _signal(child.process, signal.SIGKILL)  # whatever the child has started and left behind
                ended[name] = child.last or Finished("failed", _why(child.process.exitcode))
                child.pipe.close()
                del self._children[name]
                continue
            if isinstance(said, Finished):
                child.last = said
            elif said is not ALIVE:
                heard(name, said)
        for name, child in list(self._children.items()):
            if child.heartbeat and time.monotonic() - child.heard > child.heartbeat and not child.pipe.poll():
                _end_silent(child)
                ended[name] = Finished(
                    "failed",
                    f"silent for {child.heartbeat:g} seconds, and stopped; {child.log} says where it hung",
                )
                child.pipe.close()
                del self._children[name]
        return ended

    def _soonest(self, timeout: float | None) -> float | None:
        """Return how long to wait at most: until `timeout`, or until a child has been silent for too long."""
        now = time.monotonic()
        ends = [child.heard + child.heartbeat - now for child in self._children.values() if child.heartbeat]
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


def _end_silent(child: Child, patience: float = 5.0) -> None:
    """End a child that hangs, and its process group: stacks into its log, then asked, told, killed."""
    with suppress(ProcessLookupError):
        os.kill(child.process.pid or 0, STACKS)
    child.process.join(0.2)
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        _signal(child.process, sign)
        child.process.join(patience)
        if child.process.exitcode is not None:
            break
    _signal(child.process, signal.SIGKILL)


@contextmanager
def _unheard(*signs: signal.Signals) -> Iterator[None]:
    """Ignore signals inside; a process started there inherits it: the parent alone hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
