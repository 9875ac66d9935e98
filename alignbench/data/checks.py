"""What must hold of a table before anything is trained on it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from alignbench.api.config import NamedReward, Split
from alignbench.api.judge import Judge
from alignbench.api.method import Method
from alignbench.api.reward import Reward
from alignbench.data.fidelity import SPECIAL, WORDS
from alignbench.data.near import near_duplicates
from alignbench.data.pool import SPLITS, Pool
from alignbench.data.split import prompt_key
from alignbench.errors import AlignbenchError, DataError, ModelError
from alignbench.recipe.configs import build, built_on, group_of, make
from alignbench.recipe.plan import LabelPlan, Plan
from alignbench.recipe.schema import COMPARISONS, CONVERSATION, PROMPT, Data, Evaluation, Recipe
from alignbench.rows import Prompt, Row, Text, derive


@dataclass
class SplitRows:
    """One split after tokenisation: the rows that fit, and why others do not."""

    kept: list[Row] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    """Of every row that has token ids, kept or not."""

    def record(self) -> dict[str, Any]:
        """Return the record of this split."""
        return {
            "kept": len(self.kept),
            "dropped": dict(sorted(self.dropped.items())),
            "lengths": {f"p{part}": quantile(self.lengths, part / 100) for part in (50, 75, 90, 95, 99, 100)},
        }


def lengths(parts: Iterable[SplitRows], data: Data, context_length: int | None) -> None:
    """Raise where more rows do not fit than `allowed_drop` lets, with the lengths that would keep them.

    It is a ModelError where the chat template or the tokenizer is at fault, else a DataError.
    """
    parts = list(parts)
    dropped = sum((part.dropped for part in parts), Counter[str]())
    rows = dropped.total() + sum(len(part.kept) for part in parts)
    if dropped.total() <= data.allowed_drop * rows:
        return
    share = dropped.total() / rows
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3))
    what = f"{dropped.total()} of {rows} rows ({share:.0%}) cannot be used: {reasons}"
    known = [length for part in parts for length in part.lengths]
    unwritten = Counter({reason: count for reason, count in dropped.items() if "longer than" not in reason})
    if not known or unwritten.total() > data.allowed_drop * rows:
        kind, fix = _fix(unwritten.most_common(1)[0][0])
        raise kind(what, fix)
    shown = ", ".join(f"{part:.0%} have at most {quantile(known, part)}" for part in (0.5, 0.9, 0.99, 1.0))
    candidates = {math.ceil(quantile(known, part) / 16) * 16 for part in (0.5, 0.75, 0.9, 0.95, 1.0)}
    offers = {
        length: sum(one <= length for one in known)
        for length in {min(length, context_length or length) for length in candidates}
    }
    better = {length: fits for length, fits in sorted(offers.items()) if fits > rows - dropped.total()}
    keeps = ", ".join(f"{length} keeps {fits / rows:.0%}" for length, fits in better.items())
    limit = f" (the model's context is {context_length})" if context_length else ""
    allowing = f"data.allowed_drop: {math.ceil(share * 100) / 100}"
    fix = f"set data.max_length{limit}: {keeps}; or {allowing}"
    if not better:
        fix = f"no data.max_length keeps more{limit}; leave the rows out, or set {allowing}"
    raise DataError(f"{what}. Tokens of a row: {shown}", fix)


def _fix(reason: str) -> tuple[type[AlignbenchError], str]:
    """Return the kind of error, and the fix, where a reason keeps rows from having token ids."""
    if "the chat template" in reason:
        return ModelError, "set model.chat_template to a template that keeps these conversations whole"
    if reason.startswith((SPECIAL, WORDS)):
        return DataError, "take it out of the texts: the chat template writes it where it belongs"
    if "equal token ids" in reason:
        return DataError, "leave these rows out: the chat template writes their answers alike"
    return ModelError, "use the tokenizer that the model was trained with"


def counts(pool: Pool, kept: dict[Split, list[Row]], recipe: Recipe) -> None:
    """Raise DataError where too few rows are left to train one batch, to follow it, or to evaluate at all."""
    data, batch = recipe.data, recipe.training.batch
    if len(kept["train"]) < batch:
        _too_few(pool, "train", len(kept["train"]), batch, "one batch (training.batch)", data)
    if recipe.evaluation.curve is not None and len(kept["validation"]) < 2:
        _too_few(pool, "validation", len(kept["validation"]), 2, "evaluation.curve", data)
    if len(kept["test"]) < 2:
        _too_few(pool, "test", len(kept["test"]), 2, "an evaluation", data)


def _too_few(pool: Pool, split: Split, there: int, least: int, use: str, data: Data) -> None:
    shares = data.split
    share = 1 - shares.validation - shares.test
    if split != "train":
        share = getattr(shares, split) if getattr(data, split) is None else 1.0
    lost = pool.dropped.copy()
    for one in pool.filters:
        dropped = {reason: count for reason, count in one["counts"].items() if reason.startswith("dropped")}
        lost.update({f"{one['name']} {reason}": count for reason, count in dropped.items()})
    why = f" ({', '.join(f'{count} {reason}' for reason, count in lost.most_common(5))})" if lost else ""
    what = f"{pool.read} rows were read{why} and {there} are left for {split}"
    if share <= 0:
        raise DataError(what, f"give data.split.{split} a share, or name a source in data.{split}")
    wanted = math.ceil(least / share)
    fix = f"{use} needs at least {least}, so about {wanted} rows in all"
    if pool.read - lost.total() < wanted <= pool.read:
        fix = f"{use} needs at least {least}: correct the rows that were dropped"
    if pool.read - lost.total() >= wanted:
        fix += f"; rows of one {shares.by} stay together, so more of those, or a source in data.{split}"
        if shares.by not in (CONVERSATION, PROMPT):
            fix += f", or data.split.by: {CONVERSATION}"
    raise DataError(what, fix)


def overlap(kept: dict[Split, list[Row]], data: Data) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many prompts of the other splits occur in the training rows too, and how many nearly do.

    Raises DataError where one of the test split occurs, unless `allow_overlap` lets it.
    """
    prompts = {
        split: {prompt_key(row.prompt): row for row in rows if isinstance(row, Prompt)}
        for split, rows in kept.items()
    }
    both = {split: [key for key in prompts[split] if key in prompts["train"]] for split in SPLITS[1:]}
    if both["test"] and not data.allow_overlap:
        first = both["test"][0]
        raise DataError(
            f"{len(both['test'])} of {len(prompts['test'])} test prompts occur in the training rows too; "
            f"row {prompts['test'][first].id} asks what row {prompts['train'][first].id} asks",
            f"divide by conversation (data.split.by: {CONVERSATION}), name another data.test, "
            "or set data.allow_overlap",
        )
    training = [row.prompt for row in prompts["train"].values()]
    near = {
        split: near_duplicates([row.prompt for row in prompts[split].values()], training) for split in both
    }
    return {split: len(keys) for split, keys in both.items()}, near


