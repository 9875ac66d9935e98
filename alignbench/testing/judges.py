"""The laws every judge keeps, on answers of the sandbox."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from alignbench.api.judge import Judge
from alignbench.rows import Pair, Prompt
from alignbench.testing.plugin import PluginSuite
from alignbench.testing.sessions import open_session
from alignbench.worker.run.context import judge_reward_model
from alignbench.worker.run.model_access import ModelAccess
from alignbench.worker.run.session import Session

ASKED = 6


class JudgeSuite(PluginSuite):
    """Subclass it, name the judge, and pytest does the rest. The judge must be installed."""

    group = "judges"
    judge: ClassVar[str]

    @classmethod
    def name(cls) -> str:
        return cls.judge

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, tmp_path_factory: pytest.TempPathFactory) -> Session:
        """A real session: the sandbox in NF4, and its rows."""
        folder = tmp_path_factory.mktemp("judge")
        recipe = {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": 32, "max_length": 128},
            "training": {"threads": 1},
            "budget": {"steps": 1},
            "evaluation": {"prompts": ASKED},
        }
        return open_session(folder, recipe, root=Path.cwd())

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, session: Session) -> Judge:
        """The judge, ready."""
        return cls._open(session)

    @pytest.fixture(scope="class")
    @classmethod
    def asked(cls, session: Session) -> tuple[list[Prompt], list[str], list[str]]:
        """Prompts, and two answers to each."""
        return cls.questions(session)

    @staticmethod
    def questions(session: Session) -> tuple[list[Prompt], list[str], list[str]]:
        """Prompts of a session, and two answers to each."""
        rows = list(session.table.rows(Pair, "train", seed=0))[:ASKED]
        prompts = [Prompt(id=row.id, prompt=row.prompt, extra=row.extra) for row in rows]
        return prompts, [row.chosen for row in rows], [row.rejected for row in rows]

    def test_a_score_is_a_finite_number_or_an_abstention(self, opened: Judge, asked):
        prompts, answers, _ = asked
        scores = opened.score(prompts, answers)
        assert len(scores) == len(answers), "one score for each answer"
        values = [one.value for one in scores]
        assert all(value is None or math.isfinite(value) for value in values), (
            f"a score is not finite: {values}"
        )
        said = any(value is not None for value in values)
        assert said == opened.scores, (
            "it abstains on everything" if opened.scores else "scores is False, and it gives a score"
        )

    def test_what_it_scores_it_does_not_refuse_beforehand(self, asked):
        """`alignbench check` would refuse a recipe that runs."""
        kind = self.kind()
        try:
            away = kind.check_files(self.fields(), Path.cwd())
            kind.check_prompts(self.fields(), asked[0])
        except Exception as error:
            raise AssertionError(f"it refuses beforehand what it scores: {error}") from error
        assert all(isinstance(id, str) for id in away), "check_files returns the ids of what is not here"

    def test_no_question_gives_no_answer(self, opened: Judge):
        assert list(opened.score([], [])) == []

    def test_a_score_does_not_depend_on_the_rest_of_the_batch(self, opened: Judge, asked):
        whole = _values(opened, *asked)
        opened.forget()
        back = _values(opened, *(one[::-1] for one in asked))[::-1]
        opened.forget()
        alone = [_values(opened, [prompt], [a], [b])[0] for prompt, a, b in zip(*asked, strict=True)]
        assert back == pytest.approx(whole, rel=1e-3, abs=1e-4), "it depends on the order"
        assert alone == pytest.approx(whole, rel=1e-3, abs=1e-4), "it depends on what else is asked"

    def test_exchanged_answers_exchange_the_preference(self, opened: Judge, asked):
        prompts, a, b = asked
        ahead, back = opened.compare(prompts, a, b), opened.compare(prompts, b, a)
        assert opened.scores or any(one is not None for one in ahead), "it neither scores nor compares"
        for one, other in zip(ahead, back, strict=True):
            assert (one is None) == (other is None), "an abstention depends on the order of the answers"
            if one is not None and other is not None:
                assert 0 <= one <= 1, f"a preference is a probability, and {one} is none"
                assert one == pytest.approx(1 - other, abs=1e-3), (
                    "its preference does not follow the answers when they are exchanged"
                )

    def test_opened_again_it_says_the_same(self, session: Session, opened: Judge, asked):
        again = self._open(session)
        assert again.fingerprint() == opened.fingerprint(), "opened again, it has another fingerprint"
        assert _values(again, *asked) == pytest.approx(_values(opened, *asked), rel=1e-5), (
            "opened again, it scores otherwise"
        )

    @classmethod
    def _open(cls, session: Session) -> Judge:
        judge: Judge = cls.kind()(cls.fields())
        judge.name = cls.judge
        judge.open(ModelAccess(session, None, partial(judge_reward_model(session))))
        return judge


def _values(judge: Judge, prompts: list[Prompt], answers: list[str], others: list[str]) -> list[float | None]:
    """What a judge says: its scores, or its preferences where it only compares."""
    if judge.scores:
        return [one.value for one in judge.score(prompts, answers)]
    return list(judge.compare(prompts, answers, others))
