"""A task on a machine that shares no disk with the run: what it needs, how it is done there, what comes back.

What crosses the border are strings, numbers, and bytes: `order` here, `work` there, `Receiver` here again.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from alignbench import errors, layout, plugins, store
from alignbench.api.launcher import Event, Finished, LauncherConfig, Needs, Task
from alignbench.launchers import folders
from alignbench.launchers.local import Local
from alignbench.models.weights.files import fingerprint_of
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Model, texts
from alignbench.versions import versions

POLL = 0.5
"""Seconds after which the machine that works looks for new lines of the log."""

SENT = 64 * 2**20
"""Bytes of a file or folder of the recipe that travels with a task at most."""

OWN = ("alignbench.models",)
"""Producers of artefacts that each machine makes itself: they are large, and depend on its device."""


# --- here: what a task needs --------------------------------------------------------------------------------------


def order(task: Task) -> dict[str, Any]:
    """Return what another machine has to know of a task: plain values, and the recipe's small files as bytes."""
    plan = Plan.model_validate_json(task.plan)
    used = [name for name in task.files if name in _used(plan, task.kind)]
    sent = [name for name in used if _is_sent(name, task.root, plan)]
    folder = Path(task.what["folder"]).relative_to(task.run).as_posix()
    return {
        "kind": task.kind,
        "plan": task.plan,
        "threads": task.threads,
        "every": task.every,
        "what": {**task.what, "folder": folder},
        "root": str(task.root.resolve()),
        "name": task.run.resolve().name,
        "inputs": _packed(task.root, sent),
        "there": {name: task.files[name] for name in used if name not in sent},
        "versions": dict(versions()),
        "base": _known(plan.recipe.model.model_dump_json(), task.root),
    }


@cache
def _known(model: str, root: Path) -> str | None:
    """The base's digest on this machine: large files are read once for all cells."""
    return fingerprint_of(Model.model_validate_json(model), root)


def _used(plan: Plan, kind: str) -> set[str]:
    """What a task reads of what the recipe names: not the data, which are in the prepared rows; a cell no judge."""
    recipe = plan.recipe.model_dump(mode="json")
    del recipe["data"]
    if kind == "cell":
        del recipe["evaluation"]
    return set(texts(recipe))


def _is_sent(name: str, root: Path, plan: Plan) -> bool:
    """Whether a file or folder travels with the task; else it has to be at the same path on the other machine."""
    if name in (plan.recipe.model.id, plan.recipe.model.gguf) or Path(name).expanduser().is_absolute():
        return False
    path = root / name
    files = path.rglob("*") if path.is_dir() else [path]
    return ".." not in Path(name).parts and sum(one.stat().st_size for one in files if one.is_file()) <= SENT


def identity(run: Path) -> str:
    """Return a random name of a run, 32 hex digits, which its folder holds: the same on every host.

    For what a launcher keeps outside of the folder. No other run has it, but for copies of the folder.
    """
    file = run / layout.IDENTITY
    known = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not re.fullmatch(r"[0-9a-f]{32}", known):  # it becomes a part of paths
        known = uuid4().hex
        store.write_text(file, f"{known}\n")
    return known


def _packed(root: Path, names: list[str]) -> bytes:
    """Return files and folders below `root` as bytes."""
    found: list[str] = []
    for name in names:
        path = root / name
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [os.path.relpath(file, root) for file in inside if file.is_file()]
    return folders.pack_files(root, found)


# --- there: how it is done ----------------------------------------------------------------------------------------


