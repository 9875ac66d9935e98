"""A judge as a row filter: rows whose label it does not share, or whose answer it finds poor, are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from alignbench import plugins
from alignbench.api.config import NamedJudge, Settings
from alignbench.api.data import RowFilter
from alignbench.api.judge import Judge, Models
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, UnpairedPreference
from alignbench.training.reward_quality import comparisons


class Inspector(RowFilter):
    """Keeps what a judge accepts, and counts how often it agrees with the people who labelled the rows.

    A pair or ranking stays where the judge shares at least `agree` of its comparisons; a demonstration, and
    the answer that a verdict calls desirable, where its mark is at least `mark`. A row on which the judge
    abstains stays.
    """

    api = 2

    class Config(Settings):
        """Who accepts, and from where on."""

        judge: NamedJudge
        """An installed judge."""
        agree: float = Field(0.5, ge=0, le=1)
        """Share of a row's comparisons that the judge has to share."""
        mark: float = 5.5
        """The least mark of a demonstration, in the judge's own units."""

    def open(self, models: Models) -> None:
        named = self.config.judge
        kind: type[Judge] = plugins.load("judges", named.name)
        self.judge = kind(kind.Config(**named.config))
        self.judge.name = named.name
        self.judge.open(models)

    def keep(self, row: Row) -> Row | None:
        return self.keep_all([row])[0]

    def keep_all(self, rows: Sequence[Row]) -> list[Row | None]:
        found: list[Row | None] = list(rows)
        self._compared(found)
        self._marked(found)
        return found

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
        for place, said in shared.items():
            if sum(said) / len(said) < self.config.agree:
                self.counts["dropped: the judge disagrees"] += 1
                rows[place] = None

    def _marked(self, rows: list[Row | None]) -> None:
        asked = [
            (place, row)
            for place, row in enumerate(rows)
            if isinstance(row, Demonstration)
            and not (isinstance(row, UnpairedPreference) and not row.desirable)
        ]
        marks = self.judge.score([row for _, row in asked], [row.response for _, row in asked])
        for (place, _), mark in zip(asked, marks, strict=True):
            if mark.value is None:
                self.counts["answers: the judge abstains"] += 1
            elif mark.value < self.config.mark:
                self.counts["dropped: the judge finds it poor"] += 1
                rows[place] = None
