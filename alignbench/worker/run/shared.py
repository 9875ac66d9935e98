"""What a run computes once for all cells that ask for the same: keyed by content, charged to each in full."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, plugins, store
from alignbench.api.launcher import Event
from alignbench.rows import Row
from alignbench.worker.run import ledger
from alignbench.worker.run.isolation import isolated
from alignbench.worker.run.resume import CheckpointScope

if TYPE_CHECKING:
    from alignbench.worker.run.cell_state import CellState


def shared(
    run: CellState, make: Callable[[Path], None], inputs: Mapping[str, Any], *, epochs: float = 1.0
) -> Path:
    """Return the folder that `make` filled; see `alignbench.api.method.Run.shared`.

    `epochs` is how many of this run's an epoch of what is made counts.
    """
    session = run.session
    key = store.digest(
        {
            **session.base_key(),
            **_maker(run, make),
            "ledger": ledger.FORMAT,
            "inputs": {name: content(value) for name, value in inputs.items()},
        }
    )
    checkpoints = session.store.root / layout.CHECKPOINTS / key

    def counted(folder: Path) -> None:
        session.emit(Event(str(inputs.get("what", "computing once for all"))))
        run.meter.read()
        around = run.ledger, run.scope, run.building
        run.outer.append(run.ledger)
        run.ledger = ledger.Ledger(emit=session.emit)
        run.scope, run.building = CheckpointScope(checkpoints, key, run.curves), folder
        try:
            with isolated(int(key[:8], 16)):
                make(folder)
            run.meter.read()
            run.ledger.write(folder)
        finally:
            run.meter.read()
            run.outer.pop()
            run.ledger, run.scope, run.building = around

    folder = session.store.make(key, counted, producer=run.method or "alignbench")
    shutil.rmtree(checkpoints, ignore_errors=True)
    # Charged in full to every cell that uses it, computed here or found in the store.
    run.ledger.merge(ledger.read(folder), epochs=epochs)
    return folder


def _maker(run: CellState, make: Callable[[Path], None]) -> dict[str, Any]:
    """What a key says of who makes it: alignbench's own functions name all they depend on as inputs."""
    if make.__module__.partition(".")[0] == "alignbench":
        return {"source": ""}
    found = plugins.find("methods", run.method) if run.method else None
    return {"source": plugins.source_digest(found) if found else "", "seed": run.seed}


def content(value: Any) -> Any:
    """Return what a key says of a value: a policy is what its weights are."""
    return value.fingerprint() if hasattr(value, "fingerprint") else value


def row_content(row: Row) -> Any:
    """All that a method can learn from a row: a relabelled row is another input."""
    return [getattr(row, one.name) for one in fields(row) if one.name != "extra"]
