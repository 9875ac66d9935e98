"""The template of an alignbench plugin: two methods that train nothing.

Copy this folder, rename it, and replace `align`. Everything a method needs comes from `alignbench`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from alignbench import (
    Answer,
    Decoder,
    Method,
    MethodConfig,
    Pair,
    Policy,
    Prompt,
    Run,
    Sampling,
    Setting,
)


class Frozen(Method):
    """The start as it is: puts an already tuned adapter or model into the table.

    Source: none; this is the control that every comparison needs.
    """

    api = 2
    consumes = ()

    def align(self, run: Run) -> Policy:
        return run.start


class FewShot(Method):
    """Prompting instead of training: chosen answers of the training rows stand before the question.

    Source: Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv:2005.14165); InstructGPT's
    "GPT-3 (prompted)" baseline (arXiv:2203.02155, section 3.5).
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """How many examples, and of which length."""

        shots: int = Field(3, ge=1)
        """Examples before each question; the shortest of 64 rows drawn, so that they fit the context."""

    def align(self, run: Run) -> Policy:
        rows = list(run.rows(Pair))
        drawn = run.rng("shots").permutation(len(rows))[:64]
        pool = [rows[i] for i in drawn if len(rows[i].prompt) == 1]
        shots = sorted(pool, key=lambda row: row.length)[: self.config.shots]
        turns = [(row.prompt[-1]["content"], row.chosen) for row in shots]
        return Prompted(run.start, turns)

    def restore(self, folder: Path, run: Run) -> Policy:
        return Prompted(run.start, json.loads((folder / "shots.json").read_text(encoding="utf-8")))


class Prompted(Decoder):
    """A decoder: the start policy, asked with examples in front of every conversation."""

    def __init__(self, start: Policy, shots: Sequence[Sequence[str]]):
        self.start = start
        self.follows: frozenset[Setting] = start.follows
        self.shots = [(question, answer) for question, answer in shots]

    def answer(
        self, prompts: Sequence[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        turns = tuple(
            {"role": role, "content": text}
            for shot in self.shots
            for role, text in zip(("user", "assistant"), shot, strict=True)
        )
        # Without token ids the start renders the longer conversation itself.
        longer = [Prompt(id=row.id, prompt=turns + row.prompt, extra=row.extra) for row in prompts]
        return self.start.answer(longer, sampling, key, samples=samples)

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "shots.json").write_text(json.dumps(self.shots), encoding="utf-8")