def judged(kept: dict[Split, list[Row]], evaluation: Evaluation) -> None:
    """Raise where a judge of the evaluation cannot judge answers to the prompts that it will be asked about."""
    asked: dict[Split, int] = {evaluation.split: evaluation.prompts}
    if evaluation.chooses:
        asked.setdefault("validation", evaluation.tuning_prompts)
    rows = [one for split, count in asked.items() for one in kept[split][:count]]
    prompts = [derive(one, Prompt, seed=0)[0] for one in rows if isinstance(one, Prompt)]
    for named in evaluation.judges:
        kind, config = build("judges", named.name, named.config)
        kind.check_prompts(config, prompts)


def learnt_from(read: Callable[[], Iterable[Row]], plan: Plan, labels: Collection[str]) -> None:
    """Raise, with its label, where a method, or a judge or a reward that it names, can do nothing with the rows.

    The training rows are `read` only where one of the labels has something to say of them.
    """
    asked = {label: _asked(plan.labels[label]) for label in plan.labels if label in labels}
    rows = list(read()) if any(asked.values()) else []
    prompts = [derive(one, Prompt, seed=0)[0] for one in rows if isinstance(one, Prompt)]
    for label, checks in asked.items():
        try:
            for view, check in checks:
                check(prompts if view is None else [one for row in rows for one in derive(row, view, seed=0)])
        except AlignbenchError as error:
            raise type(error)([replace(one, field=f"methods.{label}") for one in error.problems]) from error


def _asked(label: LabelPlan) -> list[tuple[type[Row] | None, Callable[[Any], object]]]:
    """Return what checks the rows of a label, each with the view that it reads; None: the prompts."""
    method = make("methods", label.method, label.config)
    made_later = (Text, *COMPARISONS) if label.comparisons else (Text,)
    found: list[tuple[type[Row] | None, Callable[[Any], object]]] = []
    if type(method).check_rows is not Method.check_rows:
        found += [(view, method.check_rows) for view in method.reads() if view not in made_later]
    rewards = [one for one in built_on(label.method, label.config) if isinstance(one, NamedReward)]
    for one in (*label.judges, *rewards):
        kind, config = build(group_of(one), one.name, one.config)
        if kind.check_prompts.__func__ not in (Judge.check_prompts.__func__, Reward.check_prompts.__func__):
            found.append((None, partial(kind.check_prompts, config)))
    return found


def quantile(values: list[int], share: float) -> int:
    """Return the smallest value that at least `share` of the values do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else 0
