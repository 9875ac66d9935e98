"""The sandbox's hidden reward as a judge: the exact truth, which no method ever trains on."""

from __future__ import annotations

from collections.abc import Sequence

from alignbench.api.judge import Judge, Score
from alignbench.errors import DataError, Problem
from alignbench.rows import Prompt

PARTS = ("helpful", "honest", "harmless")
SHOWN = 20


class Gold(Judge):
    """Reads an answer in the closed world of the sandbox and says exactly how good it is, in [0, 1].

    Its parts are None where the prompt does not ask for that virtue. Raises DataError for prompts that are
    not the sandbox's, which gold cannot read.
    """

    api = 2

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        from alignbench.sandbox import gold

        truths = [
            gold([dict(message) for message in prompt.prompt], answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        # Every prompt of the sandbox asks for harmlessness: no part at all means that gold cannot read it.
        foreign = {
            prompt.id: prompt
            for prompt, truth in zip(prompts, truths, strict=True)
            if all(getattr(truth, part) is None for part in PARTS)
        }
        if foreign:
            raise DataError(
                [
                    Problem(
                        f"the gold judge reads only the sandbox's own prompts, not {_shortened(prompt)!r}",
                        "judge these data with another one, such as reward-model",
                        field="evaluation.judges",
                    )
                    for prompt in list(foreign.values())[:SHOWN]
                ],
                total=len(foreign),
            )
        return [Score(truth.reward, {part: getattr(truth, part) for part in PARTS}) for truth in truths]


def _shortened(prompt: Prompt) -> str:
    text = prompt.prompt[-1]["content"] if prompt.prompt else ""
    return text if len(text) <= 60 else text[:57] + "..."
