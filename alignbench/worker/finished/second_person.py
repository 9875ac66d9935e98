"""Whether a judge is as good as a second person: how often it orders two answers as one rater does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from alignbench.api.metric import Cell, Evidence, matches
from alignbench.judges.people import People
from alignbench.label.quality import share
from alignbench.metrics.agreement import alike

Compared = Mapping[tuple[str, Cell, Cell], Sequence[float | None]]
"""(judge, a, b) -> how probably a's answers are better, aligned with the samples of both."""


def as_a_rater(evidence: Evidence, people: People, compared: Compared) -> dict[str, Any]:
    """Return how often each other judge orders two answers as one rater does, a tie of one side alone a half,
    and, as `another rater`, how often a second rater does on the same answers.

    Only what the metrics `compared` is counted, so that no judge is asked for this alone.
    """
    counts: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)

    def count(who: str, prompt: str, hits: list[float]) -> None:
        old = counts[who].get(prompt, (0.0, 0.0))
        counts[who][prompt] = (old[0] + sum(hits), old[1] + len(hits))

    others = [name for name, judge in evidence.judges.items() if not judge.recorded]
    labels = dict.fromkeys(cell.label for cell in evidence.cells)
    for a, b in combinations(labels, 2):
        for cells, place, prompt, by_rater in _preferences(evidence, people, a, b):
            if evidence.samples(cells[0])[place].text == evidence.samples(cells[1])[place].text:
                continue  # a tie of everybody
            ones = list(by_rater.values())
            count("another rater", prompt, [alike(x, y) for x, y in combinations(ones, 2)])
            for name in others:
                one_cell, other_cell = cells
                a_first = compared.get((name, one_cell, other_cell))
                b_first = compared.get((name, other_cell, one_cell))
                judgment = a_first[place] if a_first else b_first[place] if b_first else None
                if judgment is not None:
                    count(name, prompt, [alike(judgment if a_first else 1 - judgment, one) for one in ones])
    return {who: found for who, of in counts.items() if (found := share(of.values()))}


def _preferences(
    evidence: Evidence, people: People, a: str, b: str
) -> Iterator[tuple[tuple[Cell, Cell], int, str, dict[str, float]]]:
    """Each rater's preferences between the answers of two labels, where anybody ranked them."""
    asked = {prompt.id: prompt for prompt in evidence.prompts}
    for seed, against in matches(evidence.cells, a, b):
        cells = Cell(a, seed), Cell(b, seed if against is None else against)
        first, second = (evidence.samples(cell) for cell in cells)
        prompts = [asked[one.prompt_id] for one in first]
        ratings = people.by_rater(prompts, [one.text for one in first], [one.text for one in second])
        for place, by_rater in enumerate(ratings):
            if by_rater:
                yield cells, place, prompts[place].id, by_rater
