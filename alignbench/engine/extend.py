"""More seeds for a finished run: a new run of the same recipe takes the rows and cells of the earlier one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from alignbench import layout, store
from alignbench.engine import keys, tuning
from alignbench.engine.cells import PlannedCell
from alignbench.errors import Problem, RecipeError
from alignbench.recipe.schema import Loaded, Recipe, canonical


def extend(earlier: Path, out: Path, loaded: Loaded, cells: Iterable[PlannedCell]) -> int:
    """Give the new run in `out` the rows of the run in `earlier`, and those of `cells` that are sealed there, with what
    was measured of them; return how many cells.

    The recipes may differ in their seeds and in how answers are compared, in nothing that a cell depends on: a
    cell is keyed by its inputs, and one of other inputs would run again. The environments of the earlier run stay
    in the record. What `out` has is kept. Raises RecipeError where the recipes differ in more.
    """
    if tuning.labels(loaded.recipe):
        loaded = tuning.chosen(loaded, earlier / layout.SWEEP)
    text = (earlier / layout.RECIPE).read_text(encoding="utf-8")
    before, now = json.loads(text), json.loads(canonical(loaded.recipe))
    if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        others = [name for name in changed if name not in ("seeds", "evaluation")]
        if others or keys.asked_of_cells(Recipe.model_validate_json(text)) != keys.asked_of_cells(
            loaded.recipe
        ):
            raise RecipeError(
                Problem(
                    f"{earlier} is a run of another recipe: {', '.join(others) or 'evaluation'} differs",
                    "extend a run by seeds only",
                    file=str(loaded.path),
                )
            )
    taken = 0
    cells = list(cells)
    measured = [layout.measurements_folder(earlier, one.label, one.seed) for one in cells]
    for source in (earlier / layout.DATA, *(one.folder(earlier) for one in cells), *measured):
        target = out / source.relative_to(earlier)
        if not (target / store.COMMIT).exists() and store.manifest(source) is not None:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
            taken += source.relative_to(earlier).parts[0] == layout.CELLS
    if (earlier / layout.SWEEP).is_dir() and not (out / layout.SWEEP).exists():
        shutil.copytree(earlier / layout.SWEEP, out / layout.SWEEP)
    if not (out / layout.ENVIRONMENT).exists():
        shutil.copy2(earlier / layout.ENVIRONMENT, out / layout.ENVIRONMENT)
        store.write_text(out / layout.RECIPE_TEXT, loaded.text)
        store.write_text(out / layout.RECIPE, canonical(loaded.recipe) + "\n")
    return taken
