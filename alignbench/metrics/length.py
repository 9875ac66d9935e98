"""Length of the answers, and the share that ends by itself."""

from __future__ import annotations

from typing import ClassVar

from alignbench.api.metric import Evidence, Measure, Metric, Missing, by_prompt


class Length(Metric):
    """`length.tokens`, `length.words` and `length.finished`, the share of answers that were not truncated."""

    api = 2
    by_cell: ClassVar[bool] = True

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            samples = evidence.samples(cell)
            columns = (
                ("tokens", "tokens", None, "end of sequence included", [len(one.ids) for one in samples]),
                ("words", "words", None, "split at white space", [len(one.text.split()) for one in samples]),
                (
                    "finished",
                    "share",
                    True,
                    "answers that end by themselves",
                    [float(one.finished) for one in samples],
                ),
            )
            found += [
                Measure(
                    metric=f"length.{name}",
                    **cell._asdict(),
                    unit=unit,
                    higher_is_better=higher_is_better,
                    span=(0, 1) if name == "finished" else None,
                    values=by_prompt(samples, column),
                    description=description,
                )
                for name, unit, higher_is_better, description, column in columns
            ]
        return found
