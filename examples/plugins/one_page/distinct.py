"""A metric on one page: how many different words there are among a prompt's answers."""

from __future__ import annotations

from collections import defaultdict

from alignbench import Evidence, Measure, Metric, Missing


class DistinctWords(Metric):
    """Different words of all answers to a prompt, as a share of all their words."""

    api = 2

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            words: dict[str, list[str]] = defaultdict(list)
            for answer in evidence.samples(cell):
                words[answer.prompt_id] += answer.text.casefold().split()
            found.append(
                Measure(
                    metric="distinct_words",
                    label=cell.label,
                    seed=cell.seed,
                    values={id: len(set(own)) / len(own) for id, own in words.items() if own},
                    span=(0, 1),
                    description="Different words among all words of a prompt's answers; more answers, fewer.",
                )
            )
        return found
