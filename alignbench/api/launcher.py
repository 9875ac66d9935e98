"""What the author of a launcher writes: where and when the tasks of a run are done. Imports no torch.

Group of entry points: `alignbench.launchers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from alignbench import errors
from alignbench.api.config import API, Settings
from alignbench.errors import AlignbenchError, Problem

HEARTBEAT = None
"""What a child sends where it has nothing to report but that it works."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a child process is asked to do. Everything crosses the process border as plain values."""

    kind: str
    """What it does: `prepare`, `calibrate`, `cell`, `measure`, `judge` or `evaluate`, each a `main` of its own."""
    run: Path
    """The run's folder."""
    root: Path
    """The recipe's folder: relative paths start here."""
    plan: str
    """The resolved recipe, `alignbench.recipe.plan.Plan`, in JSON."""
    home: Path
    """Where the store lies: a fork server keeps the environment it was started with."""
    log: Path
    threads: int
    what: Mapping[str, Any] = field(default_factory=dict)
    every: float = 60.0
    """Seconds between two checkpoints of a training."""
    device: str | None = None
    """The one CUDA device that the child sees, as CUDA_VISIBLE_DEVICES names it; None: whatever there is."""
    reads: tuple[str, ...] = ()
    """Sealed folders that it reads, relative to `run`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digests of the files that the recipe names, relative to `root`."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a child reports while it works: its phase, its progress, and logged numbers."""

    phase: str
    done: int = 0
    total: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    clock: float = 0.0
    """When it was sent, by the child's `busy_clock`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a task ended: the last message of its child. A child that dies sends none."""

    status: str = "done"
    reason: str = ""
    error: AlignbenchError | None = None
    clock: float = 0.0
    """As in Event; 0 where the child died."""

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, for another process; `from_plain` makes it of them again.

        An error of a kind that `alignbench.errors` does not have becomes the nearest kind that it has: to read the
        values loads no plugin.
        """
        values: dict[str, Any] = {"status": self.status, "reason": self.reason, "clock": self.clock}
        if self.error is None:
            return values
        kinds = (
            kind.__name__ for kind in type(self.error).__mro__ if vars(errors).get(kind.__name__) is kind
        )
        problems = [asdict(one) for one in self.error.problems]
        return {**values, "error": next(kinds), "problems": problems, "total": self.error.total}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Return what `plain` was called on."""
        error = None
        if "error" in values:
            problems = [Problem(**one) for one in values["problems"]]
            error = getattr(errors, values["error"])(problems, total=values["total"])
        return cls(values["status"], values["reason"], error, values["clock"])


@dataclass(frozen=True, slots=True)
class Needs:
    """What a task needs of a machine."""

    cpus: int = 1
    """CPU threads that it computes with."""
    memory_bytes: int = 0
    """The most memory it is known to take: of the device, or of a machine without one. 0: not known."""


class LauncherConfig(Settings):
    """Fields that every launcher has."""

    jobs: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Tasks that run in parallel at most; on the devices of one machine: on each of them."""


class Launcher(ABC):
    """Starts the tasks of a run, receives their events, and stops them.

    A context, which may be entered again once it was left. Leaving it stops every task that runs, in order: each
    finishes its step and keeps it where it can. A second exception on the way stops them at once.

    Laws: `wait` returns each task that was started once; a task whose process died is `failed`, with a reason;
    whatever `Task.what["folder"]` holds after a task is `done` is sealed, as if the task had run on this machine.
    """

    api: ClassVar[int] = API

    Config: ClassVar[type[LauncherConfig]] = LauncherConfig
    """Its fields, set by `--set launcher.FIELD=VALUE`; an own one is an inner class that inherits `LauncherConfig`."""

    name: str = "local"
    """What the command line called it."""

    def __init__(self, config: LauncherConfig | None = None):
        self.config: Any = self.Config() if config is None else config

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every task that runs."""

    @abstractmethod
    def capacity(self, needs: Needs) -> int:
        """Return how many tasks with these needs it runs at a time, 1 at least.

        It may change while a run goes; asked outside of the context, it is a guess.
        """

    def fits(self, needs: Needs) -> bool:
        """Return whether a task with these needs may start now, with what runs. Where nothing runs, every task may."""
        return True

    @abstractmethod
    def start(self, name: str, task: Task, needs: Needs, *, heartbeat: float = 0.0) -> None:
        """Start a task; one that reports nothing for more than `heartbeat` seconds (0: any number) has failed."""

    @abstractmethod
    def wait(
        self, on_event: Callable[[str, Event], None], timeout: float | None = None
    ) -> dict[str, Finished]:
        """Wait until a task reports something, or `timeout` seconds; return the results of those that ended, by name.

        It may return without a result. `on_event` gets the name of a task and what it reports.
        Raises AlignbenchError where no task could go on.
        """

    def record(self) -> dict[str, Any]:
        """Return what the record of a run says of it: plain values, none of them secret."""
        return {}
