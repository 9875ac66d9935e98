"""The sampling temperature that each label is ranked at: the one that validation prompts choose."""

from __future__ import annotations

from alignbench import results, stats
from alignbench.evaluation.comparison import clusters_of
from alignbench.worker.finished.answering import TUNING
from alignbench.worker.finished.cells import FinishedCells


def choose(finished: FinishedCells) -> dict[str, results.Choice]:
    """Return the temperature of each label, chosen over all its seeds by the tuning judge.

    It is never chosen by the prompts and by the judge that the label is then ranked with, except where the recipe
    asks for validation prompts in both roles.
    """
    labels = list(dict.fromkeys(cell.label for cell in finished.cells))
    tables: dict[str, dict[float, stats.Table]] = {}
    fixed: dict[str, results.Choice] = {}
    for label in labels:
        found = _tables(finished, label)
        if isinstance(found, results.Choice):
            fixed[label] = found
        else:
            tables[label] = found
    chosen = stats.best_settings(tables) if tables else {}
    return {label: fixed.get(label) or _chosen(finished, chosen[label], tables[label]) for label in labels}


def _tables(finished: FinishedCells, label: str) -> dict[float, stats.Table] | results.Choice:
    """A label's scores [seeds, prompts] at each temperature, or the choice where there is none to make."""
    evaluation = finished.session.recipe.evaluation
    cells = [cell for cell in finished.cells if cell.label == label]
    if None in finished.temperatures(cells[0]):
        return results.Choice(reason="its policy ignores the temperature")
    grid = evaluation.sampling.temperature
    if len(grid) == 1:
        return results.Choice(temperature=grid[0], reason="the recipe names one temperature")
    plain, judge = evaluation.sampling.unscaled.temperature, finished.session.plan.tuning_judge
    if judge is None:
        return results.Choice(temperature=plain, reason="no judge can choose another")
    scores = [finished.tuning_scores(cell) for cell in cells]
    if not all(scores):
        return results.Choice(temperature=plain, judge=judge.name, reason="there are no prompts to choose by")
    try:
        clusters = clusters_of(finished.tuning_prompts)
        tables = {one: stats.tabulate([of[one] for of in scores], clusters) for one in grid}
        for table in tables.values():
            stats.policies(table)
    except stats.NotEstimableError as error:
        return results.Choice(temperature=plain, judge=judge.name, reason=f"none could be chosen: {error}")
    if len({table.shape for table in tables.values()}) > 1:
        return results.Choice(
            temperature=plain, judge=judge.name, reason="the judge abstained on different prompts"
        )
    return tables


def _chosen(finished: FinishedCells, temperature: float, tables: dict[float, stats.Table]) -> results.Choice:
    judge = finished.session.plan.tuning_judge
    assert judge is not None
    estimates = {one: stats.policies(table) for one, table in tables.items()}
    return results.Choice(
        temperature=temperature,
        judge=judge.name,
        prompts=len(finished.tuning_prompts),
        same_prompts=finished.session.recipe.evaluation.split == TUNING,
        scores=tuple(
            results.TuningScore(
                temperature=at,
                score=results.Estimate(value=one.value, ci95=one.interval(), n=one.prompts),
            )
            for at, one in estimates.items()
        ),
    )
