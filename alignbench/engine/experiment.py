"""What the steps of one run share: the resolved recipe, the folder, the environment, and who follows the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.launcher import Event, Finished, Task
from alignbench.engine import environment, keys, resources
from alignbench.hooks import Observers
from alignbench.launchers import machine
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Loaded
from alignbench.versions import versions

HEARTBEAT = 1800.0
"""Seconds without a heartbeat after which a cell is taken to hang. A download may take that long."""

CHECKPOINT_EVERY = 60.0
"""Seconds between two checkpoints of a training."""


PARALLEL = ("cell", "measure", "judge")
"""Kinds of tasks that run in parallel, each with the threads of a cell."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a task of a run reports, or how it ended."""

    task: str
    event: Event | None = None
    ended: Finished | None = None
    cells: int = 0
    """Cells of the whole run."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run in its folder. Everything a step needs except the launcher."""

    plan: Plan
    out: Path
    root: Path
    """The folder of the recipe file: relative paths start there."""
    files: Mapping[str, str]
    """Digests of the files that the recipe names."""
    versions: Mapping[str, str]
    mixed: tuple[str, ...]
    """In what the environments of this run differ, where that is allowed."""
    threads: int
    """CPU threads of a cell."""
    heartbeat: float = HEARTBEAT
    checkpoint_every: float = CHECKPOINT_EVERY
    trackers: tuple[str, ...] = ()
    watch: Callable[[Progress], None] = lambda progress: None
    observers: Observers = field(default_factory=Observers)

    def task(self, kind: str, log: Path, *, reads: Iterable[Path] = (), **what: Any) -> Task:
        """Return a task that reads these sealed folders. What runs alone may use all cores."""
        return Task(
            kind,
            run=self.out,
            root=self.root,
            plan=self.plan.model_dump_json(),
            home=store.default_root(),
            log=log,
            threads=self.threads if kind in PARALLEL else max(self.threads, machine.cores()),
            what=what,
            every=self.checkpoint_every,
            reads=tuple(folder.relative_to(self.out).as_posix() for folder in reads),
            files=dict(self.files),
        )

    def sealed(self, folder: Path, key: str) -> dict[str, Any] | None:
        """Return the manifest of what was made of this very input; in a mixed run, in whatever environment."""
        found = store.manifest(folder, key=None if self.mixed else key)
        return found if found is not None and keys.same_inputs(found["key"], key) else None


def opened(
    loaded: Loaded, plan: Plan, out: Path, *, allow_env_change: bool = False, **followed: Any
) -> Experiment:
    """Return the run of a plan in `out`, whose folder records what it is made of before anything is made.

    `followed`: the other fields of Experiment, by name. Raises RecipeError where the folder holds another run.
    """
    root = loaded.path.parent
    files = environment.files(plan, root)
    compute = environment.compute(out, loaded.recipe.model, root)
    mixed = environment.record(out, loaded, plan, files, compute=compute, allow_env_change=allow_env_change)
    environment.write_origin(out, root)
    plan = plan.computing(compute)
    store.write_text(out / layout.PLAN, plan.model_dump_json(indent=2) + "\n")
    threads = resources.threads(plan)
    return Experiment(plan, out, root, files, versions(), mixed, threads, **followed)
