"""Runs a metric; where it raises, finds the row that makes it raise, by evidence with one row at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from alignbench import plugins, returned
from alignbench.api.judge import Score
from alignbench.api.metric import Cell, Evidence, Measure, Metric, Missing, PairLogprobs, Request, Under
from alignbench.api.policy import Answer, TokenScores
from alignbench.errors import AlignbenchError
from alignbench.rows import Text

Aligned = TypeVar("Aligned")


def measured(metric: Metric, evidence: Evidence) -> list[Measure | Missing]:
    """Return what a metric says. What it raises names the row that it raises of: see `alignbench.plugins.note_row`.

    That is the first one of which, alone, it raises the same. No row is named where there is none, or where it raises
    the same of no rows. Raises PluginError where it says no numbers of these cells.
    """
    try:
        return returned.measures(metric, metric.measure(evidence), evidence.cells)
    except AlignbenchError:
        raise
    except Exception as error:
        view: Any = OfOneRow
        if not plugins.raises_same(error, lambda: metric.measure(view(evidence, None))):
            rows = _read(metric, evidence)
            plugins.note_row(
                error, rows, lambda place: metric.measure(view(evidence, rows[place])), sure=True
            )
        raise


def _read(metric: Metric, evidence: Evidence) -> list[str]:
    """Return the ids of the rows that a metric reads: prompts, those of its requests, pairs, and texts."""
    ids = [one.id for one in evidence.prompts]
    if "generations" in metric.needs:
        ids += [one.id for request in metric.requests(evidence.root) for one in request.prompts]
    if "pairs" in metric.needs:
        ids += [one.row_id for cell in evidence.cells for one in evidence.preference_logprobs(cell) or ()]
    if "texts" in metric.needs:
        ids += [one.id for one in evidence.texts]
    return list(dict.fromkeys(ids))


class OfOneRow:
    """Evidence that has one row, or none; see `alignbench.api.metric.Evidence`."""

    def __init__(self, evidence: Evidence, row: str | None):
        self._all, self._row = evidence, row
        self.cells, self.root = evidence.cells, evidence.root
        self.prompts = [one for one in evidence.prompts if one.id == row]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._all, name)

    def samples(self, cell: Cell) -> Sequence[Answer]:
        return self._own(cell, self._all.samples(cell))

    def logprobs(self, cell: Cell, *, under: Under) -> Sequence[TokenScores] | None:
        found = self._all.logprobs(cell, under=under)
        return None if found is None else self._own(cell, found)

    def scores(self, judge: str, cell: Cell) -> Sequence[Score]:
        return self._own(cell, self._all.scores(judge, cell))

    def compare(self, judge: str, a: Cell, b: Cell) -> Sequence[float | None]:
        return self._own(a, self._all.compare(judge, a, b))

    def by_rater(self, judge: str, a: Cell, b: Cell) -> Sequence[Mapping[str, float]]:
        return self._own(a, self._all.by_rater(judge, a, b))

    def generations(self, cell: Cell, request: Request) -> Sequence[Answer]:
        return [one for one in self._all.generations(cell, request) if one.prompt_id == self._row]

    def preference_logprobs(self, cell: Cell) -> Sequence[PairLogprobs] | None:
        found = self._all.preference_logprobs(cell)
        return None if found is None else [one for one in found if one.row_id == self._row]

    @property
    def texts(self) -> Sequence[Text]:
        return [one for one in self._all.texts if one.id == self._row]

    def _own(self, cell: Cell, aligned: Sequence[Aligned]) -> list[Aligned]:
        """Return what is aligned with the row's samples, of what is with all."""
        samples = self._all.samples(cell)
        return [one for one, answer in zip(aligned, samples, strict=True) if answer.prompt_id == self._row]
