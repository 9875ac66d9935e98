"""Resume inside a cell: where each training keeps its checkpoints, and what of the account goes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.api.method import Departure

if TYPE_CHECKING:
    from alignbench.training.checkpoint import Checkpoints
    from alignbench.worker.context import CellContext

CHECKPOINTS = "checkpoints"
"""Where a cell, or the store, keeps what unfinished trainings go on from."""


class CheckpointScope:
    """An artefact in the making, a cell or something it shares, with the checkpoints of its trainings.

    A training is known by what is made (`key` names all that goes into it) and by its place in the order of
    the trainings. The account is what was spent and told since the making began: whoever goes on with a
    shared artefact need not be the one who began it.
    """

    def __init__(self, folder: Path, key: str, run: CellContext | None = None):
        self.folder, self.key = folder, key
        self.trainings = 0
        self.run = run
        self.before = replace(run.cost) if run else None
        self.curve = _size(run.curves) if run else 0

    def checkpoints(self, run: CellContext, curves: Path, what: Mapping[str, Any]) -> Checkpoints:
        """Return the checkpoints of the next training; `what` says how it is done."""
        from alignbench.training.checkpoint import Checkpoints
        from alignbench.worker.context import Alarm

        number = self.trainings
        self.trainings += 1
        # A stage is a run of its own, which begins with nothing spent and nothing told.
        before = self.before if run is self.run else None
        start = self.curve if run is self.run and curves == run.curves else 0

        def account() -> dict[str, Any]:
            said = {
                "cost": vars(run.cost) if before is None else run.cost.since(before),
                "curves": curves.read_bytes()[start:].decode() if curves.exists() else "",
            }
            if before is None:
                said |= {
                    "alarms": {name: vars(alarm) for name, alarm in run.alarms.items()},
                    "judges": run.judges,
                    "departures": [asdict(departure) for departure in run.departures],
                    "seen": {split: sorted(ids) for split, ids in run.seen.items()},
                }
            return said

        def restore(said: dict[str, Any]) -> None:
            begun = type(run.cost)() if before is None else replace(before)
            begun.add(**said["cost"])
            run.cost = begun
            head = curves.read_bytes()[:start] if start else b""
            curves.write_bytes(head + said["curves"].encode())
            if before is None:
                run.alarms = {name: Alarm(**alarm) for name, alarm in said["alarms"].items()}
                run.judges[:] = said["judges"]
                run.departures[:] = [Departure(**one) for one in said["departures"]]
                for split, ids in said["seen"].items():
                    run.seen.setdefault(split, set()).update(ids)

        key = store.digest({"made": self.key, "training": number, **what})
        return Checkpoints(self.folder / f"{number}", key, every=run.every, account=account, restore=restore)


def rows_digest(rows: Iterable[Any]) -> str:
    """Return a digest of the rows a training reads."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr([getattr(row, one.name) for one in fields(row) if one.name != "extra"]).encode())
    return total.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
