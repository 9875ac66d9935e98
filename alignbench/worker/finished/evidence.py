"""What metrics read: `alignbench.api.metric.Evidence` over a run's cells, each at one sampling temperature."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.api.config import Sampling
from alignbench.api.judge import Judge, Score
from alignbench.api.launcher import Event
from alignbench.api.metric import Cell, Measure, Metric, Missing, Need, PairLogprobs, Request, Under, matches
from alignbench.api.policy import Answer, TokenScores
from alignbench.evaluation.controls import controls
from alignbench.evaluation.one_row import measured
from alignbench.judges.people import People
from alignbench.recipe.schema import BASE
from alignbench.rows import Ids, Text
from alignbench.rows import Sequence as Scorable
from alignbench.worker.finished.cells import Drawn, FinishedCells
from alignbench.worker.finished.second_person import as_a_rater
from alignbench.worker.run import learning_curve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JUDGED: frozenset[Need] = frozenset({"judge", "comparisons"})
DRAWN: frozenset[Need] = frozenset({"samples", "logprobs", "entropy", *JUDGED})
"""What of a cell depends on the temperature at which it answered."""


class RunEvidence:
    """`alignbench.api.metric.Evidence`: the finished cells of a run, each at one of its temperatures.

    `at`: label -> temperature; None where the policy ignores it. Two views of the same cells share what is
    computed. `judges`: those that judge here; all if None.
    """

    def __init__(
        self,
        finished: FinishedCells,
        at: Mapping[str, float | None],
        metrics: Sequence[Metric] = (),
        judges: Mapping[str, Judge] | None = None,
    ):
        self._finished, self._at, self._some = finished, at, judges
        self.cells, self.prompts = finished.cells, finished.prompts
        self.root = finished.session.root
        self.compared: dict[tuple[str, Cell, Cell], Sequence[float | None]] = {}
        """Every comparison that a metric asked for: (judge, a, b) -> how probably a's answers are better."""
        self._every = any("comparisons" in metric.needs for metric in metrics)
        # Each function keeps what it returned: metrics that ask for the same thing share one computation.
        for name in ("compare", "by_rater", "everyone"):
            setattr(self, name, cache(getattr(self, name)))

    @property
    def judges(self) -> Mapping[str, Judge]:
        return self._finished.judges if self._some is None else self._some

    def measures(self, metric: Metric) -> list[Measure | Missing]:
        """Return what a metric says of the cells. Of one that measures each cell by itself, what the cells' records
        have is not measured again."""
        if not metric.by_cell or metric.needs & JUDGED:
            return measured(metric, self)
        kind = type(metric)
        config = store.canonical(metric.config.model_dump(mode="json"))
        name = f"{kind.__module__}.{kind.__qualname__} {config}"

        def record(cell: Cell) -> Any:
            at = f" at {self._at[cell.label]}" if metric.needs & DRAWN else ""
            return self._finished.kept(cell, "measures", dict), name + at

        known = {cell: found[at] for cell in self.cells for found, at in (record(cell),) if at in found}
        if missing := [cell for cell in self.cells if cell not in known]:
            part, made = copy(self), defaultdict[Cell, list[Any]](list)
            part.cells = missing
            for one in measured(metric, part):
                made[Cell(one.label, one.seed)].append(_packed(one))
            for cell in missing:
                found, at = record(cell)
                known[cell] = found[at] = made[cell]
        return [_measure(one) for cell in self.cells for one in known[cell]]

    def quality(self) -> list[dict[str, Any]]:
        """Return what is known of each judge, its controls among it: see `alignbench.evaluation.controls`."""
        records = []
        for name, judge in self.judges.items():
            self._finished.emit(Event(f"the judge {name} under control"))
            found = dict(judge.quality)
            if isinstance(judge, People) and judge.config.rater is None:
                found["as_a_rater"] = as_a_rater(self, judge, self.compared)
            if (pairs := self._finished.pairs) and not judge.recorded:
                others = (one for one in self.judges.values() if one is not judge)
                truths = [one for one in others if not one.trains and not one.recorded]
                found |= controls(judge, pairs, truths[0] if truths else None)
            records.append({"name": name, "config": judge.config.model_dump(mode="json"), "quality": found})
        return records

    def start(self, cell: Cell) -> Cell | None:
        return self._finished.start(cell)

    def sampling(self, cell: Cell) -> Sampling | None:
        temperature = self._at[cell.label]
        grid = self._finished.session.recipe.evaluation.sampling
        return None if temperature is None else grid.at(temperature)

    def samples(self, cell: Cell) -> Sequence[Answer]:
        return self._finished.samples(self._drawn(cell))

    def logprobs(self, cell: Cell, *, under: Under) -> Sequence[TokenScores] | None:
        scorer = {"self": cell, "start": self.start(cell), "base": Cell(BASE, cell.seed)}[under]
        return self._finished.scored(self._drawn(cell), scorer)

    def generations(self, cell: Cell, request: Request) -> Sequence[Answer]:
        return self._finished.generations(cell, request)

    def score(self, cell: Cell, sequences: Sequence[Scorable]) -> Sequence[TokenScores] | None:
        policy = self._finished.policy(cell)
        if "logprobs" not in policy.can:
            return None
        self._finished.emit(Event(f"scoring {len(sequences)} texts under {cell.label}"))
        return policy.logprobs(sequences)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[Ids]:
        from alignbench.data.tokens import encode

        return encode(self._finished.session.base.tokenizer, list(texts), special=special)

    @property
    def first_token(self) -> int:
        return self._finished.session.base.first_token

    @property
    def context_length(self) -> int | None:
        return self._finished.session.table.record.get("context")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        from alignbench.models.forward.scoring import embed

        self._finished.emit(Event(f"embedding {len(texts)} texts"))
        return embed(self._finished.session.base, self.encode(texts))

    @property
    def texts(self) -> Sequence[Text]:
        return [row for row in self._finished.session.table.texts("test") if isinstance(row, Text)]

    def preference_logprobs(self, cell: Cell) -> Sequence[PairLogprobs] | None:
        return self._finished.preference_logprobs(cell)

    def scores(self, judge: str, cell: Cell) -> Sequence[Score]:
        return self._finished.scores(judge, self._drawn(cell))

    def learning_curve(self, cell: Cell) -> dict[str, Any]:
        """Return what the first judge says of a policy on its way: see `alignbench.worker.run.learning_curve`."""
        session = self._finished.session
        if session.recipe.evaluation.curve is None:
            return learning_curve.NONE
        name, judge = next(iter(self.judges.items()))

        def judged() -> dict[str, Any]:
            self._finished.emit(Event(f"judging {cell.label} on its way"))
            return learning_curve.judged(session, self._finished.folder(cell), name, judge)

        return self._finished.kept(cell, f"learning curve by {name}", judged)

    def compare(self, judge: str, a: Cell, b: Cell) -> Sequence[float | None]:
        if self._every:
            known = self.everyone(judge)
            if (a, b) in known:
                return known[a, b]
            if (b, a) in known:
                return [None if one is None else 1 - one for one in known[b, a]]
        return self._judged(judge, [(a, b)])[a, b]

    def by_rater(self, judge: str, a: Cell, b: Cell) -> Sequence[Mapping[str, float]]:
        asked = {prompt.id: prompt for prompt in self.prompts}
        ours, theirs = self.samples(a), self.samples(b)
        return self.judges[judge].by_rater(
            [asked[one.prompt_id] for one in ours], [one.text for one in ours], [one.text for one in theirs]
        )

    def everyone(self, judge: str) -> Mapping[tuple[Cell, Cell], Sequence[float | None]]:
        """What a judge says of every two labels."""
        labels = dict.fromkeys(cell.label for cell in self.cells)
        return self._judged(
            judge,
            [
                (Cell(a, seed), Cell(b, seed if against is None else against))
                for a, b in combinations(labels, 2)
                for seed, against in matches(self.cells, a, b)
            ],
        )

    def _judged(
        self, judge: str, pairs: Sequence[tuple[Cell, Cell]]
    ) -> Mapping[tuple[Cell, Cell], Sequence[float | None]]:
        drawn = self._finished.judged(judge, [(self._drawn(a), self._drawn(b)) for a, b in pairs])
        found = {(a.cell, b.cell): preferences for (a, b), preferences in drawn.items()}
        self.compared |= {(judge, a, b): preferences for (a, b), preferences in found.items()}
        return found

    def _drawn(self, cell: Cell) -> Drawn:
        return Drawn(cell, self._at[cell.label])


def _packed(one: Measure | Missing) -> dict[str, Any]:
    """What a metric says of a cell as JSON values; `_measure` reads it."""
    if isinstance(one, Missing):
        return asdict(one)
    by_rater = {id: {who: float(value) for who, value in of.items()} for id, of in one.by_rater.items()}
    return {
        **asdict(replace(one, by_rater={}, values={})),
        "values": {id: float(value) for id, value in one.values.items()},
        "by_rater": by_rater,
    }


def _measure(packed: Mapping[str, Any]) -> Measure | Missing:
    if "reason" in packed:
        return Missing(**packed)
    span = packed["span"]
    return Measure(**{**packed, "span": None if span is None else tuple(span)})
