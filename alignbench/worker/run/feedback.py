"""Comparisons of other answers than the file's: what `data.source` in a recipe asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from alignbench.api.method import Run
from alignbench.feedback import label
from alignbench.recipe.schema import START, Relabelled
from alignbench.rows import Row

if TYPE_CHECKING:
    from alignbench.worker.run.cell_state import CellState


def comparisons(run: CellState, how: Relabelled) -> list[Row]:
    """Return the comparisons that `data.source` asks for, made by a run that itself reads the file's."""
    writer = type(run)(
        run.session,
        label=run.label,
        seed=run.seed,
        method=run.method,
        start=run.start if how.policy == START else run.policy(how.policy),
        folder=run.folder,
        training=run.training,
        scope=run.scope,
        ledger=run.ledger,
    )
    with writer.meter.charging():
        return label(cast(Run, writer), writer.judge(how.judge), how.labels)
