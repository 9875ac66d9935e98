"""What a search asks for, counted on a scripted model: model calls in a row, and positions."""

from __future__ import annotations

import numpy as np
import pytest
from alignbench_rain import RAIN
from typer.testing import CliRunner

from alignbench import results
from alignbench.cli import app

from .reference import Reference
from .scripted import COMMA, END, KEY, PROMPT, ForReference, Script, dice

CONVERSATION, QUESTION, OPTIONS = 395, 1257, 30
"""Tokens before an answer, before the text that is judged, and after it, as in the authors' HH runs."""
LIMIT, VOCABULARY = 40, 40


def logits(path):
    """Different candidates, and a clause of about ten tokens."""
    drawn = 2.0 * dice("cost", path, size=VOCABULARY)
    drawn[COMMA] = np.log(np.exp(drawn).sum() / 9)
    drawn[END] = -30.0
    return drawn


class Counted(Script):
    """Counts rounds, each one call of the model, and the positions of trees that keep what they know."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls = self.options = 0
        self.answered, self.judged = set(), set()

    def answer(self, wants):
        self.calls += 1
        self.answered |= {
            query.path[:end] for query in wants.queries for end in range(2, len(query.path) + 1)
        }
        if wants.rate is not None and wants.rate.text is not None:
            words = wants.rate.text.split()
            self.judged |= {tuple(words[:end]) for end in range(1, len(words) + 1)}
            self.options += 2 * OPTIONS
        return super().answer(wants)

    @property
    def positions(self):
        return CONVERSATION + len(self.answered) + len(self.judged) + self.options


class Long(ForReference):
    def questions(self, text):
        return [QUESTION + len(text.split()) + OPTIONS] * 2


@pytest.mark.parametrize("bad", [0.0, 0.25], ids=["all good", "one text in four bad"])
def test_at_least_five_times_fewer_calls_and_twenty_times_fewer_positions(bad):
    def value(text):
        return -1.0 if abs(dice("value", text)[0]) < 1.26 * bad else 1.0

    rules = RAIN.Config(similarity=0.0, spread=0.0)
    script = Counted(logits, value, lambda part: np.zeros(1, np.float32))
    _, found, _ = script.search(rules, limit=LIMIT)
    reference = Reference(Long(Script(logits, value, script.embedding)), rules, PROMPT, KEY, LIMIT, 0.95)
    assert reference.answer() == found.ids
    counts = reference.counts
    # The reference's prompt is one token here; every call without a cache would have read the conversation.
    tokens = counts.tokens + counts.fresh * (CONVERSATION - 1)
    assert 20 < counts.calls / len(found.ids) < 90, "what others have counted for the authors' program"
    assert counts.calls >= 5 * script.calls
    assert tokens >= 20 * script.positions


RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 32, max_length: 128}
training: {threads: 1, batch: 8}
budget: {steps: 2}
methods:
  sft: {}
  rain: {start: sft}
evaluation: {prompts: 6, sampling: {max_new_tokens: 8}, judges: [gold], metrics: [reward, length]}
"""


def test_a_run_holds_the_search_against_its_start_with_a_cache_and_without(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(out)])
    assert done.exit_code == 0, done.output
    run = results.read(out)
    plain, searched = (run.label(name).cost.own for name in ("sft", "rain"))
    found = run.label("rain").decoding
    assert found.cached_tokens == pytest.approx(found.tokens * plain.answer_length / plain.answer_tokens)
    assert found.uncached_tokens == pytest.approx(searched.answer_tokens / searched.answer_uncached_tokens)
    assert found.uncached_tokens < found.cached_tokens, "without a cache plain decoding reads more"
    assert found.uncached_seconds == pytest.approx(searched.answer_seconds / searched.answer_uncached_seconds)
    assert run.label("sft").decoding is None
