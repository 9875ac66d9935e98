"""Each judge's mean score, and its named parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from alignbench.api.judge import Score
from alignbench.api.metric import (
    NO_JUDGE,
    Evidence,
    Measure,
    Metric,
    Missing,
    Need,
    by_prompt,
    by_prompt_and_rater,
)


class Reward(Metric):
    """The score of each judge as `reward`, its parts as `reward.helpful` and so on."""

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "judge"})

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        if not evidence.judges:
            return [Missing(metric="reward", **cell._asdict(), reason=NO_JUDGE) for cell in evidence.cells]
        found: list[Measure | Missing] = []
        for judge, known in evidence.judges.items():
            if known.recorded and not any(map(_any, (evidence.scores(judge, c) for c in evidence.cells))):
                continue  # its raters were asked for no score
            for cell in evidence.cells:
                scores = evidence.scores(judge, cell)
                parts = dict.fromkeys(part for score in scores for part in score.parts)
                for part in (None, *parts):
                    name = "reward" if part is None else f"reward.{part}"
                    values = by_prompt(evidence.samples(cell), [_of(score, part) for score in scores])
                    if not values:
                        reason = f"{judge} gives no score"
                        found.append(Missing(metric=name, **cell._asdict(), judge=judge, reason=reason))
                        continue
                    found.append(
                        Measure(
                            metric=name,
                            **cell._asdict(),
                            judge=judge,
                            unit="score",
                            higher_is_better=True,
                            values=values,
                            by_rater=by_prompt_and_rater(
                                evidence.samples(cell), [_raters(score, part) for score in scores]
                            ),
                            description=f"score by {judge}, on the prompts that it scores",
                        )
                    )
        return found


def _of(score: Score, part: str | None) -> float | None:
    return score.value if part is None else score.parts.get(part)


def _raters(score: Score, part: str | None) -> dict[str, float]:
    return {rater: value for rater, own in score.by_rater.items() if (value := _of(own, part)) is not None}


def _any(scores: Sequence[Score]) -> bool:
    return any(score.value is not None or score.parts for score in scores)
