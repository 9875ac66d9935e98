"""Each judge's mean score, and its named parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from alignbench.api.judge import Score
from alignbench.api.metric import NO_JUDGE, Evidence, Measure, Metric, Missing, Need, by_prompt


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
                columns = {"reward": [score.value for score in scores]}
                for part in dict.fromkeys(part for score in scores for part in score.parts):
                    columns[f"reward.{part}"] = [score.parts.get(part) for score in scores]
                for name, column in columns.items():
                    values = by_prompt(evidence.samples(cell), column)
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
                            description=f"score by {judge}, on the prompts that it scores",
                        )
                    )
        return found


def _any(scores: Sequence[Score]) -> bool:
    return any(score.value is not None or score.parts for score in scores)
