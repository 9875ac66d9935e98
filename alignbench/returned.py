"""Refuses what a plugin returns where it is of the wrong kind or number: the plugin, its function, what to return."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from alignbench import plugins
from alignbench.api.judge import PairwiseJudgment, Score
from alignbench.api.metric import Cell, Measure, Missing
from alignbench.api.policy import Answer
from alignbench.errors import PluginError
from alignbench.rows import Prompt, Row

ROLES = ("system", "user", "assistant")


def rows(source: object, found: Callable[[], Iterable[Row]], split: str) -> Iterator[Row]:
    """Yield what a source reads. Raises PluginError at what is no row, has an id twice, or no turns as its prompt."""
    known: set[str] = set()
    for number, row in enumerate(_of(source, "rows", found(), Iterable, "yield rows"), 1):
        fault = _fault(row, known)
        if fault:
            raise _wrong(source, "rows", f"gave as row {number} of {split} {fault}")
        known.add(row.id)
        yield row


def _fault(row: Any, known: Collection[str]) -> str:
    """Return what is wrong with a row and what to give instead; an empty text where nothing is."""
    if not isinstance(row, Row):
        return f"a {_kind(row)}; yield Pair, Demonstration, Prompt, ... of alignbench"
    if not isinstance(row.id, str):
        return f"one whose id is no text but of type {_kind(row.id)}; give each row a text"
    if row.id in known:
        return f"the id '{row.id}' a second time; give each row an id of its own"
    if not isinstance(row, Prompt):
        return ""
    if isinstance(row.prompt, str | Mapping) or not all(isinstance(turn, Mapping) for turn in row.prompt):
        return 'a prompt that is no list of turns; write ({"role": "user", "content": text},)'
    for turn in row.prompt:
        if turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            return f"the turn {dict(turn)}; its role is one of {', '.join(ROLES)}, its content a text"
    return ""


JUDGED: Mapping[str, tuple[Any, str]] = {
    "score": (Score, "return a Score for each answer; Score(None) abstains"),
    "compare": (Real | None, "return for each prompt the probability that a is better, or None"),
    "judge_pairs": (PairwiseJudgment, "return a PairwiseJudgment for each prompt"),
}
"""What each method of a judge returns, by its name."""


def judgments(judge: object, method: str, found: Any, prompts: Sequence[Prompt]) -> Any:
    """Return what a judge has said of these prompts. Raises PluginError where it is not one judgment for each."""
    kind, fix = JUDGED[method]
    return _each(judge, method, found, prompts, kind, fix)


def rewards(function: object, found: Any, prompts: Sequence[Prompt]) -> list[float | None]:
    """Return the rewards of answers to these prompts. Raises PluginError where it is not a number or None for each."""
    fix = "return a number for each answer, or None where it does not apply"
    return _each(function, "score", found, prompts, Real | None, fix)


def answers(policy: object, found: Any, prompts: Sequence[Prompt], samples: int) -> list[Answer]:
    """Return the answers to these prompts. Raises PluginError where they are not `samples` for each, in order."""
    wanted = [prompt for prompt in prompts for _ in range(samples)]
    fix = "return an Answer for each prompt and sample, prompt by prompt"
    made = _each(policy, "answer", found, wanted, Answer, fix)
    for place, (one, prompt) in enumerate(zip(made, wanted, strict=True)):
        if (one.prompt_id, one.sample) != (prompt.id, place % samples):
            what = (
                f"gave sample {one.sample} of '{one.prompt_id}' for sample {place % samples} of '{prompt.id}'"
            )
            raise _wrong(policy, "answer", f"{what}; {fix}")
    return made


def measures(metric: object, found: Any, cells: Collection[Cell]) -> list[Measure | Missing]:
    """Return what a metric says of these cells. Raises PluginError where it says it of others, or no finite numbers."""
    fix = "return a list of Measure and Missing"
    if isinstance(found, Mapping):
        raise _wrong(metric, "measure", f"returned a {_kind(found)}; {fix}")
    made = list(_of(metric, "measure", found, Iterable, fix))
    for one in made:
        if not isinstance(one, Measure | Missing):
            raise _wrong(metric, "measure", f"gave a {_kind(one)}; {fix}")
        if Cell(one.label, one.seed) not in cells:
            what = f"measured '{one.label}' at seed {one.seed}; name the label and seed of a cell of the evidence"
            raise _wrong(metric, "measure", what)
        for id, value in one.values.items() if isinstance(one, Measure) else ():
            if not isinstance(value, Real) or not math.isfinite(value):
                what = f"gave row {id} the value {value!r}; leave out a row without a finite number"
                raise _wrong(metric, "measure", what)
    return made


def _each(plugin: object, method: str, found: Any, asked: Sequence[Prompt], kind: Any, fix: str) -> list[Any]:
    made = list(_of(plugin, method, found, Iterable, fix))
    for one, prompt in zip(made, asked, strict=False):
        if not isinstance(one, kind):
            raise _wrong(plugin, method, f"gave a {_kind(one)} for row {prompt.id}; {fix}")
    if len(made) != len(asked):
        raise _wrong(plugin, method, f"gave {len(made)} values and was asked for {len(asked)}; {fix}")
    return made


def _of(plugin: object, method: str, found: Any, kind: Any, fix: str) -> Any:
    if not isinstance(found, kind):
        raise _wrong(plugin, method, f"returned a {_kind(found)}; {fix}")
    return found


def _wrong(plugin: object, method: str, what: str) -> PluginError:
    what, _, fix = what.partition("; ")
    return PluginError(f"{plugins.owner(plugin)}: {type(plugin).__name__}.{method} {what}", fix)


def _kind(value: object) -> str:
    return type(value).__name__
