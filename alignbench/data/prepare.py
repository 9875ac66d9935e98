"""Makes the one table of a run: its rows tokenised once, dropped by length once, checked, and written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout
from alignbench.api.config import Split
from alignbench.data import checks
from alignbench.data.checks import SplitRows
from alignbench.data.noise import flip
from alignbench.data.pool import CHUNK, SPLITS, Pool, Progress, ample, answered, gather, wanted
from alignbench.data.split import split_of
from alignbench.data.table import digest_of, write_rows
from alignbench.data.tokens import check_vocabulary, context, ending, fingerprint, load_tokenizer, tokenise
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Recipe
from alignbench.rows import Prompt, Row, Sequence, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SCHEMA = 1


def prepare(
    recipe: Recipe, folder: Path, *, root: Path, progress: Progress | None = None, models: Any = None
) -> None:
    """Write the recipe's table to `folder`: a Parquet file for each split, and `record.json`.

    A row is kept or dropped as a whole, whichever of its answers is at fault, so that every method sees the
    same rows. Raises DataError where rows are bad, too few or too long, or where test prompts occur in the
    training rows, and ModelError where the chat template cannot be used.
    Law: equal recipe, data, tokenizer and versions give equal bytes.
    """
    report = progress or (lambda what, count: None)
    tokenizer, context_length = load_tokenizer(recipe.model, root), context(recipe.model, root)
    check_vocabulary(tokenizer, recipe.model, root)
    pool = gather(recipe, root, report, models)
    parts = fit_all(recipe, pool, tokenizer, context_length, report)
    kept: dict[Split, list[Row]] = {split: part.kept for split, part in parts.items()}
    kept["train"], turned = flip(kept["train"], recipe.data.noise, recipe.data.split.seed)
    checks.lengths(parts.values(), recipe.data, context_length)
    checks.counts(pool, kept, recipe)
    checks.judged(kept, recipe.evaluation)
    overlap, near = checks.overlap(kept, recipe.data)
    texts, about_texts = read_texts(recipe, root, tokenizer, context_length, report)

    record = {
        "schema": SCHEMA,
        "view": pool.view.__name__,
        "sources": pool.sources,
        "read": pool.read,
        "dropped": dict(sorted(pool.dropped.items())),
        "filters": pool.filters,
        "duplicate_rows": pool.duplicates,
        "conflicting_labels": pool.conflicts,
        "overlap": overlap,
        "near_duplicates": near,
        "labels_turned": turned,
        "splits": {split: part.record() for split, part in parts.items()},
        "max_length": recipe.data.max_length,
        "context": context_length,
        "end_of_turn": {"token": tokenizer.eos_token, "id": tokenizer.eos_token_id},
        "pretraining": about_texts,
        "fingerprints": {
            "rows": {split: digest_of(row.id for row in rows) for split, rows in kept.items()},
            "tokens": {split: digest_of(map(_ids, rows)) for split, rows in kept.items()},
            "template": sha256(str(tokenizer.chat_template).encode()).hexdigest(),
            "tokenizer": fingerprint(tokenizer),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in kept.items():
        write_rows(folder / layout.rows_file(split), rows, pool.view)
    for split, rows in texts.items():
        write_rows(folder / layout.texts_file(split), rows, Text)
    text = json.dumps(record, indent=2, sort_keys=True)
    (folder / layout.RECORD).write_text(text + "\n", encoding="utf-8")


def fit_all(
    recipe: Recipe,
    pool: Pool,
    tokenizer: PreTrainedTokenizerFast,
    context_length: int | None,
    report: Progress,
) -> dict[Split, SplitRows]:
    """Tokenise the rows of every split until as many fit as the recipe wants."""
    parts: dict[Split, SplitRows] = {}
    for split in SPLITS:
        parts[split] = fit(
            pool.rows[split],
            wanted(recipe, split),
            tokenizer,
            longest=recipe.data.max_length,
            context_length=context_length,
            answer=answered(recipe, split),
            report=report,
        )
    return parts


def fit(
    rows: list[Row],
    most: int | None,
    tokenizer: PreTrainedTokenizerFast,
    *,
    longest: int,
    context_length: int | None,
    answer: int,
    report: Progress,
) -> SplitRows:
    """Tokenise rows in their order until `most` of them fit.

    A row fits that has at most `longest` tokens, and for which the model's context suffices: for the row, and
    for the prompt with a generated answer of `answer` tokens.
    """
    part, end, start = SplitRows(), ending(tokenizer), 0
    while start < len(rows) and (most is None or len(part.kept) < most):
        count = CHUNK if most is None else min(CHUNK, max(most - len(part.kept), 32))
        for row in tokenise(rows[start : start + count], tokenizer, end):
            if isinstance(row, str):
                part.dropped[row] += 1
                continue
            part.lengths.append(row.length)
            if row.length > longest:
                part.dropped["longer than max_length"] += 1
            elif context_length is not None and max(row.length, _asked(row) + answer) > context_length:
                part.dropped["longer than the model's context"] += 1
            else:
                part.kept.append(row)
        start += count
        report("tokenising rows", start)
    part.kept = part.kept[:most]
    return part


def read_texts(
    recipe: Recipe,
    root: Path,
    tokenizer: PreTrainedTokenizerFast,
    context_length: int | None,
    report: Progress,
) -> tuple[dict[Split, list[Row]], dict[str, Any]]:
    """Return the pretraining text in pieces of at most `max_length` tokens, and its part of the record."""
    named, shares = recipe.data.pretraining, recipe.data.split
    if named is None:
        return {}, {}
    source, end = open_source(named, root), ending(tokenizer)
    longest = min(recipe.data.max_length, context_length or recipe.data.max_length)
    pieces: dict[Split, list[Row]] = {"train": [], "test": []}
    documents: Counter[str] = Counter()
    for split in ("train", "test") if source.owns_splits else ("train",):
        found = list(source.texts(split, ample(recipe, split), shares.seed))
        report("tokenising pretraining text", len(found))
        for row in tokenise(found, tokenizer, end):
            assert isinstance(row, Text)
            goal: Split = split
            if not source.owns_splits and split_of(row, shares) == "test":
                goal = "test"
            documents[goal] += 1
            pieces[goal].extend(_cut(row, longest))
    facts = {
        "source": {"name": named.name, **source.facts},
        "documents": dict(sorted(documents.items())),
        "pieces": {split: len(rows) for split, rows in pieces.items()},
        "tokens": {split: sum(row.length for row in rows) for split, rows in pieces.items()},
        "fingerprint": digest_of(_ids(row) for rows in pieces.values() for row in rows),
    }
    return pieces, facts


def _cut(text: Text, longest: int) -> Iterator[Text]:
    for number, start in enumerate(range(0, len(text.ids), longest)):
        ids = text.ids[start : start + longest]
        if len(ids) > 1:  # one token alone has nothing to be predicted
            id = text.id if len(text.ids) <= longest else f"{text.id}/{number}"
            yield replace(text, id=id, ids=ids, length=len(ids))


def _asked(row: Row) -> int:
    """The tokens of a row's prompt."""
    return len(row.prompt_ids) if isinstance(row, Prompt) else 0


def _ids(row: Row) -> list[Any]:
    if isinstance(row, Text):
        return list(row.ids)
    sequences: tuple[Sequence, ...] = getattr(row, "sequences", tuple)()
    prompt = row.prompt_ids if isinstance(row, Prompt) else ()
    return [list(prompt), [list(sequence.response) for sequence in sequences]]
