"""The alignment tax: capabilities of a policy compared with base and with its start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from alignbench.api.config import Sampling, Settings
from alignbench.api.metric import Cell, Evidence, Measure, Metric, Missing, Need, Request, by_prompt
from alignbench.recipe.schema import BASE
from alignbench.rows import Prompt

FOREIGN = "foreign"
"""Everyday requests in the sandbox's toy language, which is not in the alignment rows."""


class Capability(Metric):
    """`capability.sums` and so on: exact match on the sandbox's tasks in chat form. `capability.foreign`: gold
    reward on requests in the toy language, which shows whether alignment transfers. For each, `.tax.base` and
    `.tax.start`: score of base (of the start) minus the label's, by prompt, so that higher is worse."""

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"generations"})

    class Config(Settings):
        """The tasks."""

        items: int = Field(default=100, ge=2)
        """Questions of each task."""
        tasks: list[str] = ["sums", "copying", "reading", "language", FOREIGN]
        """Tasks of `alignbench.sandbox.capability`, and `foreign`."""
        seed: int = Field(default=0, ge=0)
        """Seed that selects the questions."""

    def requests(self, root: Path) -> Sequence[Request]:
        return tuple(self._request(task) for task in self.config.tasks)

    def _request(self, task: str) -> Request:
        from alignbench import sandbox

        if task == FOREIGN:
            rows = sandbox.rows("test", self.config.items, self.config.seed, families=(FOREIGN,))
            asked = [
                Prompt(id=f"capability-{task}-{i}", prompt=tuple(row["prompt"])) for i, row in enumerate(rows)
            ]
            return Request(tuple(asked), sampling=Sampling(temperature=0, max_new_tokens=40))
        items = sandbox.capability(task, self.config.items, self.config.seed)
        asked = [
            Prompt(
                id=f"capability-{task}-{i}",
                prompt=tuple(item["prompt"]),  # pyright: ignore[reportArgumentType]
                extra={"target": item["target"]},
            )
            for i, item in enumerate(items)
        ]
        return Request(tuple(asked), sampling=Sampling(temperature=0, max_new_tokens=16))

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        return [found for task in self.config.tasks for found in _task(evidence, self._request(task), task)]


def _task(evidence: Evidence, request: Request, task: str) -> Iterator[Measure | Missing]:
    scores = {cell: _scores(evidence, request, cell) for cell in evidence.cells}
    how = "gold's reward" if task == FOREIGN else "exact match"
    for cell, values in scores.items():
        yield Measure(
            metric=f"capability.{task}",
            **cell._asdict(),
            unit="score" if task == FOREIGN else "share",
            span=None if task == FOREIGN else (0, 1),
            higher_is_better=True,
            values=values,
            description=f"{how} on {len(request.prompts)} questions of the sandbox, in chat form, greedy",
        )
        others = {"base": Cell(BASE, cell.seed), "start": evidence.start(cell)}
        for whose, other in others.items():
            name = f"capability.{task}.tax.{whose}"
            if cell.label == BASE or other is None or other not in scores:
                reason = "base has no tax" if cell.label == BASE else f"its {whose} was not measured"
                yield Missing(metric=name, **cell._asdict(), reason=reason)
                continue
            yield Measure(
                metric=name,
                **cell._asdict(),
                unit="score" if task == FOREIGN else "share",
                span=None if task == FOREIGN else (-1, 1),
                higher_is_better=False,
                values={id: scores[other][id] - value for id, value in values.items()},
                description=f"{how} of {other.label} minus the label's on the same questions",
            )


def _scores(evidence: Evidence, request: Request, cell: Cell) -> dict[str, float]:
    from alignbench.sandbox import gold

    asked = {prompt.id: prompt for prompt in request.prompts}
    answers = evidence.generations(cell, request)

    def score(prompt: Prompt, text: str) -> float:
        if "target" in prompt.extra:
            return float(text.strip() == prompt.extra["target"])
        return gold([dict(turn) for turn in prompt.prompt], text).reward  # pyright: ignore[reportArgumentType]

    return by_prompt(answers, [score(asked[one.prompt_id], one.text) for one in answers])
