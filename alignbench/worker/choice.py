"""The sampling temperature that each label is ranked at: the one that validation prompts choose."""

from __future__ import annotations

from alignbench import results, stats
from alignbench.metrics.comparison import clusters_of
from alignbench.worker.answering import TUNING
from alignbench.worker.finished import FinishedCells


def choose(finished: FinishedCells) -> dict[str, results.Choice]:
    """Return the temperature of each label, chosen over all its seeds by the tuning judge.

    It is never chosen by the prompts and by the judge that the label is then ranked with, except where the recipe
    asks for validation prompts in both roles.
    """
    return {label: _of(finished, label) for label in dict.fromkeys(cell.label for cell in finished.cells)}


def _of(finished: FinishedCells, label: str) -> results.Choice:
    evaluation = finished.session.recipe.evaluation
    cells = [cell for cell in finished.cells if cell.label == label]
    if None in finished.temperatures(cells[0]):
        return results.Choice(reason="its policy ignores the temperature")
    grid = evaluation.sampling.temperature
    if len(grid) == 1:
        return results.Choice(temperature=grid[0], reason="the recipe names one temperature")
    plain = evaluation.sampling.unscaled.temperature
    judge = finished.tuning_judge
    if judge is None:
        return results.Choice(temperature=plain, reason="no judge can choose another")
    scores = [finished.tuning_scores(cell) for cell in cells]
    prompts = finished.tuning_prompts
    tables: dict[float, stats.Table] = {}
    try:
        for one in grid if all(scores) else ():
            tables[one] = stats.tabulate([of[one] for of in scores], clusters_of(prompts))
        estimates = {one: stats.policies(table) for one, table in tables.items()}
    except stats.NotEstimableError as error:
        return results.Choice(temperature=plain, judge=judge.name, reason=f"none could be chosen: {error}")
    if not estimates:
        return results.Choice(temperature=plain, judge=judge.name, reason="there are no prompts to choose by")
    return results.Choice(
        temperature=stats.best_setting(tables),
        judge=judge.name,
        prompts=len(prompts),
        same_prompts=evaluation.split == TUNING,
        scores=tuple(
            results.TuningScore(temperature=one, score=_estimate(estimate))
            for one, estimate in estimates.items()
        ),
    )


def _estimate(one: stats.Estimate) -> results.Estimate:
    return results.Estimate(value=one.value, ci95=one.interval(), n=one.prompts)
