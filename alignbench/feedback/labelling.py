"""Preferences written by a model: answers are drawn, a judge compares them, and what it says becomes rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from alignbench import layout
from alignbench.api.config import Labelling
from alignbench.api.judge import Judge, PairwiseJudgment
from alignbench.api.policy import Answer, Policy
from alignbench.errors import DataError, PluginError, Problem
from alignbench.evaluation.controls import agreement
from alignbench.rows import Pair, Prompt, Ranking, Row

FIRST_WORDS = 5
"""Words that are named of those with which a judge's answers would have begun."""
BUILT_IN = Path(__file__).with_name("constitution.txt")


@dataclass(frozen=True)
class Labelled:
    """Rows that a judge has labelled, and what is known about the labels."""

    rows: list[Row]
    facts: dict[str, Any]
    """`judge`; answers that are `unfinished`; `compared`, `kept`, `dropped` by reason; `consistent`, `first` of two
    orders; mean `mass` of its options; first words where it chose neither, as `first_words`."""

    def save(self, folder: Path) -> None:
        """Write the rows as JSON lines with TRL's field names, which every recipe can read, and the facts."""
        lines = (json.dumps(as_record(row), ensure_ascii=False) + "\n" for row in self.rows)
        (folder / layout.LABELLED).write_text("".join(lines), encoding="utf-8")
        (folder / layout.LABELLING).write_text(
            json.dumps(self.facts, sort_keys=True) + "\n", encoding="utf-8"
        )


def load(folder: Path) -> Labelled:
    """Return what `Labelled.save` wrote. Raises DataError, with the reasons, where it is not one row."""
    from alignbench.data import fields

    lines = (folder / layout.LABELLED).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    rows = [fields.read(record, fields.shape(record)) for record in records]
    facts = json.loads((folder / layout.LABELLING).read_text(encoding="utf-8"))
    if not rows:
        # `abstained` counts new judgments, `dropped` those that were kept from before as well.
        counts = {**facts.get("dropped", {})}
        counts = {**counts, **facts.get("abstained", {}), **counts}
        compared = facts.get("compared", 0)
        why = [f"{reason} ({count})" for reason, count in counts.items()]
        if unfinished := facts.get("unfinished", 0):
            why.append(f"{unfinished} answers were not finished")
        what = f"the judge '{facts.get('judge', '')}' gave no label for any of {compared} comparisons: " + (
            ", ".join(why) or "no two answers differ"
        )
        if found := facts.get("first_words"):
            words = ", ".join(f"{word!r} ({count})" for word, count in found.items())
            what += f"; what it would write first: {words}"
        raise DataError(what, _remedy(facts))
    return Labelled(rows, facts)


def _remedy(facts: Mapping[str, Any]) -> str:
    """What to do about a judge that labels nothing."""
    if facts.get("first_words"):
        return "begin its turn in other words (the judge's field `lead`), or name another judge"
    if facts.get("unfinished") or not facts.get("compared"):
        return "draw answers of more tokens (labels.sampling)"
    return "name another judge"


def as_record(row: Row) -> dict[str, Any]:
    """Return a row as the record that it is read from, without columns that would make another row of it."""
    from alignbench.data.fields import NAMES

    assert isinstance(row, Prompt)
    record: dict[str, Any] = {"id": row.id, "prompt": [dict(turn) for turn in row.prompt]}
    if isinstance(row, Pair):
        record |= {"chosen": row.chosen, "rejected": row.rejected, "preference": row.preference}
    elif isinstance(row, Ranking):
        record |= {"answers": list(row.answers), "ranks": list(row.ranks)}
        record |= {"preferences": list(row.preferences)} if row.preferences else {}
    else:
        record |= {"completion": getattr(row, "response", "")}
    return {**record, **{name: value for name, value in row.extra.items() if name not in NAMES}}


def principles(constitution: str | None, root: Path) -> tuple[str, ...]:
    """Return the principles of a constitution: one on each line, lines that begin with # left out.

    Raises DataError where the file cannot be read or holds none.
    """
    if constitution is None:
        return ()
    if constitution == "sandbox":
        from alignbench.sandbox import PRINCIPLES

        return PRINCIPLES
    path = BUILT_IN if constitution == "built-in" else root / constitution
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        what = Problem(
            f"the constitution cannot be read: {error}", "give a UTF-8 text file", file=constitution
        )
        raise DataError(what) from error
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if not found:
        what = Problem("the constitution holds no principle", "write one on each line", file=constitution)
        raise DataError(what)
    return found


