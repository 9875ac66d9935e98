"""Fixtures of the tests of metrics: policies, answers and judges as small as they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from alignbench.api.config import Sampling
from alignbench.api.judge import Judge, Score
from alignbench.api.metric import Cell, PairLogprobs
from alignbench.api.policy import Answer, TokenScores
from alignbench.rows import Prompt, Text


@dataclass
class Marks(Judge):
    """Reads its score off the answer: the number after the colon; `?` is an abstention."""

    parts: tuple[str, ...] = ()

    def __post_init__(self):
        super().__init__()

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        found = []
        for answer in answers:
            value, *parts = (None if word == "?" else float(word) for word in answer.split())
            found.append(Score(value, dict(zip(self.parts, parts, strict=True))))
        return found


@dataclass
class Given:
    """Evidence from what a test writes down: texts of each cell, prompt by prompt, sample by sample."""

    texts_of: Mapping[Cell, Sequence[Sequence[str]]]
    judges: Mapping[str, Judge] = field(default_factory=dict)
    drawn: Sampling = field(default_factory=Sampling)
    """How all samples were drawn."""
    scored: Mapping[tuple[Cell, str], Sequence[Sequence[float]]] = field(default_factory=dict)
    """(cell, under) -> log-probabilities of each sample's tokens, in float64 as a test writes them down."""
    pairs: Mapping[Cell, Sequence[PairLogprobs]] = field(default_factory=dict)
    cut: frozenset[str] = frozenset()
    """Answers that were cut."""
    entropies: Mapping[Cell, Sequence[Sequence[float]]] = field(default_factory=dict)
    """In nats, token by token, of each sample."""
    asked: Sequence[Prompt] = ()
    """The evaluation prompts, where what they ask matters."""
    answered: Mapping[Cell, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Prompt id -> answers to what metrics request."""
    texts: Sequence[Text] = ()
    held_out: Mapping[Cell, Sequence[Sequence[float]]] = field(default_factory=dict)
    """Log-probabilities of each text's tokens."""
    starts: Mapping[str, str] = field(default_factory=dict)
    """Label -> the label it starts from; base where it is not named."""
    points: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Text -> its embedding."""
    root: Path = Path()

    @property
    def cells(self) -> list[Cell]:
        return list(self.texts_of)

    @property
    def prompts(self) -> list[Prompt]:
        if self.asked:
            return list(self.asked)
        count = max(len(texts) for texts in self.texts_of.values())
        return [Prompt(id=f"p{i}", prompt=({"role": "user", "content": f"{i}?"},)) for i in range(count)]

    def sampling(self, cell):
        return self.drawn

    def start(self, cell):
        return Cell(self.starts.get(cell.label, "base"), cell.seed)

    def generations(self, cell, request):
        return [
            Answer(prompt.id, self.answered[cell][prompt.id][k], (1,), finished=True, sample=k)
            for prompt in request.prompts
            for k in range(request.samples)
        ]

    def score(self, cell, sequences):
        if cell not in self.held_out:
            return None
        assert [len(one.response) for one in sequences] == [len(logps) for logps in self.held_out[cell]]
        return [TokenScores(np.array(logps, np.float64)) for logps in self.held_out[cell]]

    def embed(self, texts):
        return np.array([self.points[text] for text in texts], np.float32)

    def samples(self, cell):
        ids = [prompt.id for prompt in self.prompts]
        return [
            Answer(ids[i], text, tuple(range(len(text))), finished=text not in self.cut, sample=k)
            for i, samples in enumerate(self.texts_of[cell])
            for k, text in enumerate(samples)
        ]

    def logprobs(self, cell, *, under):
        if (cell, under) not in self.scored:
            return None
        entropies = self.entropies.get(cell, [None] * len(self.scored[cell, under]))
        return [
            TokenScores(np.array(logps, np.float64), None if h is None else np.array(h, np.float64))
            for logps, h in zip(self.scored[cell, under], entropies, strict=True)
        ]

    def preference_logprobs(self, cell):
        return self.pairs.get(cell)

    def scores(self, judge, cell):
        answers = self.samples(cell)
        return self.judges[judge].score(self._asked(answers), [answer.text for answer in answers])

    def compare(self, judge, a, b):
        ours, theirs = self.samples(a), self.samples(b)
        return self.judges[judge].compare(self._asked(ours), [x.text for x in ours], [x.text for x in theirs])

    def by_rater(self, judge, a, b):
        ours, theirs = self.samples(a), self.samples(b)
        return self.judges[judge].by_rater(
            self._asked(ours), [x.text for x in ours], [x.text for x in theirs]
        )

    def _asked(self, answers):
        by_id = {prompt.id: prompt for prompt in self.prompts}
        return [by_id[answer.prompt_id] for answer in answers]


@pytest.fixture(scope="session")
def given():
    return Given


@pytest.fixture(scope="session")
def marks():
    return Marks
