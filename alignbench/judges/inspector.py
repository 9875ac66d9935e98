"""A judge as a row filter: drops rows with whose label it disagrees, or whose answer it scores too low."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from alignbench.api.config import NamedJudge, Settings
from alignbench.api.data import RowFilter
from alignbench.api.judge import Judge, Models
from alignbench.recipe.configs import make
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, UnpairedPreference
from alignbench.training.reward_quality import comparisons


class Inspector(RowFilter):
    """Keeps the rows that a judge accepts, and counts how often it agrees with the labels.

    Keeps a pair or ranking where the judge agrees with at least the share `agree` of its comparisons. Keeps a
    demonstration, and the desirable answer of an unpaired preference, where its score is at least `min_score`.
    Keeps a row on which the judge abstains.
    """

    api = 2

    class Config(Settings):
        """The judge and its thresholds."""

        judge: NamedJudge
        """An installed judge."""
        agree: float = Field(0.5, ge=0, le=1)
        """Least share of a row's comparisons with which the judge agrees."""
        min_score: float = 5.5
        """Least score of a demonstration, in the judge's own units."""

    def open(self, models: Models) -> None:
        named = self.config.judge
        self.judge: Judge = make("judges", named.name, named.config)
        self.judge.name = named.name
        self.judge.open(models)

    def keep(self, row: Row) -> Row | None:
        return self.keep_all([row])[0]

    def keep_all(self, rows: Sequence[Row]) -> list[Row | None]:
        from alignbench.models.meter import Tally, Work, metered

        found: list[Row | None] = list(rows)
        with metered(Tally()) as tally:

            def spent(*, judge_calls: int = 0, judge_tokens: int = 0, **_: float) -> None:
                # Of a server, what it says; of a model of this process, what it computed since the last call.
                here, tally.work = tally.work, Work()
                self._spend(
                    judge_calls=judge_calls, tokens=max(here.positions, judge_tokens), flops=here.flops
                )

            self.judge.record_cost = spent
            self._compared(found)
            self._scored(found)
        self._spend(tokens=tally.work.positions, flops=tally.work.flops)
        return found

    def _spend(self, **numbers: float) -> None:
        for name, number in numbers.items():
            if number:
                self.cost[name] += round(number)

    def _compared(self, rows: list[Row | None]) -> None:
        asked: list[tuple[int, Prompt, str, str]] = []
        for place, row in enumerate(rows):
            if isinstance(row, Pair | Ranking):
                texts = (row.chosen, row.rejected) if isinstance(row, Pair) else row.answers
                asked += [(place, row, texts[one.better], texts[one.worse]) for one in comparisons(row)]
        columns: Any = [list(column) for column in zip(*asked, strict=True)] or [[], [], [], []]
        shared: dict[int, list[float]] = {}
        for place, p in zip(columns[0], self.judge.compare(*columns[1:]), strict=True):
            if p is None:
                self.counts["comparisons: the judge abstains"] += 1
            else:
                shared.setdefault(place, []).append(float(p > 0.5))
                self.counts[f"comparisons: the judge {'agrees' if p > 0.5 else 'disagrees'}"] += 1
        for place, agreed in shared.items():
            if sum(agreed) / len(agreed) < self.config.agree:
                self.counts["dropped: the judge disagrees"] += 1
                rows[place] = None

    def _scored(self, rows: list[Row | None]) -> None:
        asked = [
            (place, row)
            for place, row in enumerate(rows)
            if isinstance(row, Demonstration)
            and not (isinstance(row, UnpairedPreference) and not row.desirable)
        ]
        scores = self.judge.score([row for _, row in asked], [row.response for _, row in asked])
        for (place, _), score in zip(asked, scores, strict=True):
            if score.value is None:
                self.counts["answers: the judge abstains"] += 1
            elif score.value < self.config.min_score:
                self.counts["dropped: the judge's score is too low"] += 1
                rows[place] = None