def label(
    judge: Judge,
    policy: Policy,
    prompts: Sequence[Prompt],
    how: Labelling,
    constitution: Sequence[str] = (),
    *,
    key: int,
    parts: Iterable[Sequence[Prompt]] | None = None,
) -> Labelled:
    """Draw answers of `policy`, let `judge` compare all that differ, and return what it says as rows.

    An abstention, a tie, and with `consistent` a judgment that changes with the order, labels nothing and is
    counted. `parts` of the prompts, where given, are labelled one after the other, as long as there are more. Law:
    equal arguments give equal rows. Raises PluginError where the judge ignores the principles of a
    `constitution`.
    """
    if constitution and (lost := type(judge).check_principles(judge.config)):
        what = f"a principle is drawn for each comparison, and the judge '{judge.name}' loses it: {lost.what}"
        raise PluginError(Problem(what, f"{lost.fix}, or leave `constitution` out", field=lost.field))
    before, openings = Counter(judge.abstained), Counter(judge.first_words)
    answers: list[Answer] = []
    drawn: dict[str, list[str]] = {}
    done: list[Prompt] = []
    asked: list[tuple[Prompt, int, int]] = []
    judgments: list[PairwiseJudgment] = []
    for some in (prompts,) if parts is None else parts:
        drawn |= {prompt.id: [] for prompt in some}
        found = policy.answer(some, how.sampling, key, samples=how.answers)
        answers += found
        for answer in found:
            if answer.finished and answer.text.strip() and answer.text not in drawn[answer.prompt_id]:
                drawn[answer.prompt_id].append(answer.text)
        new = [(prompt, i, j) for prompt in some for i, j in combinations(range(len(drawn[prompt.id])), 2)]
        chosen = [Random(f"{key}/{p.id}/{i}/{j}").choice(constitution) for p, i, j in new if constitution]
        judgments += judge.judge_pairs(
            [prompt for prompt, _, _ in new],
            [drawn[prompt.id][i] for prompt, i, _ in new],
            [drawn[prompt.id][j] for prompt, _, j in new],
            chosen or None,
        )
        judge.record_cost(ai_comparisons=len(new))
        asked += new
        done += some
    prompts = done
    dropped: dict[str, int] = {}
    rows: list[Row] = []
    by_prompt: dict[str, dict[tuple[int, int], float]] = {prompt.id: {} for prompt in prompts}
    for (prompt, i, j), judgment in zip(asked, judgments, strict=True):
        reason = _unfit(judgment, how)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
        else:
            assert judgment.preference is not None
            by_prompt[prompt.id][i, j] = judgment.preference
    name = judge.name
    for prompt in prompts:
        texts, found = drawn[prompt.id], by_prompt[prompt.id]
        if how.form == "rankings" and found:
            rows += _ranking(prompt, texts, found, how, name)
        elif how.form == "pairs":
            rows += [_pair(prompt, texts, place, p, how.soft, name) for place, p in found.items()]
    orders = [one for one in judgments if one.orders is not None]
    facts = {
        "judge": name,
        "prompts": len(prompts),
        "compared": len(asked),
        "kept": sum(map(len, by_prompt.values())),
        "unfinished": sum(not answer.finished for answer in answers),
        "dropped": dropped,
        "abstained": dict(judge.abstained - before),
        **_shares(orders),
        **_mass(judgments),
    }
    if words := dict((judge.first_words - openings).most_common(FIRST_WORDS)):
        facts["first_words"] = words
    return Labelled(rows, facts)


