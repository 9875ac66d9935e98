"""The sandbox's hidden reward as a judge: exact, and never available to training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from alignbench.api.judge import Judge, Score
from alignbench.errors import DataError, Problem
from alignbench.rows import Prompt

if TYPE_CHECKING:
    from alignbench.sandbox.scoring import Gold as Truth

PARTS = ("helpful", "honest", "harmless")
SHOWN = 20


class Gold(Judge):
    """Scores an answer to a sandbox prompt exactly, in [0, 1].

    Its parts are None where they do not apply to the prompt. Raises DataError for prompts that are not from
    the sandbox, which gold cannot read.
    """

    api = 2
    cheap = True

    @classmethod
    def check_prompts(cls, config: Any, prompts: Sequence[Prompt]) -> None:
        refuse_foreign(prompts, "gold")

    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        truths = [_gold(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        _refuse_foreign(zip(prompts, truths, strict=True), "gold")
        return [Score(truth.reward, {part: getattr(truth, part) for part in PARTS}) for truth in truths]


def refuse_foreign(prompts: Sequence[Prompt], judge: str) -> None:
    """Raise DataError, which names the judge, where one of the prompts is not from the sandbox."""
    _refuse_foreign([(prompt, _gold(prompt, "")) for prompt in prompts], judge)


def _gold(prompt: Prompt, answer: str) -> Truth:
    from alignbench.sandbox import gold

    return gold([dict(message) for message in prompt.prompt], answer)


def _refuse_foreign(judged: Iterable[tuple[Prompt, Truth]], judge: str) -> None:
    # `harmless` applies to every sandbox prompt: no part at all means that gold cannot read the prompt.
    foreign = {
        prompt.id: prompt for prompt, truth in judged if all(getattr(truth, part) is None for part in PARTS)
    }
    if foreign:
        raise DataError(
            [
                Problem(
                    f"the {judge} judge reads only the sandbox's own prompts, not {_shortened(prompt)!r}",
                    "use another judge for this data, such as reward-model",
                    field="evaluation.judges",
                )
                for prompt in list(foreign.values())[:SHOWN]
            ],
            total=len(foreign),
        )


def _shortened(prompt: Prompt) -> str:
    text = prompt.prompt[-1]["content"] if prompt.prompt else ""
    return text if len(text) <= 60 else text[:57] + "..."
