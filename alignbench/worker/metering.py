"""Writes what a base computes to the ledger of the run that it computes for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from alignbench.models.meter import Meter
from alignbench.rows import Prompt
from alignbench.worker.ledger import Ledger
from alignbench.worker.row_origins import RowOrigins
from alignbench.worker.session import Session


class CellMeter(Meter):
    """The meter of one run. Inside a training the trainer's clock runs, so that seconds are not counted twice."""

    def __init__(self, session: Session, origins: RowOrigins, ledger: Callable[[], Ledger]):
        self._session, self._origins, self._ledger = session, origins, ledger
        self.training = False

    def answered(self, prompts: Sequence[Prompt], tokens: int, seconds: float) -> None:
        ledger = self._ledger()
        ledger.cost.add(generated_tokens=tokens)
        ledger.account.add(tokens=tokens)
        self._passed(seconds)
        for prompt in prompts:
            if origin := self._origins.of_prompt(prompt):
                ledger.asked.setdefault(origin[0], set()).add(origin[1])

    def searched(self, tokens: int, forwards: int, seconds: float) -> None:
        self._ledger().cost.add(generated_tokens=tokens, forward_passes=forwards)
        self._ledger().account.add(tokens=tokens)
        self._passed(seconds)

    def scored(self, sequences: int) -> None:
        self._ledger().cost.add(forward_passes=sequences)

    def _passed(self, seconds: float) -> None:
        if not self.training:
            self._ledger().cost.add(train_seconds=seconds)
            self._ledger().account.add(seconds=seconds)

    @contextmanager
    def charging(self) -> Iterator[None]:
        """Charge this run with what its base computes inside the block."""
        with _metered(self._session, self):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Charge nobody: what is computed inside the block belongs to the evaluation."""
        base = self._session.base
        generated = base.generated
        with _metered(self._session, Meter()):
            yield
        base.generated = generated


@contextmanager
def _metered(session: Session, meter: Meter) -> Iterator[None]:
    base = session.base
    before, base.meter = base.meter, meter
    try:
        yield
    finally:
        base.meter = before