def work(
    order: Mapping[str, Any],
    reads: Mapping[str, Callable[[], bytes]],
    artefacts: Mapping[str, Callable[[], bytes]],
    *,
    heartbeat: float = 0.0,
    begun: Callable[[], bytes | None] = lambda: None,
    keep: Callable[[bytes], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Do a task on this machine, alone in a process, and yield what it reports, as plain values.

    `reads`: for each sealed folder that the task reads, what returns its bytes; `artefacts` likewise, by key, of the
    stages that other cells made. `begun` returns the checkpoints of an earlier attempt, from which this one goes on,
    and `keep` gets those of this one. `{"refused": [...]}`: this machine is not like the one which asks, with all
    reasons. `{"lost": "..."}`: the task itself is not to blame, and another attempt or machine may do better.
    """
    try:
        yield from _work(order, reads, artefacts, heartbeat, begun, keep)
    except Exception as error:  # an exception is not a plain value
        if isinstance(error, errors.AlignbenchError):
            yield {"lost": str(error)}
        else:
            yield {"log": traceback.format_exc()}
            yield {"lost": f"{type(error).__name__}: {error}"}


def _work(
    order: Mapping[str, Any],
    reads: Mapping[str, Callable[[], bytes]],
    artefacts: Mapping[str, Callable[[], bytes]],
    heartbeat: float,
    begun: Callable[[], bytes | None],
    keep: Callable[[bytes], None] | None,
) -> Iterator[dict[str, Any]]:
    if found := differences(order):
        yield {"refused": found}
        return
    home = store.Store(store.default_root())
    for key, fetch in artefacts.items():
        if home.find(key) is None:
            folders.adopt(home, key, fetch())
    before = set(_artefacts(home))
    with _scratch() as scratch:
        task = _placed(order, scratch, home.root)
        folder = Path(task.what["folder"])
        for name, fetch in reads.items():
            folders.unpack(fetch(), task.run / name)
        if (stored := begun()) is not None:
            try:
                folders.write(folders.files_of(stored), folder / layout.CHECKPOINTS)
            except folders.TransferError as error:
                yield {
                    "event": asdict(
                        Event(f"its stored checkpoints are damaged, it starts from the beginning ({error})")
                    )
                }
        log, kept = _Tail(task.log), _Kept(folder / layout.CHECKPOINTS, keep)
        try:
            with Local(LauncherConfig(jobs=1)) as here:
                here.start("task", task, Needs(cpus=task.threads), heartbeat=heartbeat)
                events: list[Event] = []
                ended: dict[str, Finished] = {}
                while not ended:
                    ended = here.wait(lambda _, event: events.append(event), POLL)
                    for event in events:
                        yield {"event": asdict(event)}
                    events.clear()
                    if text := log.read():
                        yield {"log": text}
                    kept.save()
        except BaseException:
            kept.save()  # asked to stop, it has kept its last step
            raise
        last = ended["task"]
        if isinstance(last.error, errors.StorageError):
            raise last.error  # another machine may have the room
        if last.status == "done":
            if order["base"] is not None and _base(order) != order["base"]:
                yield {"refused": ["it loaded another base than the run's"]}
                return
            for key, made in _artefacts(home).items():
                if key not in before and (sealed := store.manifest(made)) and sealed["producer"] not in OWN:
                    yield {"artefact": key, "data": folders.pack(made)}
            if (tracked := task.run / layout.TRACKING).is_dir():
                yield {"tracking": _packed(task.run, [tracked.name])}
            yield {"sealed": folders.pack(folder)}
        yield {"finished": last.plain()}


def differences(order: Mapping[str, Any]) -> list[str]:
    """Return in what this machine differs from the one that asks: libraries, plugins, files, the base."""
    found = []
    ours = versions()
    for name, theirs in order["versions"].items():
        if ours.get(name) != theirs:
            found.append(f"{name} is {ours.get(name, 'not installed')} here, and {theirs} in the run")
    plan = Plan.model_validate_json(order["plan"])
    for key, source in plan.sources.items():
        group, _, name = key.partition(" ")
        try:
            there = plugins.find(group, name)  # pyright: ignore[reportArgumentType]
            digest = plugins.source_digest(there)
        except errors.PluginError as error:
            found.append(str(error))
            continue
        if (str(there), digest) != (str(source), source.digest):
            here, asked = f"{there} (source {digest[:12]})", f"{source} (source {source.digest[:12]})"
            found.append(f"'{name}' is {here} here, and {asked} in the run")
    root = Path(order["root"])
    for name, digest in order["there"].items():
        path = root / Path(name).expanduser()
        if not path.exists():
            found.append(f"{path} is not here")
        elif store.path_digest(path) != digest:
            found.append(f"{path} holds something else here than in the run")
    if not found and (base := _base(order)) is not None and base != order["base"]:
        found.append(f"the base {plan.recipe.model.id} is another here than the run's")
    return found


def _base(order: Mapping[str, Any]) -> str | None:
    model: Model = Plan.model_validate_json(order["plan"]).recipe.model
    return None if order["base"] is None else fingerprint_of(model, Path(order["root"]))


def _artefacts(home: store.Store) -> dict[str, Path]:
    """Return the folder of every artefact in a store, by key."""
    return {folder.name: folder for folder in (home.root / "store").glob("*/*")}


def _placed(order: Mapping[str, Any], scratch: Path, home: Path) -> Task:
    """Return the task with the paths of this machine, and its inputs in their place."""
    run, root = scratch / order["name"], scratch / "root"
    root.mkdir()
    folders.write(folders.files_of(order["inputs"]), root)
    for name in order["there"]:
        if not Path(name).expanduser().is_absolute():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(Path(order["root"]) / name)
    folder = run / order["what"]["folder"]
    folder.mkdir(parents=True)
    return Task(
        order["kind"],
        run=run,
        root=root,
        plan=order["plan"],
        home=home,
        log=folder / layout.LOG,
        threads=order["threads"],
        what={**order["what"], "folder": str(folder)},
        every=order["every"],
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a folder for one task, and delete those of killed processes."""
    parent = Path(tempfile.gettempdir()) / f"alignbench-tasks-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    if parent.stat().st_uid != os.getuid():
        raise errors.StorageError(f"{parent} belongs to another user", "set TMPDIR to a folder of your own")
    for old in parent.iterdir():
        with suppress(OSError, errors.StorageError), store.alone(old):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    with store.alone(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Tail:
    """What a growing file holds that was not read yet."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0

    def read(self) -> str:
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(self.at)
            data = file.read()
        self.at += len(data)
        return data.decode("utf-8", "replace")


class _Kept:
    """Hands on the sealed checkpoints of a cell, whenever there are others."""

    def __init__(self, folder: Path, keep: Callable[[bytes], None] | None):
        self.folder, self.keep = folder, keep
        self.known: list[Path] = []

    def save(self) -> None:
        if self.keep is None:
            return
        newest = {path.parent.parent: path.parent for path in sorted(self.folder.glob(f"*/*/{store.COMMIT}"))}
        if not newest or list(newest.values()) == self.known:
            return
        with suppress(FileNotFoundError):  # replaced by a newer one meanwhile, which comes next time
            names = [
                file.relative_to(self.folder).as_posix()
                for one in newest.values()
                for file in sorted(one.iterdir())
            ]
            self.keep(folders.pack_files(self.folder, names))
            self.known = list(newest.values())


# --- here: what comes back ----------------------------------------------------------------------------------------


class Receiver:
    """Takes what `work` yields for one task: log, checkpoints and results land where the task would have put them."""

    def __init__(self, task: Task):
        self.task = task

    def take(self, message: Mapping[str, Any], on_event: Callable[[Event], None]) -> Finished | None:
        """Take one message; return the end of the task, where it is that. Raises TransferError for torn bytes."""
        folder = Path(self.task.what["folder"])
        if "event" in message:
            on_event(Event(**message["event"]))
        elif "log" in message:
            with self.task.log.open("a", encoding="utf-8") as file:
                file.write(message["log"])
        elif "artefact" in message:
            folders.adopt(store.Store(self.task.home), message["artefact"], message["data"])
        elif "tracking" in message:
            folders.write(folders.files_of(message["tracking"]), self.task.run)
        elif "sealed" in message:
            self._replace(folder, message["sealed"])
        elif "finished" in message:
            return Finished.from_plain(message["finished"])
        return None

    def _replace(self, folder: Path, data: bytes) -> None:
        from alignbench.worker.tasks.cell import clear

        folders.verified(data)
        clear(folder)
        folders.unpack(data, folder)
