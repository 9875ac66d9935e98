"""Log-probabilities of the chosen and rejected answers of held-out pairs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from alignbench.api.metric import Evidence, Measure, Metric, Missing, Need


class Preference(Metric):
    """`preference.chosen` and `preference.rejected`, the log-probability of a whole answer, `preference.margin`, the
    first minus the second, and `preference.accuracy`, the share of pairs whose chosen answer is more likely."""

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    by_cell: ClassVar[bool] = True

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            pairs = evidence.preference_logprobs(cell)
            columns = (
                ("chosen", "nats", None, [pair.chosen for pair in pairs or ()]),
                ("rejected", "nats", None, [pair.rejected for pair in pairs or ()]),
                ("margin", "nats", None, [pair.chosen - pair.rejected for pair in pairs or ()]),
                ("accuracy", "share", True, [_prefers(pair.chosen - pair.rejected) for pair in pairs or ()]),
            )
            for name, unit, higher_is_better, column in columns:
                if not pairs:
                    reason = "the policy gives no log-probabilities" if pairs is None else "no held-out pairs"
                    found.append(Missing(metric=f"preference.{name}", **cell._asdict(), reason=reason))
                    continue
                found.append(
                    Measure(
                        metric=f"preference.{name}",
                        **cell._asdict(),
                        unit=unit,
                        span=(0, 1) if name == "accuracy" else None,
                        higher_is_better=higher_is_better,
                        values=dict(zip((pair.row_id for pair in pairs), column, strict=True)),
                        description="on held-out pairs, by the log-probability of the whole answer",
                    )
                )
        return found


def _prefers(margin: float) -> float:
    return float(np.heaviside(margin, 0.5))
