"""Best-of-n as a policy: plain answers, and the one that the evaluator likes best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path

from alignbench import Answer, Decoder, Policy, Prompt, Sampling
from alignbench_rain.evaluation import Evaluation, SelfEvaluation

N = "n.json"


class BestOf(Decoder):
    """A frozen start that answers n times and gives the best answer.

    `n` is one number, or one for each of some temperatures; another temperature has that of the nearest.
    """

    def __init__(self, start: Policy, evaluation: Evaluation, n: int | Mapping[float, int]):
        self.start, self.evaluation, self.n = start, evaluation, n
        self.follows = start.follows

    def drawn(self, sampling: Sampling) -> int:
        """Return how many answers are drawn for one."""
        if isinstance(self.n, int):
            return self.n
        return self.n[min(sorted(self.n), key=lambda known: abs(known - sampling.temperature))]

    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer `samples` times: each the best of n draws of its own, ties to the first."""
        n = self.drawn(sampling)
        drawn = self.start.answer(prompts, sampling, key, samples=samples * n)
        asked = {prompt.id: prompt for prompt in prompts}
        rows = [asked[one.prompt_id] for one in drawn]
        evaluation = self.evaluation
        if isinstance(evaluation, SelfEvaluation):
            values, costs = evaluation.scored(rows, [one.text for one in drawn], soft=True)
        else:
            values = evaluation.scores(rows, [one.text for one in drawn], soft=True)
            costs = [(0, 0)] * len(drawn)
        best = []
        for number, at in enumerate(range(0, len(drawn), n)):
            group = range(at, at + n)
            chosen = max(group, key=lambda place: values[place])
            best.append(
                replace(
                    drawn[chosen],
                    sample=number % samples,
                    forwards=sum(drawn[i].forwards + costs[i][0] for i in group),
                    tokens=sum(drawn[i].tokens + costs[i][1] for i in group),
                    seconds=sum(drawn[i].seconds for i in group),
                )
            )
        return best

    def save(self, folder: Path) -> None:
        """Write n: where it was matched to another label's cost, it is a finding."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / N).write_text(json.dumps(self.n), encoding="utf-8")


def read_n(folder: Path) -> int | Mapping[float, int]:
    """Return what `BestOf.save` wrote."""
    found = json.loads((folder / N).read_text(encoding="utf-8"))
    return found if isinstance(found, int) else {float(temperature): n for temperature, n in found.items()}
