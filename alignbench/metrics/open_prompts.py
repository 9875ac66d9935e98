"""Open questions for the diversity metrics, and splitting of answers into words."""

from __future__ import annotations

import re

from pydantic import Field

from alignbench.api.config import Sampling, Settings
from alignbench.api.metric import Cell, Evidence, Request
from alignbench.rows import Prompt

FAMILIES = ("name", "country", "review")
"""Open-ended families of the sandbox: several answers are equally good."""
BY_CHARACTER = ("zh", "ja", "th")
"""Languages without spaces between words."""
WORDS = re.compile(r"\w+(?:['\u2019-]\w+)*")
"""Words of languages with spaces between words."""


class OpenPrompts(Settings):
    """The questions, and how often they are asked."""

    prompts: list[str] = []
    """Your own open questions; default: those of the sandbox."""
    families: list[str] = list(FAMILIES)
    """Families of sandbox test prompts."""
    questions: int = Field(default=2, ge=1)
    """Distinct questions of each family."""
    samples: int = Field(default=100, ge=2)
    """Answers to each question."""
    max_new_tokens: int = Field(default=40, ge=1)
    """Longest answer in tokens."""

    def request(self) -> Request:
        """Return the one request that all metrics with these fields share."""
        return Request(
            tuple(self._asked()), self.samples, Sampling(temperature=1.0, max_new_tokens=self.max_new_tokens)
        )

    def _asked(self) -> list[Prompt]:
        from alignbench import sandbox

        if self.prompts:
            return [
                Prompt(id=f"open-{i}", prompt=({"role": "user", "content": text},))
                for i, text in enumerate(self.prompts)
            ]
        return [
            Prompt(
                id=f"open-{family}-{i}",
                prompt=tuple(dict(turn) for turn in row["prompt"]),
                extra={"family": family},
            )
            for family in self.families
            for i, row in enumerate(sandbox.rows("test", self.questions, 0, families=(family,)))
        ]


def answers(evidence: Evidence, cell: Cell, request: Request) -> dict[str, list[str]]:
    """Return a cell's answers by prompt id."""
    found: dict[str, list[str]] = {prompt.id: [] for prompt in request.prompts}
    for answer in evidence.generations(cell, request):
        found[answer.prompt_id].append(answer.text.strip())
    return found


def words(text: str, language: str) -> list[str]:
    """Return the words of a text, lower-cased.

    `zh`, `ja` and `th` are split into characters, which needs no dictionary; the description says so.
    """
    text = text.lower()
    if language in BY_CHARACTER:
        return [letter for letter in text if letter.isalnum()]
    return WORDS.findall(text)


def segmenter(language: str) -> str:
    """Return how `words` splits a language, for a description."""
    return "by character" if language in BY_CHARACTER else "at non-word characters"


def needs_package(package: str) -> str:
    """Return the reason for a metric that lacks a package of the extra `metrics`."""
    return f"{package} is not installed: pip install 'alignbench[metrics]'"
