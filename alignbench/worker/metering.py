"""Writes what a base computes to the ledger of the run that it computes for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alignbench.models.meter import Meter
from alignbench.rows import Prompt

if TYPE_CHECKING:
    from alignbench.worker.context import CellContext


class CellMeter(Meter):
    """The meter of one run. Inside a training the trainer's clock runs, so that seconds are not counted twice."""

    def __init__(self, run: CellContext):
        self.run = run
        self.training = False

    def answered(self, prompts: Sequence[Prompt], tokens: int, seconds: float) -> None:
        ledger = self.run.ledger
        ledger.cost.add(generated_tokens=tokens)
        ledger.account.add(tokens=tokens)
        self._passed(seconds)
        for prompt in prompts:
            if origin := self.run.origins.of_prompt(prompt):
                ledger.asked.setdefault(origin[0], set()).add(origin[1])

    def searched(self, tokens: int, forwards: int, seconds: float) -> None:
        self.run.ledger.cost.add(generated_tokens=tokens, forward_passes=forwards)
        self.run.ledger.account.add(tokens=tokens)
        self._passed(seconds)

    def scored(self, sequences: int) -> None:
        self.run.ledger.cost.add(forward_passes=sequences)

    def _passed(self, seconds: float) -> None:
        if not self.training:
            self.run.ledger.cost.add(train_seconds=seconds)
            self.run.ledger.account.add(seconds=seconds)

    @contextmanager
    def charging(self) -> Iterator[None]:
        """Charge this run with what its base computes inside the block."""
        with _metered(self.run, self):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Charge nobody: what is computed inside the block belongs to the evaluation."""
        base = self.run.session.base
        generated = base.generated
        with _metered(self.run, Meter()):
            yield
        base.generated = generated


@contextmanager
def _metered(run: CellContext, meter: Meter) -> Iterator[None]:
    base = run.session.base
    before, base.meter = base.meter, meter
    try:
        yield
    finally:
        base.meter = before
