"""Reads every row that a recipe names, and keeps few: what is wrong with them is known before a run."""

from __future__ import annotations

import math
from pathlib import Path

from alignbench import plugins
from alignbench.api.config import Split
from alignbench.api.data import RowFilter
from alignbench.data.checks import counts, judged, lengths, overlap
from alignbench.data.pool import Pool, gather
from alignbench.data.prepare import fit_all
from alignbench.data.tokens import check_vocabulary, context, load_tokenizer
from alignbench.errors import DataError, Problem
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Data, Recipe
from alignbench.rows import Row

SAMPLE = 2048
"""Training rows whose tokens are counted. Of a larger file the check reads only these, and has a margin."""


def survey(recipe: Recipe, root: Path) -> Pool:
    """Return what there is to read, after the filters that need no model, without a token; files are read whole.

    Raises DataError with the bad rows of all sources, each with file and line; or where they leave too few
    rows for a split, whatever the other filters and the lengths take of them, or prompts that a judge cannot read.
    """
    few = _few(recipe)
    pool, problems, total = Pool(), list[Problem](), 0
    try:
        pool = gather(few, root, _quiet)
    except DataError as error:
        problems, total = [*error.problems], error.total
    named = recipe.data.pretraining
    if named is not None:
        source = open_source(named, root)
        try:
            for _ in source.texts("train", few.data.limit, recipe.data.split.seed):
                pass
        except DataError as error:
            problems, total = [*problems, *error.problems], total + error.total
    if total:
        raise DataError(problems, total=total)
    counts(pool, pool.rows, few)
    judged(pool.rows, recipe.evaluation)
    return pool


def check_tokenizer(recipe: Recipe, root: Path, pool: Pool) -> None:
    """Put the tokenizer, its template and the lengths to the test on the rows of `survey`; reads no weights.

    Raises what preparing raises, in the same words where `SAMPLE` holds all rows.
    """
    tokenizer, context_length = load_tokenizer(recipe.model, root), context(recipe.model, root)
    check_vocabulary(tokenizer, recipe.model, root)
    few, rows = _few(recipe), sum(map(len, pool.rows.values()))
    filtered = few.data.filters == recipe.data.filters
    data = recipe.data
    if rows < pool.usable:
        margin = 3 * math.sqrt(data.allowed_drop * (1 - data.allowed_drop) / rows)
        data = few.data.model_copy(update={"allowed_drop": min(data.allowed_drop + margin, 1.0)})
    recipe = recipe.model_copy(update={"data": data})
    parts = fit_all(recipe, pool, tokenizer, context_length, _quiet)
    kept: dict[Split, list[Row]] = {split: part.kept for split, part in parts.items()}
    if filtered:  # the rows that another filter drops may be those that do not fit
        lengths(parts.values(), data, context_length)
    counts(pool, kept, recipe)
    overlap(kept, data)


def _few(recipe: Recipe) -> Recipe:
    """Return the recipe with a limit, and with those filters that need no model."""
    data = recipe.data
    most = max(SAMPLE, 2 * recipe.training.batch)
    limit = most if data.limit is None else min(data.limit, most)
    filters = [one for one in data.filters if plugins.load("filters", one.name).open is RowFilter.open]
    few: Data = data.model_copy(update={"limit": limit, "filters": filters})
    return recipe.model_copy(update={"data": few})


def _quiet(what: str, count: int) -> None:
    """Report no progress."""