def agreement_with_people(
    judge: Judge,
    pairs: Sequence[Pair],
    how: Labelling,
    constitution: Sequence[str] = (),
    *,
    key: int,
    parts: Iterable[Sequence[Pair]] | None = None,
) -> dict[str, Any]:
    """Return how far the labels that `judge` gives to `pairs` agree with those of the people who labelled them.

    Labelled as `label` does it, by principles drawn alike. `asked`; of the `n` that both sides label,
    `accuracy` with `ci95`, Cohen's `kappa`, Krippendorff's `alpha` (see `alignbench.evaluation.controls`);
    `consistent`, `first` and `mass` of the judge's two orders, and what labelled nothing as `dropped`.
    """
    rng = Random(key)
    turned: list[bool] = []
    judgments: list[PairwiseJudgment] = []
    done: list[Pair] = []
    for some in (pairs,) if parts is None else parts:
        # The label must not be where it can be guessed: chosen and rejected take turns at being first.
        turns = [rng.random() < 0.5 for _ in some]
        judgments += judge.judge_pairs(
            list(some),
            [pair.rejected if turn else pair.chosen for pair, turn in zip(some, turns, strict=True)],
            [pair.chosen if turn else pair.rejected for pair, turn in zip(some, turns, strict=True)],
            [Random(f"{key}/{pair.id}").choice(constitution) for pair in some] if constitution else None,
        )
        turned += turns
        done += some
    pairs = done
    reasons = [_unfit(judgment, how) for judgment in judgments]
    ours = [
        None if reason else _side(judgment.preference)
        for judgment, reason in zip(judgments, reasons, strict=True)
    ]
    theirs = [
        _side(1 - pair.preference if turn else pair.preference)
        for pair, turn in zip(pairs, turned, strict=True)
    ]
    return {
        "asked": len(pairs),
        **agreement(ours, theirs),
        "dropped": dict(Counter(reason for reason in reasons if reason)),
        **_shares([one for one in judgments if one.orders is not None]),
        **_mass(judgments),
    }


def _side(preference: float | None) -> int | None:
    return None if preference is None or preference == 0.5 else 1 if preference > 0.5 else -1


def _unfit(judgment: PairwiseJudgment, how: Labelling) -> str:
    if judgment.preference is None:
        return judgment.reason or "abstained"
    if how.consistent and judgment.consistent is False:
        return "the orders disagree"
    if how.form == "pairs" and (abs(judgment.preference - 0.5) < how.ties or judgment.preference == 0.5):
        return "tie"
    return ""


def _pair(
    prompt: Prompt, texts: list[str], place: tuple[int, int], probability: float, soft: bool, judge: str
) -> Pair:
    i, j = place if probability > 0.5 else (place[1], place[0])
    return Pair(
        id=f"{prompt.id}/{place[0]}-{place[1]}",
        prompt=prompt.prompt,
        chosen=texts[i],
        rejected=texts[j],
        preference=max(probability, 1 - probability) if soft else 1.0,
        extra=_extra(prompt, judge),
    )


def _ranking(
    prompt: Prompt, texts: list[str], found: dict[tuple[int, int], float], how: Labelling, judge: str
) -> list[Ranking]:
    """Rank by the mean probability of being preferred, answers that are closer than `ties` alike; a soft
    ranking keeps the probabilities too."""
    worth = []
    for place in range(len(texts)):
        wins = [p if i == place else 1 - p for (i, j), p in found.items() if place in (i, j)]
        worth.append(fmean(wins) if wins else None)
    judged = sorted(
        (place for place, one in enumerate(worth) if one is not None), key=lambda at: -(worth[at] or 0)
    )
    ranks, rank = {}, 0
    for number, place in enumerate(judged):
        previous = judged[number - 1] if number else place
        if number == 0 or (worth[previous] or 0) - (worth[place] or 0) > how.ties:
            rank += 1
        ranks[place] = rank
    if rank < 2:
        return []
    kept = sorted(ranks)
    chances = (found.get(pair) for pair in combinations(kept, 2))
    preferences = [None if p is None or abs(p - 0.5) < how.ties or p == 0.5 else p for p in chances]
    if how.soft and all(p is None for p in preferences):
        return []
    return [
        Ranking(
            id=prompt.id,
            prompt=prompt.prompt,
            answers=tuple(texts[place] for place in kept),
            ranks=tuple(ranks[place] for place in kept),
            preferences=tuple(preferences) if how.soft else (),
            extra=_extra(prompt, judge),
        )
    ]


def _shares(judgments: Sequence[PairwiseJudgment]) -> dict[str, float]:
    """How the judgments depend on the order in which the answers were shown, where they were shown in both."""
    if not judgments:
        return {}
    orders = [one.orders for one in judgments if one.orders is not None]
    return {
        "consistent": fmean(float(bool(one.consistent)) for one in judgments),
        "first": fmean(fmean((float(a > 0.5), float(b < 0.5))) for a, b in orders),
    }


def _mass(judgments: Sequence[PairwiseJudgment]) -> dict[str, float]:
    """The mean probability that the judge gives to its options together, where it gives one."""
    found = [one.mass for one in judgments if one.mass is not None]
    return {"mass": fmean(found)} if found else {}


def _extra(prompt: Prompt, judge: str) -> dict[str, Any]:
    """The columns of a prompt that are still true once a judge has labelled it."""
    people = ("annotator", "group")
    return {name: value for name, value in prompt.extra.items() if name not in people} | {"judge": judge}
