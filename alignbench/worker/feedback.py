"""Rows that a run writes itself: labels of a judge, revisions, and comparisons of other answers than the file's."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import store
from alignbench.api.config import ALL, Labelling, Revising
from alignbench.api.policy import Policy
from alignbench.recipe.schema import START, Relabelled
from alignbench.rows import Pair, Prompt, Row, can_derive
from alignbench.worker.messages import Event

if TYPE_CHECKING:
    from alignbench.api.judge import Judge
    from alignbench.worker.context import CellContext

PEOPLE = "people.json"
"""How far a judge agrees with people, where it lies in the store."""


def labels(
    run: CellContext, judge: Judge, how: Labelling, *, policy: Policy | None = None, part: slice = ALL
) -> list[Row]:
    """Return comparisons of a policy's answers to the training prompts, by `judge`; shared by who asks alike."""
    from alignbench.feedback import labelling

    policy = run.start if policy is None else policy
    prompts = list({row.id: row for row in run.rows(Prompt)}.values())[part]
    principles = labelling.principles(how.constitution, run.root)

    def make(folder: Path) -> None:
        run._session.emit(Event("labelling", 0, len(prompts)))
        before = run.base.generated
        made = labelling.label(judge, policy, prompts, how, principles, key=run._number("labels"))
        run.cost.add(generated_tokens=run.base.generated - before, ai_comparisons=made.facts["compared"])
        made.save(folder)

    folder = run.shared(
        make,
        what="labels",
        judge=judge,
        policy=policy,
        how=how.model_dump(exclude={"people"}),
        principles=list(principles),
        prompts=_asked(prompts),
    )
    found = labelling.load(folder)
    quality = {**found.facts, **beside_people(run, judge, how)}
    run.judges.append({"name": found.facts["judge"], "quality": quality})
    return tokenised(run, found.rows)


def beside_people(run: CellContext, judge: Judge, how: Labelling) -> dict[str, Any]:
    """Return as `people` how far a judge that labels agrees with the people who labelled held-out pairs.

    {} where the data holds no such pairs. Asked once for each judge of a cell, which is charged with it; the cell
    learns nothing from these rows, and has not seen them.
    """
    from alignbench.feedback import labelling

    table = run._session.table
    if not how.people or not can_derive(table.view, Pair):
        return {}
    # What a judge wrote into a file carries its name.
    rows = (row for row in table.rows(Pair, "validation", seed=run.seed) if "judge" not in row.extra)
    held_out = list(islice(rows, how.people))
    if held_out and "people" not in judge.quality:
        principles = labelling.principles(how.constitution, run.root)

        def make(folder: Path) -> None:
            run._session.emit(Event("comparing labels with those of people"))
            key = run._number("labels")
            store.write_json(
                folder / PEOPLE, labelling.beside_people(judge, held_out, how, principles, key=key)
            )

        folder = run.shared(
            make,
            what="agreement with people",
            judge=judge,
            how=how.model_dump(),
            principles=list(principles),
            rows=store.digest(
                [[row.id, row.prompt, row.chosen, row.rejected, row.preference] for row in held_out]
            ),
        )
        people = json.loads((folder / PEOPLE).read_text(encoding="utf-8"))
        judge.quality = {**judge.quality, "people": people}
    return {"people": judge.quality["people"]} if "people" in judge.quality else {}


def revisions(run: CellContext, prompts: Many[Prompt], how: Revising) -> list[Row]:
    """Return demonstrations: answers of the start to `prompts`, revised by itself; shared like labels."""
    from alignbench.feedback import labelling, revising

    principles = labelling.principles(how.constitution, run.root)

    def make(folder: Path) -> None:
        run._session.emit(Event("revising", 0, len(prompts)))
        before = run.base.generated
        rows = revising.revise(run.start, prompts, how, principles, key=run._number("revisions"))
        run.cost.add(generated_tokens=run.base.generated - before)
        labelling.Labelled(list(rows), {"revised": len(rows)}).save(folder)

    folder = run.shared(
        make,
        what="revisions",
        policy=run.start,
        how=how.model_dump(),
        principles=list(principles),
        prompts=_asked(prompts),
    )
    return tokenised(run, labelling.load(folder).rows)


def comparisons(run: CellContext, how: Relabelled) -> list[Row]:
    """Return the comparisons that `data.source` asks for, made by a run that itself reads the file's."""
    writer = type(run)(
        run._session,
        label=run._label,
        seed=run.seed,
        method=run._method,
        start=run.start if how.policy == START else run.policy(how.policy),
        folder=run.folder,
        training=run.training.model_dump(),
        making=run._checkpoint_scope,
    )
    made = labels(writer, writer.judge(how.judge), how.labels)
    run.cost.add(**vars(writer.cost))
    run.judges += writer.judges
    run.departures += [one for one in writer.departures if one not in run.departures]
    for split, ids in writer.seen.items():
        run.seen.setdefault(split, set()).update(ids)
    return made


def tokenised(run: CellContext, rows: Many[Row]) -> list[Row]:
    """Return rows that a method made, tokenised and dropped by length as the shared rows were."""
    from alignbench.data.tokens import ending, tokenise

    if all(row.length for row in rows):
        return list(rows)
    tokenizer = run.base.tokenizer
    longest = run._session.recipe.data.max_length
    made = tokenise(rows, tokenizer, ending(tokenizer))
    return [row for row in made if not isinstance(row, str) and row.length <= longest]


def _asked(prompts: Many[Prompt]) -> str:
    return store.digest([[row.id, [dict(turn) for turn in row.prompt]] for row in prompts])
