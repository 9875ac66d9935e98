"""The learning curve: a policy's answers during training are kept, and judged when all cells are done.

The process that trains only writes answers down: no judge of the evaluation is in it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignbench import stats, store
from alignbench.api.config import Split
from alignbench.api.policy import Policy
from alignbench.evaluation.comparison import clusters_of
from alignbench.layout import LEARNING_CURVE
from alignbench.metrics.kl import k1
from alignbench.recipe.schema import Curve
from alignbench.rows import Sequence as Scorable

if TYPE_CHECKING:
    from alignbench.api.judge import Judge
    from alignbench.worker.run.cell_state import CellState
    from alignbench.worker.run.session import Session

SPLIT: Split = "validation"
NONE: dict[str, Any] = {"learning_curve": [], "warnings": []}
"""Of a cell that was not followed."""

Proxy = Callable[[list[Scorable]], Any]
"""Sequences to float32 [N]: what the method itself takes their answers to be worth."""


class Evaluations:
    """Lets a policy answer the same prompts now and then while it trains; takes nothing off its budget.

    What was answered lies in the training's `state` until it ends, so that a killed training goes on with it.
    """

    def __init__(
        self,
        run: CellState,
        policy: Policy,
        curve: Curve,
        state: MutableMapping[str, Any],
        proxy: Proxy | None = None,
    ):
        self.run, self.policy, self.curve, self.state, self.proxy = run, policy, curve, state, proxy
        self.prompts = run.session.table.prompts(SPLIT, curve.prompts)
        state.setdefault("evaluations", {"evaluated": -1, "lines": []})

    def on_step_end(self, step: int, progress: float) -> float:
        """Answer wherever another share of the training is done; return the seconds that this took."""
        done, begun = self.state["evaluations"], time.perf_counter()
        share = int(progress * self.curve.evaluations + 1e-9)
        if share <= done["evaluated"]:
            return 0.0
        with self.run.meter.paused():
            sampling = self.run.session.recipe.evaluation.sampling.unscaled
            answers = self.policy.answer(self.prompts, sampling, self.run.seed)
            items = [
                Scorable(one.prompt_ids, answer.ids)
                for one, answer in zip(self.prompts, answers, strict=True)
            ]
            worth = [None] * len(items) if self.proxy is None else self.proxy(items).tolist()
            away = k1(self.policy.logprobs(items), self.run.session.base.policy().logprobs(items))
        done["evaluated"] = share
        done["lines"] += [
            {"step": step, "prompt_id": answer.prompt_id, "text": answer.text, "proxy": proxy, "kl": kl}
            for answer, proxy, kl in zip(answers, worth, away, strict=True)
        ]
        return time.perf_counter() - begun

    def write(self) -> None:
        """Write down what was answered, now that the training is over."""
        add(self.run.folder, self.state["evaluations"]["lines"])


def add(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add answers to those of `folder`, their steps behind the last one there."""
    lines = list(lines)
    if not lines:
        return
    before = read(folder)
    first = before[-1]["step"] if before else 0
    lines = [*before, *({**line, "step": first + line["step"]} for line in lines)]
    store.write_text(
        folder / LEARNING_CURVE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    )


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the answers of a cell or stage in the order of their steps; none where there is no learning curve."""
    file = folder / LEARNING_CURVE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def judged(session: Session, folder: Path, name: str, judge: Judge) -> dict[str, Any]:
    """Return a cell's learning curve as scored by the evaluation judge, and the warnings it gives rise to."""
    curve = session.recipe.evaluation.curve
    lines = read(folder) if curve is not None else []
    if curve is None or not lines:
        return NONE
    asked = {prompt.id: prompt for prompt in session.table.prompts(SPLIT, curve.prompts)}
    scores = judge.score([asked[line["prompt_id"]] for line in lines], [line["text"] for line in lines])
    steps = list(dict.fromkeys(line["step"] for line in lines))
    place = {id: number for number, id in enumerate(asked)}
    gold, proxy, kl = np.full((3, len(steps), len(asked)), np.nan)
    for line, score in zip(lines, scores, strict=True):
        at = steps.index(line["step"]), place[line["prompt_id"]]
        gold[at] = math.nan if score.value is None else score.value
        proxy[at] = math.nan if line["proxy"] is None else line["proxy"]
        kl[at] = line["kl"]
    conversations = list(clusters_of(asked.values()).values())
    points = [
        {
            "step": step,
            "score": _estimate(judged, conversations),
            "proxy": _estimate(own, conversations),
            "kl": _estimate(distance, conversations),
        }
        for step, judged, own, distance in zip(steps, gold, proxy, kl, strict=True)
    ]
    warning = _over_optimised(name, steps, gold, proxy, conversations)
    return {"learning_curve": points, "warnings": [warning] if warning else []}


def _over_optimised(
    name: str, steps: Sequence[int], gold: np.ndarray, proxy: np.ndarray, conversations: Sequence[str]
) -> str | None:
    """Return since which step the proxy reward has risen while the evaluation judge's score fell; else None.

    `gold`, `proxy`: [evaluations, prompts]; `conversations`: [prompts]. Both differences are paired by prompt; their
    intervals hold for all earlier evaluations at once (Bonferroni), since the worst of them is reported.
    """
    level = 1 - (1 - stats.LEVEL) / max(1, len(steps) - 1)
    found: list[tuple[float, str]] = []
    for step, judged, own in zip(steps[:-1], gold[:-1], proxy[:-1], strict=True):
        fall, rise = _mean(gold[-1] - judged, conversations), _mean(proxy[-1] - own, conversations)
        if fall and rise and fall.interval(level)[1] < 0 < rise.interval(level)[0]:
            message = (
                f"step {steps[-1]}: since step {step} the reward it learns from rose by {rise.value:.2f}, and "
                f"the score of the evaluation judge {name} fell by {-fall.value:.2f}: it is over-optimised"
            )
            found.append((fall.value, message))
    return min(found)[1] if found else None


def _mean(values: np.ndarray, conversations: Sequence[str]) -> stats.Estimate | None:
    """The mean of what is known of `values` [prompts], where prompts of one conversation count as one; None of fewer
    than two conversations."""
    clusters = {str(place): one for place, one in enumerate(conversations)}
    known = {str(place): float(one) for place, one in enumerate(values) if np.isfinite(one)}
    try:
        return stats.policies(stats.tabulate([known], clusters))
    except stats.NotEstimableError:
        return None


def _estimate(values: np.ndarray, conversations: Sequence[str]) -> dict[str, Any] | None:
    """The mean over prompts with its interval; None where nothing is known."""
    known = _mean(values, conversations)
    return known and {"value": known.value, "ci95": list(known.interval()), "n": known.prompts}
