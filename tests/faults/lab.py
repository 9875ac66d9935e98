"""Real cells killed at the N-th file mutation or at any time, and what they leave when run to their end.

A cell is a forked process, so that torch and the base are loaded once; what runs in it is the engine's own
`cell.main`. Kill -9 loses nothing that was written, so nothing here waits for the disk.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.launcher import Task
from alignbench.layout import CHECKPOINTS
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.worker.finished import samples
from alignbench.worker.tasks import cell, prepare

from .injection import Faults

SEED, THREADS = 0, 1

SURVIVED, FAILED, STORAGE, DIED = 0, 3, 6, 9


class Lab:
    """Cells of one recipe, each attempt a process of its own, each case in a folder of its own."""

    def __init__(self, folder: Path, faults: Faults, methods: dict[str, dict]):
        self.folder, self.faults = folder, faults
        recipe = Recipe.model_validate(
            {
                "model": {"id": "sandbox", "adapter": {"rank": 4, "dropout": 0.1}},
                "data": {"train": "sandbox", "limit": 48, "max_length": 128},
                "training": {"threads": THREADS, "batch": 4, "micro_batch": 2},
                "budget": {"steps": 4},
                "methods": methods,
                "evaluation": {"prompts": 2, "sampling": {"max_new_tokens": 4}},
            }
        )
        self.task = Task(
            kind="cell",
            run=folder / "prepared",
            root=folder,
            plan=resolve(recipe).model_dump_json(),
            home=folder / "home",
            log=folder / "log.txt",
            threads=THREADS,
            every=0.0,
            what={"key": "data"},
        )
        prepare.main(self.task, lambda event: None)
        self.cases = 0
        self.counts = mmap.mmap(-1, 16)
        """Shared with the children: file mutations of the last attempt, optimiser steps of all of them."""

    # --- one attempt ----------------------------------------------------------------------------------------

    def case(self) -> Path:
        """A run whose rows are prepared, and nothing else."""
        self.cases += 1
        run = self.folder / f"case-{self.cases}" / "run"
        shutil.copytree(self.task.run / layout.DATA, run / layout.DATA)
        return run.parent

    def attempt(
        self,
        case: Path,
        label: str,
        *,
        at: int | None = None,
        after: float | None = None,
        act: Callable[[], None] | None = None,
        limit: int | None = None,
    ) -> tuple[int, int]:
        """Run a cell, killed at its `at`-th file mutation or `after` so many seconds.

        Instead of being killed there it may suffer `act`; no file may grow beyond `limit` bytes, whoever
        writes it. Return how it ended, and how many file mutations it made.
        """
        child = os.fork()
        if child == 0:
            code = FAILED
            try:
                log = os.open(case / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                code = self._work(case, label, at, act)
            except BaseException as error:
                if store.as_storage_error(error, case) is not None:
                    code = STORAGE
                else:
                    traceback.print_exc()
            finally:
                os._exit(code)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return DIED if code == -signal.SIGKILL else code, self._count(0)

    def _cell(self, case: Path, label: str) -> Path:
        return case / "run" / "cells" / label / f"seed-{SEED}"

    def _work(self, case: Path, label: str, at: int | None, act: Callable[[], None] | None) -> int:
        folder = str(self._cell(case, label))
        what = {"label": label, "seed": SEED, "folder": folder, "key": _key(label)}
        task = replace(self.task, run=case / "run", home=case / "home", log=case / "log.txt", what=what)
        os.fsync = lambda handle: None

        def die() -> None:
            self._set(0, self.faults.seen)
            os._exit(DIED)

        self._set(0, self.faults.run(lambda: cell.main(task, lambda event: None), case, at, act or die))
        return SURVIVED

    def count_step(self) -> None:
        """Count an optimiser step, whichever process takes it."""
        self._set(8, self._count(8) + 1)

    @property
    def steps(self) -> int:
        return self._count(8)

    def _count(self, place: int) -> int:
        return struct.unpack_from("q", self.counts, place)[0]

    def _set(self, place: int, count: int) -> None:
        struct.pack_into("q", self.counts, place, count)

    # --- a case, from its first death to its end ------------------------------------------------------------

    def reference(self, label: str) -> tuple[dict[str, str], int, int]:
        """What a cell leaves that nobody kills, its file mutations, its steps; made twice, or it is void."""
        found = []
        for _ in range(2):
            case, before = self.case(), self.steps
            code, mutations = self.attempt(case, label)
            assert code == SURVIVED, (case / "log.txt").read_text()[-3000:]
            found.append((left(case, label), mutations, self.steps - before))
            shutil.rmtree(case)
        (files, *counts), (again, *others) = found
        assert (differ(files, again), counts) == ([], others), (
            f"two runs that nobody touched differ: {differ(files, again)}, {counts} and {others}"
        )
        return found[0]

    def wrong(self, label: str, kills: Iterable[dict]) -> str | None:
        """Kill a cell again and again, then let it end; return what is wrong with what it leaves, or None."""
        whole, _, steps = self.reference_of(label)
        case, deaths, reached = self.case(), 0, (0, 0)
        before = self.steps
        for kill in [*kills, {}]:
            if store.manifest(self._cell(case, label), key=_key(label)) is not None:
                # The engine does not run a finished cell, and throws away what it went on from.
                shutil.rmtree(self._cell(case, label) / CHECKPOINTS, ignore_errors=True)
                break
            code, _ = self.attempt(case, label, **kill)
            if code == FAILED:
                return f"{kill}: {(case / 'log.txt').read_text()[-2000:]}"
            deaths += code in (DIED, STORAGE)
            now = progress(case)
            if code == DIED and now < reached and not (self._cell(case, label) / store.COMMIT).exists():
                return f"{kill}: from {reached} back to {now} (artefacts, step)"
            reached = max(reached, now)
            if code == SURVIVED:
                break  # it ended before it could be killed
        found = left(case, label)
        extra = self.steps - before - steps
        shutil.rmtree(case)
        if found != whole:
            return f"{kills}: {sorted(name for name in whole | found if whole.get(name) != found.get(name))}"
        if extra > deaths:
            return f"{kills}: {extra} steps more than a run without a death, after {deaths} deaths"
        return None

    def reference_of(self, label: str) -> tuple[dict[str, str], int, int]:
        known = self.__dict__.setdefault("_references", {})
        if label not in known:
            known[label] = self.reference(label)
        return known[label]

    def points(self, label: str, count: int | None) -> list[int]:
        """Mutations to kill at: all of them, or `count` spread over the cell with its last among them."""
        total = self.reference_of(label)[1]
        if count is None or count >= total:
            return list(range(1, total + 1))
        return sorted({round(1 + (total - 1) * at / (count - 1)) for at in range(count)})


def _key(label: str) -> str:
    return f"the key of {label}"


def differ(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The files whose digests are not equal."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def sealed(case: Path) -> Iterator[Path]:
    """Every folder with a seal that holds."""
    for path in case.rglob(store.COMMIT):
        if store.manifest(path.parent) is not None:
            yield path.parent


def progress(case: Path) -> tuple[int, int]:
    """How many artefacts are sealed, and the last step kept of the training that goes on after them."""
    names = [path.name for path in sealed(case)]
    return sum(not name.isdecimal() for name in names), max([*(int(n) for n in names if n.isdecimal()), 0])


def left(case: Path, label: str) -> dict[str, str]:
    """A digest of each file of a finished cell, measured times apart; an unknown file is an error."""
    folder = case / "run" / "cells" / label / f"seed-{SEED}"
    assert store.manifest(folder) is not None, "the cell has no seal that holds"
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        own = path.parent == folder / "policy"  # a method writes what it needs to be there again
        reader = READERS.get(path.name, Path.read_bytes if own else None)
        assert reader is not None, f"nobody states how {path} is compared"
        result = reader(path)
        if result is not None:
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(result).hexdigest()
    return found


def _cell(path: Path) -> bytes:
    return store.canonical(_steady(json.loads(path.read_text()))).encode()


def _steady(found: Any) -> Any:
    """What is left of a record without what is measured: times, and memory."""
    if isinstance(found, list):
        return [_steady(one) for one in found]
    if not isinstance(found, dict):
        return found
    return {
        name: _steady(value)
        for name, value in found.items()
        if not name.endswith(("seconds", "peak_memory_bytes"))
    }


def _curves(path: Path) -> bytes:
    text = [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
    return repr(text).encode()


def _samples(path: Path) -> bytes:
    found = samples.read(path.parent, path.name)
    return repr(
        {at: [replace(answer, seconds=0.0) for answer in answers] for at, answers in found.items()}
    ).encode()


READERS: dict[str, Callable[[Path], bytes | None]] = {
    "samples.parquet": _samples,
    "tuning.parquet": _samples,
    "train.jsonl": _curves,
    "cell.json": _cell,
    "used.json": Path.read_bytes,
    store.COMMIT: lambda path: None,
}


def random_kills(seed: int, count: int, longest: float) -> list[dict]:
    draw = random.Random(seed)
    return [{"after": draw.uniform(0, longest)} for _ in range(count)]
