"""Plugins of six kinds that raise where the last digit of a row's id is odd, or of a number that stands for it."""

from types import SimpleNamespace
from typing import Literal

from alignbench import (
    Answer,
    Decoder,
    Demonstration,
    Judge,
    Measure,
    Method,
    Metric,
    Prompt,
    Request,
    Reward,
    RowFilter,
    Score,
    Settings,
    Source,
)


def divide(row):
    """Return 1, or raise."""
    return 1 / (1 - int(row.id[-1]) % 2)


class Filter(RowFilter):
    """Keeps what it can divide."""

    api = 2

    def keep(self, row):
        return row if divide(row) else None


class Judging(Judge):
    """Scores what it can divide."""

    api = 2
    trains = True

    def score(self, prompts, answers):
        return [Score(divide(prompt)) for prompt in prompts]


class Rewarding(Reward):
    """Rewards what it can divide."""

    api = 2

    def score(self, prompts, answers):
        return [divide(prompt) for prompt in prompts]


class Measuring(Metric):
    """Measures what it can divide, of any kind of row."""

    api = 2
    needs = frozenset({"samples", "generations", "pairs", "texts"})

    class Config(Settings):
        """What is divided."""

        of: Literal["samples", "generations", "pairs", "texts", "cells"] = "samples"
        """Rows of this kind; `cells`: the number of cells."""

    def requests(self, root):
        return [Request(tuple(Prompt(id=f"own-{n}", prompt=()) for n in (2, 4, 5)))]

    def measure(self, evidence):
        if self.config.of == "cells":
            return 1 / (1 - len(evidence.cells) // 4)
        return [
            Measure(metric="odd", label=cell.label, seed=cell.seed, values=self.values(evidence, cell))
            for cell in evidence.cells
        ]

    def values(self, evidence, cell):
        """Return a value for each row."""
        rows = {
            "samples": [one.prompt_id for one in evidence.samples(cell)],
            "generations": [one.prompt_id for one in evidence.generations(cell, self.requests(None)[0])],
            "pairs": [one.row_id for one in evidence.preference_logprobs(cell)],
            "texts": [one.id for one in evidence.texts],
        }[self.config.of]
        return {row: divide(SimpleNamespace(id=row)) for row in rows}


class Reading(Source):
    """Reads numbered rows, of which it cannot divide the fourth."""

    api = 2

    def view(self):
        return Demonstration

    def rows(self, split, limit, seed):
        for number in (2, 4, 6, 7, 8):
            prompt = ({"role": "user", "content": f"question {number}"},)
            row = Demonstration(id=f"row-{number}", prompt=prompt, response="yes")
            divide(row)
            yield row


class Answering(Method):
    """Answers what it can divide. Source: none."""

    api = 2
    consumes = ()

    def align(self, run):
        return Dividing()

    def restore(self, folder, run):
        return Dividing()


class Dividing(Decoder):
    """Says yes."""

    def answer(self, prompts, sampling, key, *, samples=1):
        for one in prompts:
            divide(one)
        return [Answer(one.id, "yes", (1,), True, sample) for one in prompts for sample in range(samples)]
