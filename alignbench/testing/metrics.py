"""The laws every metric keeps, on answers that are written down."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest

from alignbench.api.config import Sampling
from alignbench.api.judge import Judge, Score
from alignbench.api.metric import Cell, Evidence, Measure, Metric, Missing, Need, PairLogprobs, Request
from alignbench.api.policy import Answer, TokenScores
from alignbench.rows import Prompt, Text
from alignbench.testing.plugin import PluginSuite

WORDS = ["the", "a", "good", "bad", "answer", "is", "not", "here", "please", "yes", "no", "1", "2", "3", "."]
CELLS = [Cell(label, seed) for label in ("base", "tried") for seed in (0, 1)]
ASKED, SAMPLES = 12, 2


class Words(Judge):
    """Prefers answers with more words."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        return [Score(float(len(answer.split()))) for answer in answers]


class Written:
    """Evidence of two labels at two seeds: everything in it follows from a hash of its place."""

    root = Path()
    cells = CELLS
    first_token = 0
    context_length = 512

    def __init__(self, order: int = 1, *, judged: bool = True):
        asked = [
            Prompt(id=f"p{n}", prompt=({"role": "user", "content": f"question {n} ?"},)) for n in range(ASKED)
        ]
        self.prompts = asked[::order]
        self.judges: dict[str, Judge] = {"words": Words()} if judged else {}
        self.texts = [Text(id=f"t{n}", text=self._text("text", n), ids=tuple(range(9))) for n in range(4)]

    def sampling(self, cell: Cell) -> Sampling | None:
        return Sampling()

    def _draw(self, *place: Any) -> np.random.Generator:
        digest = hashlib.sha256(repr(place).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def _text(self, *place: Any) -> str:
        draw = self._draw(*place)
        return " ".join(draw.choice(WORDS, draw.integers(1, 12)))

    def _answers(self, cell: Cell, prompts: Sequence[Prompt], samples: int) -> list[Answer]:
        made = []
        for prompt in prompts:
            for sample in range(samples):
                text = self._text(cell, prompt.id, sample)
                ids = tuple(range(len(text.split()) + 1))
                made.append(Answer(prompt.id, text, ids, finished=True, sample=sample, tokens=len(ids)))
        return made

    def _scores(self, sequences: Sequence[tuple[Any, int]]) -> list[TokenScores]:
        found = []
        for place, length in sequences:
            draw = self._draw("logps", place)
            logps = -draw.random(length).astype(np.float32)
            found.append(TokenScores(logps, draw.random(length).astype(np.float32)))
        return found

    def start(self, cell: Cell) -> Cell | None:
        return Cell("base", cell.seed)

    def samples(self, cell: Cell) -> list[Answer]:
        return self._answers(cell, self.prompts, SAMPLES)

    def logprobs(self, cell: Cell, *, under: str) -> list[TokenScores]:
        return self._scores([((cell, under, a.prompt_id, a.sample), len(a.ids)) for a in self.samples(cell)])

    def preference_logprobs(self, cell: Cell) -> list[PairLogprobs]:
        pairs = [self._draw("pair", cell, n).random(2) for n in range(8)]
        return [PairLogprobs(f"row{n}", -float(a), -float(b)) for n, (a, b) in enumerate(pairs)]

    def scores(self, judge: str, cell: Cell) -> list[Score]:
        answers = self.samples(cell)
        return self.judges[judge].score(self._asked(answers), [one.text for one in answers])

    def compare(self, judge: str, a: Cell, b: Cell) -> list[float | None]:
        ours, theirs = self.samples(a), self.samples(b)
        texts = [one.text for one in ours], [one.text for one in theirs]
        return self.judges[judge].compare(self._asked(ours), *texts)

    def by_rater(self, judge: str, a: Cell, b: Cell) -> list[dict[str, float]]:
        return [{} for _ in self.samples(a)]

    def generations(self, cell: Cell, request: Request) -> list[Answer]:
        return self._answers(cell, request.prompts, request.samples)

    def score(self, cell: Cell, sequences: Sequence[Any]) -> list[TokenScores]:
        return self._scores([((cell, one.prompt, one.response), len(one.response)) for one in sequences])

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[tuple[int, ...]]:
        return [(0,) * special + tuple(range(1, len(text.split()) + 1)) for text in texts]

    def embed(self, texts: Sequence[str]) -> Any:
        return np.array([self._draw("point", text).normal(size=8) for text in texts], np.float32)

    def _asked(self, answers: Sequence[Answer]) -> list[Prompt]:
        by_id = {prompt.id: prompt for prompt in self.prompts}
        return [by_id[one.prompt_id] for one in answers]


def _none(cell: Cell) -> Any:
    raise AssertionError("it reads samples: name them in `needs`")


class MetricSuite(PluginSuite):
    """Subclass it, name the metric, and pytest does the rest. The metric must be installed."""

    group = "metrics"
    metric: ClassVar[str]

    @classmethod
    def name(cls) -> str:
        return cls.metric

    @staticmethod
    def evidence(order: int = 1, *, judged: bool = True) -> Evidence:
        """Return evidence of two labels at two seeds; the prompts backwards with `order` -1."""
        made: Any = Written(order, judged=judged)
        return made

    def _made(self) -> Metric:
        return self.kind()(self.fields())

    def test_it_needs_parts_of_the_evidence_that_there_are(self):
        unknown = sorted(self.kind().needs - set(get_args(Need)))
        assert not unknown, f"it needs {', '.join(unknown)}, and there are {', '.join(get_args(Need))}"

    def test_what_it_measures_it_does_not_refuse_beforehand(self):
        """`alignbench check` would refuse a recipe that runs."""
        away = self.kind().check_files(self.fields(), Path.cwd())
        assert all(isinstance(id, str) for id in away), "check_files returns the ids of what is not here"

    def test_every_cell_has_one_entry_for_each_part(self):
        found = self._made().measure(self.evidence())
        parts = {(one.metric, one.judge) for one in found}
        assert parts, "it measured nothing: return Missing with the reason"
        places = [(one.metric, one.judge, one.label, one.seed) for one in found]
        assert len(set(places)) == len(places), "a part of a cell is there twice"
        for metric, judge in parts:
            have = {(label, seed) for part, by, label, seed in places if (part, by) == (metric, judge)}
            assert have == {tuple(cell) for cell in CELLS}, f"{metric} is missing for some cells"

    def test_its_values_are_finite_and_lie_in_its_span(self):
        for one in self._made().measure(self.evidence()):
            if isinstance(one, Missing):
                assert one.reason, f"{one.metric} is missing without a reason"
                continue
            assert all(isinstance(id, str) for id in one.values)
            assert all(math.isfinite(value) for value in one.values.values()), (
                f"a value of {one.metric} is not finite"
            )
            if one.span is not None:
                low, high = one.span
                assert all(low <= value <= high for value in one.values.values()), (
                    f"a value of {one.metric} lies outside of its span"
                )

    def test_something_is_measured(self):
        found = self._made().measure(self.evidence())
        assert any(isinstance(one, Measure) and one.values for one in found), [
            one.reason for one in found if isinstance(one, Missing)
        ]

    def test_its_values_do_not_depend_on_the_order_of_the_prompts(self):
        ahead, back = (self._values(self.evidence(order)) for order in (1, -1))
        assert ahead.keys() == back.keys()
        for place, values in ahead.items():
            assert back[place] == pytest.approx(values, rel=1e-5, abs=1e-7), (
                f"its values of {place} depend on the order of the prompts"
            )

    def test_without_a_judge_it_measures_or_says_why_not(self):
        for one in self._made().measure(self.evidence(judged=False)):
            assert isinstance(one, Measure) or one.reason

    def test_exchanged_labels_change_the_sign_of_a_difference(self):
        metric, evidence = self._made(), self.evidence()
        measures = metric.measure(evidence)
        ahead = metric.differences(evidence, measures, "tried", "base")
        back = metric.differences(evidence, measures, "base", "tried")
        wanted = {(one.metric, one.judge, one.seed): one.values for one in ahead}
        for one in back:
            turned = {id: -value for id, value in one.values.items()}
            assert wanted[one.metric, one.judge, one.seed] == pytest.approx(turned, abs=1e-9), (
                "a difference does not change its sign with the labels"
            )

    def test_measured_alone_a_cell_has_the_numbers_that_it_has_together_with_others(self):
        """What `by_cell` promises; and where `needs` has no samples, none are read: they are of one temperature."""
        if not self.kind().by_cell:
            pytest.skip("it reads more than one cell")
        together = self._values(self.evidence())
        for cell in CELLS:
            alone: Any = self.evidence()
            alone.cells = [cell]
            if not self.kind().needs & {"samples", "logprobs", "entropy"}:
                alone.samples = _none
            found = self._values(alone)
            own = {place: values for place, values in together.items() if place[2:] == tuple(cell)}
            assert found == own, "measured alone, a cell has other numbers, so that `by_cell` does not hold"

    def test_it_asks_for_the_same_answers_each_time(self):
        made = self._made()
        keys = [[one.key for one in made.requests(Path())] for _ in range(2)]
        assert keys[0] == keys[1]

    def _values(self, evidence: Evidence) -> dict[tuple[Any, ...], dict[str, float]]:
        found = self._made().measure(evidence)
        return {
            (one.metric, one.judge, one.label, one.seed): dict(one.values)
            for one in found
            if isinstance(one, Measure)
        }
