"""The launcher `ray`: each task of a run is one on a node of a Ray cluster."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from alignbench import AlignbenchError, Event, Finished, Launcher, LauncherConfig, Needs, Problem, Task
from alignbench.launchers import Receiver, TransferError, identity, order, pack, seal

if TYPE_CHECKING:
    import ray

LOCAL = "local"
"""The address of a Ray that is started for the run, on this machine alone."""

POLL = 1.0
"""Seconds after which `wait` returns without news, so that a node that joined meanwhile is used."""

GRACE = 25.0
"""Seconds that cells have to finish their step and keep it, once they are asked to stop."""


class RayConfig(LauncherConfig):
    """Where the cluster is, and what a cell asks of a node."""

    address: str = LOCAL
    """`local`: Ray is started on this machine, for this run; else the HOST:PORT of a running cluster."""
    trust_network: bool = False
    """Allow an address other than loopback: anyone who can reach a Ray cluster can run code on all of its nodes."""
    gpus: Literal["auto"] | float = Field(default="auto", ge=0)
    """Devices of a cell; auto: one where any node has one."""
    memory: int = Field(default=0, ge=0)
    """Bytes of main memory of a cell; 0: what its label is known to take on a processor."""
    retries: int = Field(default=3, ge=0)
    """How often a cell begins again whose node, process or transfer was lost; one whose method fails never does."""
    storage: str = ""
    """A path or fsspec URL that all nodes reach: checkpoints are kept there, and a lost cell goes on from its last."""

    @model_validator(mode="after")
    def _loopback_or_trusted(self) -> Self:
        if self.address != LOCAL and not self.trust_network and not is_loopback(self.address):
            raise ValueError(
                f"{self.address} is not this machine's loopback: Ray trusts everyone who can reach it; "
                "write launcher.trust_network=true where its network is private"
            )
        return self


def is_loopback(address: str) -> bool:
    """Return whether a HOST:PORT is this machine's own, which no other machine reaches."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(slots=True)
class RemoteTask:
    """A task that runs on a node: its stream of messages, and why earlier attempts were lost."""

    task: Task
    needs: Needs
    heartbeat: float
    receiver: Receiver
    stream: ray.ObjectRefGenerator | None = None
    lost: list[str] = field(default_factory=list)
    """Why each earlier attempt was lost."""
    node: str = ""


