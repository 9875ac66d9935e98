"""The prompts at which the policies differ most: every label's answer, and each judge's judgment of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from alignbench.report import artefacts
from alignbench.report.artefacts import Sample
from alignbench.results import CellResult, Results
from alignbench.rows import Messages


@dataclass(frozen=True)
class Judgment:
    """One judge's judgment of one answer."""

    judge: str
    score: float | None = None
    better: tuple[str, ...] = ()
    """Labels whose answers it judged worse in a comparison of two."""
    tied: tuple[str, ...] = ()
    compared: int = 0
    """Number of labels whose answers it compared with this one, without abstentions."""

    @property
    def won(self) -> float:
        """The share of comparisons won; a tie counts half."""
        return (len(self.better) + len(self.tied) / 2) / self.compared if self.compared else 0.0


@dataclass(frozen=True)
class Answer:
    """One label's answer, and each judge's judgment of it."""

    label: str
    seed: int
    sample: Sample
    judgments: tuple[Judgment, ...] = ()


@dataclass(frozen=True)
class Question:
    """One prompt with each label's answer."""

    prompt_id: str
    prompt: Messages
    answers: tuple[Answer, ...]

    @property
    def gap(self) -> float | None:
        """Best minus worst score by the first judge, where it scored all answers."""
        return _spread([first.score if (first := _first(one)) else None for one in self.answers])

    @property
    def split(self) -> float | None:
        """Largest minus smallest share of comparisons won by the first judge, where it compared all answers."""
        firsts = [_first(one) for one in self.answers]
        return _spread([first.won if first and first.compared else None for first in firsts])

    @property
    def difference(self) -> float:
        """One minus the mean share of words that two answers have in common (Jaccard)."""
        words = [set(answer.sample.text.lower().split()) for answer in self.answers]
        common = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(words, 2)]
        return 1 - sum(common) / len(common) if common else 0.0


def most_disputed(run: Path, results: Results, count: int) -> tuple[Question, ...]:
    """Return the `count` prompts at which the labels' answers differ most, all at one seed where possible.

    Ordered by score, then by comparisons won, then by words.
    """
    cells = _one_cell_each(results)
    read = {
        label: found
        for label, cell in cells.items()
        if (found := artefacts.samples(run, cell, results.temperature(label)))
    }
    judges = list(dict.fromkeys(str(judge.get("name", "")) for judge in results.judges))
    judged = {judge: _judged(run, judge, {label: cells[label].seed for label in read}) for judge in judges}
    asked = artefacts.prompts(run)
    ids = dict.fromkeys([*asked, *(key for answers in read.values() for key in answers)])
    questions = []
    for key in ids:
        answers = tuple(
            Answer(
                label,
                cells[label].seed,
                given[key],
                tuple(one for judge in judges if (one := judged[judge].get((label, key)))),
            )
            for label, given in read.items()
            if key in given
        )
        if len(answers) == len(read) > 0:
            questions.append(Question(key, asked.get(key, ()), answers))
    return tuple(sorted(questions, key=_order)[:count])


def _order(question: Question) -> tuple[float, float, float]:
    return -(question.gap or 0.0), -(question.split or 0.0), -question.difference


def _judged(run: Path, judge: str, seeds: Mapping[str, int]) -> dict[tuple[str, str], Judgment]:
    """Return a judge's judgment of each label's answer to each prompt: (label, prompt id) -> judgment."""
    wanted = set(seeds.values())
    scores = artefacts.scores(run, judge, wanted)
    found: dict[tuple[str, str], Judgment] = {}
    better: dict[tuple[str, str], list[str]] = {}
    tied: dict[tuple[str, str], list[str]] = {}
    compared: dict[tuple[str, str], int] = {}
    for (a, b, seed), given in artefacts.preferences(run, judge, wanted).items():
        if seeds.get(a) != seed or seeds.get(b) != seed:
            continue
        for key, preference in given.items():
            for one, other, wins in ((a, b, preference > 0.5), (b, a, preference < 0.5)):
                compared[one, key] = compared.get((one, key), 0) + 1
                if wins:
                    better.setdefault((one, key), []).append(other)
                elif preference == 0.5:
                    tied.setdefault((one, key), []).append(other)
    order = list(seeds)
    keys: dict[str, list[str]] = {}
    for label, key in compared:
        keys.setdefault(label, []).append(key)
    for label, seed in seeds.items():
        own = scores.get((label, seed), {})
        for key in dict.fromkeys([*own, *keys.get(label, ())]):
            at = (label, key)
            found[at] = Judgment(
                judge,
                own.get(key),
                tuple(sorted(better.get(at, ()), key=order.index)),
                tuple(sorted(tied.get(at, ()), key=order.index)),
                compared.get(at, 0),
            )
    return found


def _one_cell_each(results: Results) -> dict[str, CellResult]:
    done = [cell for cell in results.cells if cell.status == "done" and cell.samples]
    seeds = [cell.seed for cell in done]
    common = max(dict.fromkeys(seeds), key=seeds.count, default=None)
    chosen: dict[str, CellResult] = {}
    for label in results.labels:
        mine = [cell for cell in done if cell.label == label.label]
        if mine:
            chosen[label.label] = next((cell for cell in mine if cell.seed == common), mine[0])
    return chosen


def _first(answer: Answer) -> Judgment | None:
    return answer.judgments[0] if answer.judgments else None


def _spread(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known and len(known) == len(values) else None
