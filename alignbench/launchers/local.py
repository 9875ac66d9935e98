"""The launcher `local`: each task is a child process of this one, on a device of its own where there are some."""

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
from typing import Any, Self

from alignbench.api.launcher import HEARTBEAT, Event, Finished, Launcher, Needs, Task
from alignbench.launchers import machine
from alignbench.worker.process import PRELOAD, STACKS, main

GRACE = 20.0
"""Seconds a child has, once asked to stop, to finish its step and keep it."""


@dataclass(slots=True)
class Child:
    """A running child: its process, and our end of the pipe that it writes to."""

    process: BaseProcess
    pipe: Connection
    log: Path
    device: str | None
    needs: Needs
    heartbeat: float
    """Seconds that may pass without a message from it; 0: any number."""
    last_message: float = field(default_factory=time.monotonic)
    result: Finished | None = None


class Local(Launcher):
    """Runs each task in a child process of this machine.

    Each child sees one CUDA device alone, the one with the fewest children; `jobs` of them run on each device. On a
    machine without, `jobs` run in all: by default as many as the cores have room for. A task whose memory is known
    starts only where it fits in addition to those that run.
    """

    api = 2

    def __init__(self, config: Any = None, *, devices: Sequence[str] | None = None) -> None:
        super().__init__(config)
        self.devices = machine.devices() if devices is None else tuple(devices)
        self._context = multiprocessing.get_context("forkserver")
        preload = () if self.devices else PRELOAD
        self._context.set_forkserver_preload(["alignbench.worker.process", *preload])
        self._children: dict[str, Child] = {}
        self._free: dict[str | None, int | None] = {}
        """Memory that was free before the first child."""

    def __enter__(self) -> Self:
        self._free = {device: machine.free_memory(device) for device in self.devices or (None,)}
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

    def capacity(self, needs: Needs) -> int:
        return (len(self.devices) or 1) * self._each(needs)

    def fits(self, needs: Needs) -> bool:
        return any(True for _ in self._places(needs))

    def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
        ours, theirs = self._context.Pipe(duplex=False)
        device = next(self._places(needs), self._emptiest()[0])
        process = self._context.Process(target=main, args=(replace(task, device=device), theirs), name=name)
        process.start()
        theirs.close()
        self._children[name] = Child(process, ours, task.log, device, needs, heartbeat)

    def _emptiest(self) -> list[str | None]:
        """The devices, the one with the fewest children first; None stands for a machine without."""
        used = Counter(child.device for child in self._children.values())
        return sorted(self.devices or (None,), key=lambda one: used[one])

    def _places(self, needs: Needs) -> Iterator[str | None]:
        """Yield the devices on which a task fits in addition to what runs there."""
        for device in self._emptiest():
            others = [child for child in self._children.values() if child.device == device]
            if not others or (len(others) < self._each(needs) and self._has_room(device, needs, others)):
                yield device

    def _each(self, needs: Needs) -> int:
        """How many children run on a device, or on a machine without, at a time."""
        if self.config.jobs != "auto":
            return self.config.jobs
        return 1 if self.devices else max(1, machine.cores() // needs.cpus)

    def _has_room(self, device: str | None, needs: Needs, others: Sequence[Child]) -> bool:
        """Whether a task fits in addition to others: into what was free before them, and into what is free now."""
        if not needs.memory_bytes or (before := self._free.get(device)) is None:
            return True
        now = machine.free_memory(device)
        taken = sum(child.needs.memory_bytes for child in others)
        return needs.memory_bytes + taken <= before and (now is None or needs.memory_bytes <= now)

    def wait(
        self, on_event: Callable[[str, Event], None], timeout: float | None = None
    ) -> dict[str, Finished]:
        """See Launcher. A child that died without a result is `failed` with the reason its exit code gives, even if
        that is 0; so is one that has sent nothing for longer than its heartbeat.
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
            if isinstance(message, dict):
                child.result = Finished.from_plain(message)
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
