"""Open questions that metrics of diversity ask many times over, and how answers are cut into words."""

from __future__ import annotations

import re

from pydantic import Field

from alignbench.api.config import Sampling, Settings
from alignbench.api.metric import Cell, Evidence, Request
from alignbench.rows import Prompt

FAMILIES = ("name", "country", "review")
"""Open families of the sandbox; several answers are equally good."""
BY_CHARACTER = ("zh", "ja", "th")
"""Languages that write no blanks between words."""
WORDS = re.compile(r"\w+(?:['\u2019-]\w+)*")
"""The segmenter of languages that write blanks between words."""


class OpenPrompts(Settings):
    """What is asked, and how often."""

    prompts: list[str] = []
    """Open questions of your own; without any, those of the sandbox."""
    families: list[str] = list(FAMILIES)
    """Families of the sandbox's test prompts that are asked."""
    questions: int = Field(default=2, ge=1)
    """Different questions of each family."""
    samples: int = Field(default=100, ge=2)
    """Answers to each."""
    max_new_tokens: int = Field(default=40, ge=1)
    """Tokens after which an answer is cut."""

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
    """Return the words of a text, lower-cased; each letter is a word where a language writes no blanks.

    `zh`, `ja` and `th` are cut into characters, which needs no dictionary and is named in the description.
    """
    text = text.lower()
    if language in BY_CHARACTER:
        return [letter for letter in text if letter.isalnum()]
    return WORDS.findall(text)


def segmenter(language: str) -> str:
    """Return what `words` cuts a language by, for a description."""
    return "by character" if language in BY_CHARACTER else "at everything that is no letter or digit"


def needs_package(package: str) -> str:
    """Return the reason of a cell that lacks a package of the extra `metrics`."""
    return f"{package} is not installed: pip install 'alignbench[metrics]'"
