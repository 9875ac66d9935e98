"""A stage: an installed method that another runs by name, with a ledger of its own that becomes its caller's."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from alignbench import layout, plugins
from alignbench.api.config import Budget
from alignbench.api.method import Run
from alignbench.api.policy import Policy
from alignbench.errors import PluginError
from alignbench.recipe.schema import BASE
from alignbench.rows import Prompt, Row
from alignbench.worker.run import arguments, learning_curve
from alignbench.worker.run.policy_io import load_method, save_policy
from alignbench.worker.run.shared import content, row_content, shared

if TYPE_CHECKING:
    from alignbench.worker.run.cell_state import CellState


def stage(
    run: CellState,
    method: str,
    *,
    rows: Many[Row] | None = None,
    start: Policy | None = None,
    budget: Budget | None = None,
    **config: Any,
) -> Policy:
    """Return the policy of the method `method`; see `alignbench.api.method.Run.stage`."""
    arguments.stage(method)
    try:
        made = load_method(method, config)
    except ValidationError as error:
        raise arguments.wrong_fields(method, error) from None
    settings = made.config.model_dump(mode="json")
    found = plugins.find("methods", method)
    begin = run.start if start is None else start
    given = None if rows is None else run.declared(rows)
    epochs = _epochs(run, given)
    budget = _budget(run, budget, epochs)
    curve = run.session.recipe.evaluation.curve

    def align(folder: Path) -> None:
        inner = type(run)(
            run.session,
            label=f"{run.label}.{method}",
            seed=run.seed,
            method=method,
            start=begin,
            folder=folder,
            budget=budget,
            training=run.training,
            rows=given,
            comparisons=run.comparisons,
            scope=run.scope,
            ledger=run.ledger,
        )
        with inner.meter.charging():
            policy = made.align(cast(Run, inner))
        if any(one is policy for one in inner.additional):
            raise PluginError(
                f"'{method}' returned a policy that was trained outside the budget",
                "train it without `budget`",
            )
        inner.weights.audit(policy, inner.start, inner.label, inner.ledger)
        save_policy(policy, folder / layout.POLICY, method=method, config=settings, start=BASE)

    folder = shared(
        run,
        align,
        {
            "stage": method,
            "seed": run.seed,
            "config": settings,
            "plugin": [str(found), plugins.source_digest(found)],
            "start": content(begin),
            "rows": None if given is None else [row_content(row) for row in given],
            "budget": budget.model_dump(),
            "training": run.training.model_dump(),
            "samplings": [one.model_dump() for one in run.samplings],
            "comparisons": run.comparisons.model_dump() if run.comparisons and given is None else None,
            **({"curve": curve.model_dump()} if curve is not None else {}),
        },
        epochs=epochs,
    )
    _copy_curves(run, folder)
    return run.restored(folder / layout.POLICY, run.label)


def _epochs(run: CellState, given: Many[Row] | None) -> float:
    """How many epochs of the run one over `given` rows counts: epochs count different prompts."""
    if given is None:
        return 1.0
    prompts = {row.prompt_ids for row in given if isinstance(row, Prompt)}
    return min(1.0, len(prompts) / max(1, run.size))


def _budget(run: CellState, asked: Budget | None, epochs: float) -> Budget:
    """Return what a stage may spend. Raises PluginError where it asks for more than is left."""
    whole, left = run.budget, run.left
    if left <= 0:
        raise nothing_left(run)
    share = epochs if whole.unit == "epochs" else 1.0
    if asked is None:
        if not run.drawn(whole.unit):
            return whole
        amount = min(whole.amount, left / max(share, 1e-12))
        return whole.of(amount)
    if asked.unit != whole.unit:
        raise PluginError(
            f"a stage of '{run.label}' asks for {asked}, and the run counts in {whole.unit}",
            "give it a part of the run's budget: run.budget.part(share)",
        )
    if whole.unit == "seconds":  # the clock has gone on since the method read what is left
        return whole.of(min(asked.amount, left))
    if asked.amount * share > left * (1 + 1e-9):
        raise PluginError(
            f"a stage of '{run.label}' asks for {asked}, and {left:g} of {whole} are left",
            "give it a part of what is left: run.budget.of(share * run.left)",
        )
    return asked


def nothing_left(run: CellState) -> PluginError:
    """Return the error of a training for which nothing is left."""
    return PluginError(
        f"'{run.label}' has spent its budget of {run.budget}, and trains again",
        "give each training or stage a part of it, or a `budget` of its own",
    )


def _copy_curves(run: CellState, folder: Path) -> None:
    """Add a stage's curves and evaluations to the run's, behind its last step."""
    learning_curve.add(run.folder, learning_curve.read(folder))
    curves, before = folder / layout.TRAINING_LOG, run.logged
    for line in curves.read_text(encoding="utf-8").splitlines() if curves.exists() else ():
        point = json.loads(line)
        run.log(before + point.pop("step"), **point)
