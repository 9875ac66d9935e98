"""Reads every row that a recipe names, and keeps none: what is wrong with them is known before a run."""

from __future__ import annotations

from pathlib import Path

from alignbench.data.checks import counts
from alignbench.data.pool import Pool, gather
from alignbench.errors import DataError, Problem
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Recipe


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
