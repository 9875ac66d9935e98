"""Vocabulary of the answers to open questions, and how unevenly it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from alignbench.api.metric import Evidence, Figure, Measure, Metric, Missing, Need, Request
from alignbench.metrics.diversity import entropy, top_share
from alignbench.metrics.open_prompts import OpenPrompts, answers, segmenter, words

SHOWN = 12
"""Words in the figure of each label."""


class Words(Metric):
    """Word frequencies of each open question: `words.entropy` of the word frequencies in bits,
    `words.effective`, 2 to its power, `words.different`, and `words.top_share`, the share of the most frequent word."""

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"generations"})
    by_cell: ClassVar[bool] = True

    class Config(OpenPrompts):
        """The questions, and the language of the answers."""

        language: str = "en"
        """ISO 639 code of the answers' language, for splitting them into words."""

    def requests(self, root: Path) -> Sequence[Request]:
        return (self.config.request(),)

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        request = self.config.request()
        how = f"of {request.samples} answers to each question, split {segmenter(self.config.language)}"
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            used = {
                id: [word for text in texts for word in words(text, self.config.language)]
                for id, texts in answers(evidence, cell, request).items()
            }
            used = {id: every for id, every in used.items() if every}
            entropies = {id: entropy(every) for id, every in used.items()}
            columns = (
                ("entropy", "bits", entropies),
                ("effective", "words", {id: 2**value for id, value in entropies.items()}),
                ("different", "words", {id: float(len(set(every))) for id, every in used.items()}),
                ("top_share", "share", {id: top_share(every) for id, every in used.items()}),
            )
            found += [
                Measure(metric=f"words.{name}", **cell._asdict(), unit=unit, values=values, description=how)
                if values
                else Missing(metric=f"words.{name}", **cell._asdict(), reason="no words")
                for name, unit, values in columns
            ]
        return found

    def figures(self, evidence: Evidence) -> Sequence[Figure]:
        request = self.config.request()
        counts: dict[str, Counter[str]] = {}
        for cell in evidence.cells:
            mine = counts.setdefault(cell.label, Counter())
            for texts in answers(evidence, cell, request).values():
                mine.update(word for text in texts for word in words(text, self.config.language))
        data = {
            label: {word: round(n / mine.total(), 4) for word, n in mine.most_common(SHOWN)}
            for label, mine in counts.items()
            if mine
        }
        description = f"The most frequent words of {request.samples} answers to each open question."
        return (
            (Figure(kind="words", title="share of all words", description=description, data=data),)
            if data
            else ()
        )
