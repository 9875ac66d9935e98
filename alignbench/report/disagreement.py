"""The prompts at which the policies differ most, with every label's answer beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from alignbench.report import artefacts
from alignbench.report.artefacts import Sample
from alignbench.results import Cell, Results
from alignbench.rows import Messages


@dataclass(frozen=True)
class Answer:
    """One label's answer."""

    label: str
    seed: int
    sample: Sample


@dataclass(frozen=True)
class Question:
    """One prompt and what each label made of it."""

    prompt_id: str
    prompt: Messages
    answers: tuple[Answer, ...]
    disagreement: float
    """Best minus worst score; without scores, one minus the mean share of common words."""


def most_disputed(run: Path, results: Results, count: int) -> tuple[Question, ...]:
    """Return the `count` prompts at which the labels' answers differ most, all at one seed where possible."""
    cells = _one_cell_each(results)
    judge = str(results.judges[0].get("name", "")) if results.judges else ""
    scores = artefacts.scores(run, judge)
    read = {}
    for label, cell in cells.items():
        own = scores.get((label, cell.seed), {})
        given = artefacts.samples(run, cell).items()
        read[label] = {key: replace(sample, score=own.get(key)) for key, sample in given}
    read = {label: answers for label, answers in read.items() if answers}
    asked = artefacts.prompts(run)
    ids = dict.fromkeys([*asked, *(key for answers in read.values() for key in answers)])
    questions = []
    for key in ids:
        answers = tuple(
            Answer(label, cells[label].seed, given[key]) for label, given in read.items() if key in given
        )
        if len(answers) == len(read) > 0:
            said = {answer.label: answer.sample for answer in answers}
            questions.append(Question(key, asked.get(key, ()), answers, _disagreement(said)))
    return tuple(sorted(questions, key=lambda question: -question.disagreement)[:count])


def _one_cell_each(results: Results) -> dict[str, Cell]:
    done = [cell for cell in results.cells if cell.status == "done" and cell.samples]
    seeds = [cell.seed for cell in done]
    common = max(dict.fromkeys(seeds), key=seeds.count, default=None)
    chosen: dict[str, Cell] = {}
    for label in results.labels:
        mine = [cell for cell in done if cell.label == label.label]
        if mine:
            chosen[label.label] = next((cell for cell in mine if cell.seed == common), mine[0])
    return chosen


def _disagreement(said: Mapping[str, Sample]) -> float:
    scores = [sample.score for sample in said.values() if sample.score is not None]
    if len(scores) == len(said):
        return max(scores) - min(scores)
    words = [set(sample.text.lower().split()) for sample in said.values()]
    common = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(words, 2)]
    return 1 - sum(common) / len(common) if common else 0.0
