"""Feedback that models write: preferences labelled by a judge, revisions, further prompts. Functions over a run."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from itertools import islice
from pathlib import Path
from typing import Any

from alignbench import store
from alignbench.api.config import ALL, Labelling, NamedSource, Revising
from alignbench.api.judge import Judge
from alignbench.api.method import Run
from alignbench.api.policy import Policy
from alignbench.errors import DataError
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, derive

__all__ = ["label", "prompts", "revise"]

PEOPLE = "people.json"
"""How far a judge agrees with people, where it lies in the store."""


def label(
    run: Run, judge: Judge, how: Labelling, *, policy: Policy | None = None, part: slice = ALL
) -> list[Row]:
    """Return Pair (or Ranking) rows: answers of `policy` (default: the start), labelled by `judge`.

    Shared by all cells that ask for the same; beside them lies an ordinary preference file. `part` picks among
    the training prompts.
    """
    from alignbench.feedback import labelling

    policy = run.start if policy is None else policy
    asked = list({row.id: row for row in run.rows(Prompt)}.values())[part]
    principles = labelling.principles(how.constitution, run.root)
    key = store.stream_key(run.seed, "labels")

    def make(folder: Path) -> None:
        labelling.label(judge, policy, asked, how, principles, key=key).save(folder)

    folder = run.shared(
        make,
        what="labelling",
        seed=run.seed,
        judge=judge,
        policy=policy,
        how=how.model_dump(exclude={"people"}),
        principles=list(principles),
        prompts=_asked(asked),
    )
    found = labelling.load(folder)
    people = beside_people(run, judge, how)
    run.record.judge(found.facts["judge"], **{**found.facts, **people})
    return list(run.rows(Ranking if how.form == "rankings" else Pair, given=found.rows))


def beside_people(run: Run, judge: Judge, how: Labelling) -> dict[str, Any]:
    """Return as `people` how far a judge that labels agrees with the people who labelled held-out pairs.

    {} where the data holds no such pairs. Asked once for each judge of a cell, which is charged with it.
    """
    from alignbench.feedback import labelling

    if how.people and "people" not in judge.quality and (held_out := _labelled_by_people(run, how.people)):
        principles = labelling.principles(how.constitution, run.root)
        key = store.stream_key(run.seed, "labels")

        def make(folder: Path) -> None:
            found = labelling.beside_people(judge, held_out, how, principles, key=key)
            store.write_json(folder / PEOPLE, found)

        rows = [[row.id, row.prompt, row.chosen, row.rejected, row.preference] for row in held_out]
        folder = run.shared(
            make,
            what="comparing labels with those of people",
            seed=run.seed,
            judge=judge,
            how=how.model_dump(),
            principles=list(principles),
            rows=store.digest(rows),
        )
        people = json.loads((folder / PEOPLE).read_text(encoding="utf-8"))
        judge.quality = {**judge.quality, "people": people}
    return {"people": judge.quality["people"]} if how.people and "people" in judge.quality else {}


def _labelled_by_people(run: Run, count: int) -> list[Pair]:
    try:
        rows = run.rows(Pair, "validation")
    except DataError:  # the data compares nothing
        return []
    # What a judge wrote into a file carries its name.
    return list(islice((row for row in rows if "judge" not in row.extra), count))


def revise(run: Run, prompts: Many[Prompt], how: Revising) -> list[Demonstration]:
    """Return demonstrations: answers of the start to `prompts`, revised by itself; shared like labels."""
    from alignbench.feedback import labelling, revising

    principles = labelling.principles(how.constitution, run.root)
    key = store.stream_key(run.seed, "revisions")

    def make(folder: Path) -> None:
        rows: list[Row] = list(revising.revise(run.start, prompts, how, principles, key=key))
        labelling.Labelled(rows, {"revised": len(rows)}).save(folder)

    folder = run.shared(
        make,
        what="revising",
        seed=run.seed,
        policy=run.start,
        how=how.model_dump(),
        principles=list(principles),
        prompts=_asked(prompts),
    )
    return list(run.rows(Demonstration, given=labelling.load(folder).rows))


def prompts(run: Run, source: NamedSource, limit: int) -> list[Prompt]:
    """Return at most `limit` prompts that a config field names beside the recipe's rows: a departure."""
    from alignbench.recipe.named import open_source

    run.record.departure("prompts of its own", "", source.name)
    rows = open_source(source, run.root).rows("train", limit, run.seed)
    return [prompt for row in rows for prompt in derive(row, Prompt, seed=run.seed)]


def _asked(prompts: Many[Prompt]) -> str:
    return store.digest([[row.id, [dict(turn) for turn in row.prompt]] for row in prompts])
