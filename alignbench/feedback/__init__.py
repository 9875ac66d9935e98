"""Feedback that models write: preferences labelled by a judge, revisions, further prompts. Functions over a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Many
from itertools import islice
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.config import ALL, Labelling, NamedSource, Revising
from alignbench.api.judge import Judge
from alignbench.api.method import Run
from alignbench.api.policy import Policy
from alignbench.errors import DataError
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, derive
from alignbench.spending import counts_everything, parts

__all__ = ["label", "prompts", "revise"]

MEASURED = 0.1
"""Share of what labels may take of a budget that counts everything, for measuring how good their judge is."""


def label(
    run: Run,
    judge: Judge,
    how: Labelling,
    *,
    policy: Policy | None = None,
    part: slice = ALL,
    share: float = 0.5,
) -> list[Row]:
    """Return Pair (or Ranking) rows: answers of `policy` (default: the start), labelled by `judge`.

    Shared by all cells that ask for the same; next to them is an ordinary preference file. `part` picks among
    the training prompts. Of a budget that counts everything, the labels take `share` of what is left.
    """
    from alignbench.feedback import labelling

    people = {} if counts_everything(run) else None
    if people is not None:  # first, and within the same share: what is measured of the judge is no surplus
        begun, most = run.left, share * run.left
        people = agreement_with_people(run, judge, how, share=MEASURED * share)
        share = max(0.0, most - (begun - run.left)) / max(run.left, 1e-9)
    policy = run.start if policy is None else policy
    asked = list({row.id: row for row in run.rows(Prompt)}.values())[part]
    principles = labelling.principles(how.constitution, run.root)
    key = store.stream_key(run.seed, "labels")

    def make(folder: Path) -> None:
        some = parts(run, asked, share=share) if counts_everything(run) else None
        labelling.label(judge, policy, asked, how, principles, key=key, parts=some).save(folder)

    folder = run.shared(
        make,
        what="labelling",
        seed=run.seed,
        judge=judge,
        policy=policy,
        how=how.model_dump(exclude={"people"}),
        principles=list(principles),
        prompts=_asked(asked),
        **_of_what_is_left(run, share),
    )
    found = labelling.load(folder)
    people = agreement_with_people(run, judge, how) if people is None else people
    facts = {name: value for name, value in found.facts.items() if name != "first_words"}
    run.record.judge(found.facts["judge"], **{**facts, **people})
    _warn_of_chance(run, found.facts["judge"], people.get("people"))
    _warn_of_cut_answers(run, found.facts, how)
    return list(run.rows(Ranking if how.form == "rankings" else Pair, given=found.rows))


def agreement_with_people(run: Run, judge: Judge, how: Labelling, *, share: float = 1.0) -> dict[str, Any]:
    """Return as `people` how far a judge that labels agrees with the people who labelled held-out pairs.

    {} where the data holds no such pairs. Asked once for each judge of a cell, which is charged with it.
    """
    from alignbench.feedback import labelling

    if how.people and "people" not in judge.quality and (held_out := _labelled_by_people(run, how.people)):
        principles = labelling.principles(how.constitution, run.root)
        key = store.stream_key(run.seed, "labels")

        def make(folder: Path) -> None:
            some = parts(run, held_out, share=share) if counts_everything(run) else None
            found = labelling.agreement_with_people(judge, held_out, how, principles, key=key, parts=some)
            store.write_json(folder / layout.AGREEMENT, found)

        rows = [[row.id, row.prompt, row.chosen, row.rejected, row.preference] for row in held_out]
        folder = run.shared(
            make,
            what="comparing labels with those of people",
            seed=run.seed,
            judge=judge,
            how=how.model_dump(),
            principles=list(principles),
            rows=store.digest(rows),
            **_of_what_is_left(run, share),
        )
        people = json.loads((folder / layout.AGREEMENT).read_text(encoding="utf-8"))
        judge.quality = {**judge.quality, "people": people}
    return {"people": judge.quality["people"]} if how.people and "people" in judge.quality else {}


def _warn_of_chance(run: Run, judge: str, people: Mapping[str, Any] | None) -> None:
    """Warn in the cell's row where a judge that labels is not known to be better than chance."""
    if not people:
        return
    if not people["n"]:
        message = f"labels no one of {people['asked']} held-out pairs that people labelled"
    elif people["ci95"][0] <= 0.5:
        message = f"agrees with people on {people['accuracy']:.0%} of {people['n']} held-out pairs, which may be chance"
    else:
        return
    run.record.warning("judge no better than chance", 0, f"the judge {judge}, which labels, {message}")


def _warn_of_cut_answers(run: Run, facts: Mapping[str, Any], how: Labelling) -> None:
    """Warn in the cell's row where most answers were cut: they are not compared, and little is learnt."""
    drawn, cut = facts.get("prompts", 0) * how.answers, facts.get("unfinished", 0)
    if 2 * cut > drawn:
        what = (
            f"{cut} of {drawn} answers were cut at {how.sampling.max_new_tokens} tokens and are not compared"
        )
        run.record.warning(
            "answers cut",
            0,
            f"{what}: {facts['kept']} comparisons are left; raise labels.sampling.max_new_tokens",
        )


def _labelled_by_people(run: Run, count: int) -> list[Pair]:
    try:
        rows = run.rows(Pair, "validation")
    except DataError:  # the data compares nothing
        return []
    # What a judge wrote into a file carries its name.
    return list(islice((row for row in rows if "judge" not in row.extra), count))


def revise(run: Run, prompts: Many[Prompt], how: Revising, *, share: float = 0.5) -> list[Demonstration]:
    """Return demonstrations: answers of the start to `prompts`, revised by itself; shared like labels.

    Of a budget that counts everything they take `share` of what is left.
    """
    from alignbench.feedback import labelling, revising

    principles = labelling.principles(how.constitution, run.root)
    key = store.stream_key(run.seed, "revisions")

    def make(folder: Path) -> None:
        rows: list[Row] = []
        for some in parts(run, prompts, share=share):
            rows += revising.revise(run.start, some, how, principles, key=key)
        labelling.Labelled(rows, {"revised": len(rows)}).save(folder)

    folder = run.shared(
        make,
        what="revising",
        seed=run.seed,
        policy=run.start,
        how=how.model_dump(),
        principles=list(principles),
        prompts=_asked(prompts),
        **_of_what_is_left(run, share),
    )
    return list(run.rows(Demonstration, given=labelling.load(folder).rows))


def prompts(run: Run, source: NamedSource, limit: int) -> list[Prompt]:
    """Return at most `limit` prompts that a config field names in addition to the recipe's rows: a departure."""
    from alignbench.recipe.named import open_source

    rows = open_source(source, run.root).rows("train", limit, run.seed)
    found = [prompt for row in rows for prompt in derive(row, Prompt, seed=run.seed)]
    run.record.departure("prompts of its own", "", f"{len(found):,} of {source.name}")
    return found


def _of_what_is_left(run: Run, share: float) -> dict[str, Any]:
    """What a key says of how much is made, where that depends on what is left of the budget."""
    return {"left": run.left, "share": share} if counts_everything(run) else {}


def _asked(prompts: Many[Prompt]) -> str:
    return store.digest([[row.id, [dict(turn) for turn in row.prompt]] for row in prompts])
