"""What `alignbench plan` reports of a recipe: the cells, what is finished, and what its metrics ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout, results, store
from alignbench.engine import environment, keys
from alignbench.engine.cells import PlannedCell
from alignbench.models.weights import child
from alignbench.models.weights.files import place_of
from alignbench.recipe.configs import make
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Model, Recipe
from alignbench.versions import versions

if TYPE_CHECKING:
    from alignbench.api.metric import Metric


def describe(plan: Plan, cell: PlannedCell) -> dict[str, Any]:
    """Return the method of a cell, where it comes from, its start, its budget and its departures."""
    row: dict[str, Any] = {"cell": str(cell), "label": cell.label, "seed": cell.seed}
    planned = plan.labels.get(cell.label)
    if planned is None:
        return {**row, "method": None, "from": None, "start": None, "budget": None, "departures": []}
    return {
        **row,
        "method": planned.method,
        "from": str(plan.source("methods", planned.method)),
        "start": planned.start if isinstance(planned.start, str) else planned.start.model_dump(),
        "budget": planned.budget.model_dump(exclude_none=True),
        "departures": [str(departure) for departure in planned.departures],
    }


def finished(plan: Plan, root: Path, out: Path, cells: tuple[PlannedCell, ...]) -> dict[PlannedCell, bool]:
    """Return for each cell whether it is finished in `out`, so that a run of this recipe keeps it."""
    files, now = environment.files(plan, root), versions()
    plan = plan.computing(environment.compute(out, plan.recipe.model, root))
    key = keys.table_key(plan, files=files, versions=now)
    data = (store.manifest(out / layout.DATA, key=key) or {}).get("content")
    contents: dict[tuple[str, int], str] = {}
    found: dict[PlannedCell, bool] = {}
    for cell in cells:
        parents = {label: contents.get((label, cell.seed), "") for label in cell.parents}
        sealed = None
        if data is not None and all(parents.values()):
            key = keys.cell_key(plan, cell, versions=now, files=files, data=data, parents=parents)
            sealed = store.manifest(cell.folder(out), key=key)
        if sealed is not None:
            contents[cell.label, cell.seed] = sealed["content"]
        found[cell] = sealed is not None
    return found


def weights(model: Model, root: Path) -> results.Model:
    """Return the shares of a base's weights that are quantised and adapted, by its configuration.

    Empty for a model that is not on this machine. Raises ModelError where the recipe's adapter asks for what the model
    does not have, UnansweredError where its configuration does not say.
    """
    where = place_of(model, root)
    if where is None:
        return results.Model()
    return results.Model(**child.weights(where, model, store.Store(store.default_root())))


def requested(recipe: Recipe, root: Path) -> list[dict[str, Any]]:
    """Return what metrics ask of every policy besides the evaluation prompts; equal requests are listed once.

    Each with the `metrics` that share it, its `prompts`, its `answers` (the most that one of them takes) and
    `max tokens` of all of them, None where a metric words its questions only while it measures.
    """
    found: dict[str, dict[str, Any]] = {}
    for named in recipe.evaluation.metrics:
        metric: Metric = make("metrics", named.name, named.config)
        requests = metric.requests(root)
        parts = [
            (one.key, len(one.prompts), len(one.prompts) * one.samples, one.sampling.max_new_tokens)
            for one in requests
        ]
        if not parts and (count := metric.answers(root)):
            parts = [(named.name, count, count, None)]
        for key, prompts, answers, longest in parts:
            one = found.setdefault(key, {"metrics": [], "prompts": prompts, "answers": 0, "max tokens": 0})
            one["metrics"] = list(dict.fromkeys([*one["metrics"], named.name]))
            one["answers"] = max(one["answers"], answers)
            one["max tokens"] = None if longest is None else one["answers"] * longest
    return list(found.values())
