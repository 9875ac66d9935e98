"""A finished policy answers: the evaluation's prompts at every temperature, and the prompts that choose one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignbench import layout
from alignbench.api.config import Split
from alignbench.api.launcher import Event
from alignbench.api.policy import Answer, Policy
from alignbench.errors import PluginError
from alignbench.models.meter import Tally, metered
from alignbench.recipe.schema import Evaluation
from alignbench.rows import Prompt
from alignbench.worker.finished import samples
from alignbench.worker.run.session import Session

TUNING = "validation"
"""The split whose prompts choose a temperature."""

SHARE = 0.1
"""Share of the time of a decoder's answers that measuring the start without a cache may take."""

PAUSE = 0.2
"""Seconds between two words about how many prompts are answered."""


def temperatures(evaluation: Evaluation, policy: Policy) -> Many[float | None]:
    """Return the temperatures at which a policy answers; None alone where it ignores them."""
    return evaluation.sampling.temperature if "temperature" in policy.follows else [None]


def requests(
    evaluation: Evaluation, grid: Many[float | None]
) -> Iterator[tuple[float | None, Split, int, int]]:
    """Yield what a policy is asked for: a temperature, the prompts' split and number, and samples of each."""
    tuned = evaluation.chooses and len(grid) > 1 and evaluation.split != TUNING
    for temperature in grid:
        yield (
            temperature,
            evaluation.split,
            evaluation.prompts,
            _drawn(temperature, evaluation.samples_per_prompt),
        )
        if tuned:
            yield temperature, TUNING, evaluation.tuning_prompts, 1


def answer(
    session: Session, policy: Policy, start: Policy, label: str, seed: int, folder: Path
) -> list[dict[str, Any]]:
    """Write a policy's answers to `folder`; return the cost of one answer at each temperature."""
    evaluation = session.recipe.evaluation
    grid = temperatures(evaluation, policy)
    wanted = list(requests(evaluation, grid))
    prompts = {split: session.table.prompts(split, count) for _, split, count, _ in wanted}
    total = sum(len(prompts[split]) * samples for _, split, _, samples in wanted)
    asked, tuning = prompts[evaluation.split], prompts.get(TUNING, ()) if len(prompts) > 1 else ()
    session.base.answered = counting(session.emit, total)

    def drawn(prompts: Many[Prompt], temperature: float | None, count: int) -> list[Answer]:
        found = policy.answer(
            prompts, evaluation.sampling.at(temperature), seed, samples=_drawn(temperature, count)
        )
        wanted = [(prompt.id, number) for prompt in prompts for number in range(_drawn(temperature, count))]
        if [(one.prompt_id, one.sample) for one in found] != wanted:
            raise PluginError(
                f"'{label}' did not answer every prompt once for each sample, in order",
                "return one Answer for each prompt and sample, prompt by prompt",
            )
        return found

    answers: dict[float | None, list[Answer]] = {}
    costs = []
    for temperature in grid:
        began = time.perf_counter()
        with metered(Tally()) as tally:
            found = drawn(asked, temperature, evaluation.samples_per_prompt)
        spent = time.perf_counter() - began
        uncached = (None, None) if "adapter" in policy.can else _uncached(start, asked, found, SHARE * spent)
        answers[temperature] = list(_repeated(found, evaluation.samples_per_prompt))
        costs.append(
            {
                "temperature": temperature,
                "answer_tokens": tally.work.positions / len(found),
                "answer_flops": tally.work.flops / len(found),
                "answer_forwards": sum(one.forwards for one in found) / len(found),
                "answer_seconds": spent / len(found),
                "answer_length": sum(len(one.ids) for one in found) / len(found),
                "answer_uncached_tokens": uncached[0],
                "answer_uncached_seconds": uncached[1],
            }
        )
    samples.write(folder, answers)
    if tuning:
        samples.write(folder, {one: drawn(tuning, one, 1) for one in grid}, layout.TUNING_SAMPLES)
    return costs


def _drawn(temperature: float | None, count: int) -> int:
    """How many answers to a prompt are drawn to have `count`: greedy ones are all equal."""
    return 1 if temperature == 0 else count


def _repeated(answers: Many[Answer], count: int) -> Iterator[Answer]:
    """Yield `count` samples of each prompt, where only one was drawn."""
    single = all(one.sample == 0 for one in answers)
    for one in answers:
        yield from (replace(one, sample=number) for number in range(count)) if single else (one,)


def _uncached(
    start: Policy, prompts: Many[Prompt], answers: Many[Answer], at_most: float
) -> tuple[float, float] | tuple[None, None]:
    """Positions and seconds of one answer, had the start decoded it plainly and without a cache.

    Measuring it takes about `at_most` seconds.
    """
    from alignbench.models import ModelPolicy, generation

    if not isinstance(start, ModelPolicy):
        return None, None
    return generation.uncached(start, start.tokenised(prompts), answers, at_most)


def counting(emit: Callable[[Event], None], total: int) -> Callable[[int], None]:
    """Return a function to call when answers end: it emits how many of `total` there are."""
    done, reported = 0, time.monotonic()
    emit(Event("answering", done, total))

    def count(more: int) -> None:
        nonlocal done, reported
        done += more
        now = time.monotonic()
        if now - reported >= PAUSE or done >= total:
            reported = now
            emit(Event("answering", min(done, total), total))

    return count