class Ray(Launcher):
    """Runs each cell as a task of a Ray cluster.

    What a cell reads goes there as bytes, what it made comes back as bytes, and both are checked. A node that is not
    like this machine is refused; a cell whose node is lost begins again on another.
    """

    api = 2
    Config = RayConfig

    def __init__(self, config: RayConfig | None = None):
        super().__init__(config)
        self._running: dict[str, RemoteTask] = {}
        self._ended: dict[str, Finished] = {}
        self._objects: dict[str, Any] = {}
        """By what they hold: sealed folders as Ray's objects, each put there once."""
        self._artefacts: dict[str, Any] = {}
        """Of this run's stages, by key."""
        self._refused: dict[str, tuple[str, list[str]]] = {}
        """Node -> its name, and in what it differs."""
        self._used: dict[str, str] = {}
        """Nodes that ran a cell, with their names."""
        self._own = False
        if self.config.address == LOCAL or is_loopback(self.config.address):
            # Ray would listen on, and connect to, the machine's outer address; it reads this as it is imported, which
            # may be before the context is entered.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

    # --- the context ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._own = not ray.is_initialized()
        if self._own:
            with _handlers_kept(), redirect_stdout(sys.stderr):  # what Ray says is not output of this command
                self._connect()
        return self

    def _connect(self) -> None:
        import ray

        quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        try:
            if self.config.address == LOCAL:
                ray.init(address=LOCAL, include_dashboard=False, **quiet)
            else:
                ray.init(address=self.config.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:300]
            raise AlignbenchError(
                Problem(
                    f"no Ray cluster answers at {self.config.address}: {reason}",
                    "start one, or correct launcher.address",
                )
            ) from error
        if not self.config.trust_network:
            others = {node["NodeManagerAddress"] for node in self._nodes()}
            if others := {one for one in others if not is_loopback(f"{one}:0")}:
                ray.shutdown()
                raise AlignbenchError(
                    f"nodes of the cluster listen at {', '.join(sorted(others))}, which is not loopback",
                    "write launcher.trust_network=true where that network is private",
                )

    def __exit__(self, *_: object) -> None:
        import ray

        try:
            streams = [one.stream for one in self._running.values() if one.stream is not None]
            for stream in streams:
                with suppress(Exception):
                    ray.cancel(stream, force=False)
            end = time.monotonic() + GRACE
            while self._running and time.monotonic() < end:
                self._poll(lambda name, event: None, end - time.monotonic(), again=False)
        finally:
            for one in self._running.values():
                with suppress(Exception):
                    ray.cancel(one.stream, force=True)
            for kept in (self._running, self._ended, self._objects, self._artefacts, self._refused):
                kept.clear()
            if self._own:
                ray.shutdown()

    # --- what runs where ------------------------------------------------------------------------------------

    def capacity(self, needs: Needs) -> int:
        """One more than the nodes have room for: what waits tells an autoscaler that it is wanted."""
        import ray

        most = self.config.jobs
        if not ray.is_initialized():
            return 1 if most == "auto" else most
        room = self._room(needs)
        return room + 1 if most == "auto" else min(room + 1, most)

    def _room(self, needs: Needs) -> int:
        """How many tasks with these needs the nodes have room for that are not refused."""
        asked = self._asked(needs)
        asked = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], "memory": asked.get("memory", 0)}
        asked = {name: amount for name, amount in asked.items() if amount}
        return sum(
            int(min(node["Resources"].get(name, 0.0) / amount for name, amount in asked.items()))
            for node in self._nodes()
            if node["NodeID"] not in self._refused
        )

    def _asked(self, needs: Needs) -> dict[str, float]:
        """What Ray is asked to set aside for a task."""
        gpus = self.config.gpus
        if gpus == "auto":
            gpus = 1.0 if any(node["Resources"].get("GPU") for node in self._nodes()) else 0.0
        memory = self.config.memory or (0 if gpus else needs.memory_bytes)
        return {"num_cpus": needs.cpus, "num_gpus": gpus, **({"memory": memory} if memory else {})}

    def _nodes(self) -> list[dict[str, Any]]:
        import ray

        return [node for node in ray.nodes() if node["Alive"]]

    def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
        self._running[name] = RemoteTask(task, needs, heartbeat, Receiver(task))
        try:
            self._send(name)
        except TransferError as error:  # what it reads is not whole here
            del self._running[name]
            self._ended[name] = Finished("failed", str(error))

    def _send(self, name: str) -> None:
        import ray

        from alignbench_ray.node import do

        running = self._running[name]
        task = running.task
        options: dict[str, Any] = {"max_retries": 0, "name": name, **self._asked(running.needs)}
        if self._refused:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._refused)})"}
        reads = {one: [self._object(task.run / one)] for one in task.reads}
        remote = ray.remote(do).options(**options)
        running.stream = remote.remote(
            order(task),
            reads,
            dict(self._artefacts),
            running.heartbeat,
            bool(options["num_gpus"]),
            self._storage(name),
        )

    def _storage(self, name: str) -> str:
        """Return where the checkpoints of a task are kept; no other run, and no other user, has the same place."""
        if not self.config.storage:
            return ""
        own = f"{identity(self._running[name].task.run)}-{os.getuid()}"
        return f"{self.config.storage.rstrip('/')}/{own}/{name}.checkpoints"

    def _object(self, folder: Path) -> Any:
        """Return a sealed folder as an object of Ray, put there once."""
        import ray

        if (known := seal(folder)) not in self._objects:
            self._objects[known] = ray.put(pack(folder))
        return self._objects[known]

    # --- what comes back ------------------------------------------------------------------------------------

    def wait(
        self, on_event: Callable[[str, Event], None], timeout: float | None = None
    ) -> dict[str, Finished]:
        self._poll(on_event, POLL if timeout is None else min(POLL, timeout))
        ended, self._ended = self._ended, {}
        return ended

    def _poll(self, on_event: Callable[[str, Event], None], timeout: float, *, again: bool = True) -> None:
        """Take what has arrived, or wait so many seconds for it; `again`: begin lost tasks again."""
        import ray
        from ray.exceptions import RayError, TaskCancelledError

        streams: dict[Any, str] = {running.stream: name for name, running in self._running.items()}
        if not streams or self._ended:
            return
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=max(0.0, timeout))
        for stream in ready:
            name = streams[stream]
            try:
                self._take(name, ray.get(next(stream)), on_event, again)  # pyright: ignore[reportArgumentType]
            except StopIteration:
                self._lose(name, "its task ended without a result", on_event, again=again)
            except TaskCancelledError:
                self._end(name, Finished("cancelled", "interrupted"))
            except TransferError as error:
                ray.cancel(stream, force=True)
                self._lose(name, str(error), on_event, again=again)
            except RayError as error:
                cancelled = isinstance(getattr(error, "cause", None), TaskCancelledError)
                if cancelled or not again:
                    self._end(name, Finished("cancelled", "interrupted"))
                else:
                    self._lose(name, _line(error), on_event, again=again)

    def _take(
        self, name: str, message: dict[str, Any], on_event: Callable[[str, Event], None], again: bool
    ) -> None:
        """Take one message of a task."""
        import ray

        from alignbench_ray.node import forget

        running = self._running[name]
        if "node" in message:
            running.node, self._used[message["node"]] = message["node"], message["name"]
        elif "refused" in message:
            self._refuse(name, message["refused"], on_event)
        elif "lost" in message:
            self._lose(name, " ".join(message["lost"].split()), on_event, again=again)
        else:
            if "artefact" in message and message["artefact"] not in self._artefacts:
                self._artefacts[message["artefact"]] = [ray.put(message["data"])]
            last = running.receiver.take(message, lambda event: on_event(name, event))
            if last is not None:
                if last.status == "done" and (storage := self._storage(name)):
                    with suppress(Exception):  # what stays there takes room, and changes no result
                        forget(storage)
                self._end(name, last)

    def _end(self, name: str, last: Finished) -> None:
        del self._running[name]
        self._ended[name] = last

    def _lose(self, name: str, why: str, on_event: Callable[[str, Event], None], *, again: bool) -> None:
        """Begin a task again that was lost with its node, process or transfer, unless that happened too often."""
        running = self._running[name]
        running.lost.append(why)
        if not again:
            self._end(name, Finished("cancelled", "interrupted"))
        elif len(running.lost) > self.config.retries:
            tries = f"{len(running.lost)} times" if len(running.lost) > 1 else "once"
            self._end(name, Finished("failed", f"it was lost {tries}, the last time because {why}"))
        else:
            on_event(name, Event(f"lost ({why}); try {len(running.lost) + 1} of {self.config.retries + 1}"))
            self._send(name)

    def _refuse(self, name: str, reasons: list[str], on_event: Callable[[str, Event], None]) -> None:
        """Leave a node out that is not like this machine. Raises AlignbenchError where no other is left."""
        node = self._running[name].node
        known = (
            self._used.pop(node, None) or self._refused[node][0]
        )  # another cell may have been refused there
        self._refused[node] = (known, reasons)
        if not self._room(self._running[name].needs):  # a head without processors is no place for it
            raise AlignbenchError(
                Problem(
                    f"the node {called} is refused: {'; '.join(why)}", "install there what this machine has"
                )
                for called, why in self._refused.values()
            )
        on_event(name, Event(f"the node {self._refused[node][0]} is refused: {'; '.join(reasons)}"))
        self._send(name)

    def record(self) -> dict[str, Any]:
        from importlib.metadata import version

        refused = dict(self._refused.values())
        return {
            "address": self.config.address,
            "ray": version("ray"),
            "nodes": sorted(set(self._used.values())),
            "refused": refused,
        }


def _line(error: BaseException) -> str:
    """The first line of an error of Ray that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no reason given'])[-1 if 'Traceback' in str(error) else 0][:300]}"


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keep the handlers of signals, which Ray replaces when it connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {sign: signal.getsignal(sign) for sign in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
