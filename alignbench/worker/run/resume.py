"""Resume inside a cell: where each training keeps its checkpoints, and the ledger that goes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.worker.run.ledger import FORMAT

if TYPE_CHECKING:
    from alignbench.training.checkpoint import Checkpoints
    from alignbench.worker.run.ledger import Ledger
    from alignbench.worker.run.metering import CellMeter


class CheckpointScope:
    """A cell, or a shared artefact that it builds, with the checkpoints of its trainings.

    A training is identified by what is made (`key` names all that goes into it) and by its place in the order
    of the trainings. Each scope has a ledger of its own: the cell that resumes a shared artefact need not be
    the one that began it. `curves` is the file that a shared artefact adds to, from where it stands now.
    """

    def __init__(self, folder: Path, key: str, curves: Path | None = None):
        self.folder, self.key = folder, key
        self.trainings = 0
        self._curves = curves
        self._begun = _size(curves) if curves is not None else 0

    def checkpoints(
        self, ledger: Ledger, meter: CellMeter, curves: Path, what: Mapping[str, Any], *, every: float
    ) -> Checkpoints:
        """Return the checkpoints of the next training, `every` so many seconds; `what` says how it is done."""
        from alignbench.training.checkpoint import Checkpoints

        number = self.trainings
        self.trainings += 1
        start = self._begun if curves == self._curves else 0

        def account() -> dict[str, Any]:
            meter.read()
            points = curves.read_bytes()[start:].decode() if curves.exists() else ""
            return {"ledger": ledger.as_json(), "curves": points}

        def restore(kept: dict[str, Any]) -> None:
            ledger.restore(kept["ledger"])
            meter.forget()
            head = curves.read_bytes()[:start] if start else b""
            curves.write_bytes(head + kept["curves"].encode())

        key = store.digest({"made": self.key, "training": number, "ledger": FORMAT, **what})
        return Checkpoints(self.folder / f"{number}", key, every=every, account=account, restore=restore)


def rows_digest(rows: Iterable[Any]) -> str:
    """Return a digest of the rows a training reads."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr([getattr(row, one.name) for one in fields(row) if one.name != "extra"]).encode())
    return total.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
