"""Reads every row that a recipe names, and keeps none: what is wrong with them is known before a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.data.checks import Part, counts, lengths
from alignbench.data.pool import Pool, gather
from alignbench.data.tokens import Ending, check_vocabulary, ending, load_tokenizer, tokenise
from alignbench.errors import DataError, Problem
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Recipe
from alignbench.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def survey(recipe: Recipe, root: Path) -> Pool:
    """Return what there is to read, before filters and without a token; files are read whole.

    Raises DataError with the bad rows of all sources, each with file and line; or where they leave too few
    rows for a split, whatever the filters and the lengths take of them.
    """
    few = recipe.data.model_copy(update={"limit": recipe.training.batch, "filters": []})
    pool, problems, total = Pool(), list[Problem](), 0
    try:
        pool = gather(recipe.model_copy(update={"data": few}), root, lambda what, count: None)
    except DataError as error:
        problems, total = [*error.problems], error.total
    named = recipe.data.pretraining
    if named is not None:
        source = open_source(named, root)
        try:
            for _ in source.texts("train", few.limit, few.split.seed):
                pass
        except DataError as error:
            problems, total = [*problems, *error.problems], total + error.total
    if total:
        raise DataError(problems, total=total)
    counts(pool, pool.rows, recipe)
    return pool


def check_tokenizer(recipe: Recipe, root: Path, pool: Pool) -> None:
    """Put the tokenizer and its template to the test on the rows that `survey` kept; reads no weights.

    Raises ModelError where preparing would refuse them whatever the other rows are.
    """
    tokenizer = load_tokenizer(recipe.model, root)
    check_vocabulary(tokenizer, recipe.model, root)
    end = ending(tokenizer)
    parts = [Part(dropped=Counter(_refused(rows, tokenizer, end))) for rows in pool.rows.values()]
    if sum(part.dropped.total() for part in parts) == sum(map(len, pool.rows.values())):
        lengths(parts, recipe.data, None)


def _refused(rows: list[Row], tokenizer: PreTrainedTokenizerFast, end: Ending) -> list[str]:
    return [row for row in tokenise(rows, tokenizer, end) if isinstance(row, str)]
