"""One training of a run: what it may spend, what follows it on the way, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignbench import layout, plugins
from alignbench.api.config import TOTALS, Budget, Select
from alignbench.api.method import LossFn, Rows, Run, ScoreFn
from alignbench.api.policy import Policy
from alignbench.errors import AlignbenchError, PluginError
from alignbench.rows import Row
from alignbench.worker.run import arguments, learning_curve
from alignbench.worker.run.cell_state import CellState, add_point
from alignbench.worker.run.checkpoint_selection import Selection
from alignbench.worker.run.resume import rows_digest
from alignbench.worker.run.row_origins import MADE, UNDECLARED
from alignbench.worker.run.stages import nothing_left

if TYPE_CHECKING:
    from torch.nn import Module

    from alignbench.models import ModelPolicy
    from alignbench.training.budget import Spent
    from alignbench.training.trainer import TrainingResult


def train(
    run: CellState,
    policy: Policy,
    batches: Rows[Any] | Callable[[int], list[Any]],
    sequences: ScoreFn[Any],
    loss: LossFn[Any],
    *,
    learning_rate: float,
    modules: Mapping[str, Module] | None = None,
    learning_rates: Mapping[Any, float] | None = None,
    repeats: int = 1,
    select: Select | None = None,
    state: MutableMapping[str, Any] | None = None,
    proxy: learning_curve.Proxy | None = None,
    before_step: Callable[[list[Any]], None] | None = None,
    budget: Budget | None = None,
    limit: Budget | None = None,
) -> None:
    """Train `policy`; see `alignbench.api.method.Run.train`."""
    from alignbench.training.trainer import Trainer

    arguments.batches(batches)
    if not modules and not any(one.parameters() for one in (cast("ModelPolicy", policy), *run.adapted)):
        raise PluginError("run.train got a policy without trainable weights", "train what run.adapt returns")
    additional = budget is not None
    if additional:
        run.additional.append(policy)
    if not additional and run.left <= 0:
        raise nothing_left(run)
    allowed, spent, size = _account(run, batches, budget)
    begun = {unit: run.drawn(unit) if additional else 0 for unit in TOTALS}
    if additional and limit is None and run.budget.unit in TOTALS and allowed.unit != run.budget.unit:
        limit = run.budget.of(run.left)

    def totals() -> dict[str, float]:
        return {unit: run.drawn(unit) - before for unit, before in begun.items()}

    curves = _curves(run, additional)
    selection = followed = None
    if select is not None:
        state = {} if state is None else state
        selection = Selection(cast(Run, run), policy, select, state)
    curve = run.session.recipe.evaluation.curve
    if curve is not None and not additional:
        state = {} if state is None else state
        followed = learning_curve.Evaluations(run, policy, curve, state, proxy)
        followed.on_step_end(0, 0.0)

    def on_step_end(step: int, progress: float) -> float:
        run.progress = progress
        if selection is not None:
            selection.on_step_end(step, progress)
        return 0.0 if followed is None else followed.on_step_end(step, progress)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        if additional:
            add_point(curves, step, numbers)
        else:
            run.log(step, **numbers)

    run.ledger.end_reading()
    usage = Usage(run, sequences, loss, before_step)
    inputs = {
        "rows": None if callable(batches) else rows_digest(batches),
        "budget": allowed.model_dump(),
        "limit": None if limit is None else limit.model_dump(),
        "training": run.training.model_dump(),
        "learning_rates": [learning_rate, *(learning_rates or {}).values()],
        "modules": sorted(modules or {}),
    }
    with run.weights.training(cast("ModelPolicy", policy), run.ledger):
        result = Trainer(
            policy,  # pyright: ignore[reportArgumentType]
            batches,  # pyright: ignore[reportArgumentType]
            usage.sequences,
            usage.loss,
            learning_rate=learning_rate,
            training=run.training,
            budget=allowed,
            seed=run.number("order"),
            modules=modules,
            learning_rates=learning_rates,
            repeats=repeats,
            state=state,
            before_step=usage.before_step,
            log=log,
            on_step_end=on_step_end,
            spent=spent,
            totals=totals,
            limit=limit,
            known=run.origins.knows,
            checkpoints=run.scope.checkpoints(
                run.ledger, run.meter, curves, inputs, every=run.session.task.every
            ),
            moving=[one for one in run.adapted if one.adapter is not None],
        ).run()
        if not result.steps and (allowed.unit in TOTALS or limit is not None) and run.budget.unit in TOTALS:
            raise nothing_left(run)
        if result.blown_up:
            text = f"a training blew up: {result.blown_up}; lower the learning rate of {learning_rate:g}"
            run.record.warning("blow-up", result.steps, text)
        _charge(run, result, size, additional, allowed)
        if not additional:
            _beside(run, result, learning_rate, modules or {}, learning_rates or {})
        if selection is not None:
            selection.restore_best()
    if followed is not None:
        followed.write()


class Usage:
    """Notes which rows and comparisons enter a loss, around the functions of the method that make it."""

    def __init__(
        self,
        run: CellState,
        sequences: Callable[..., Any],
        loss: Callable[..., Any],
        before_step: Callable[[list[Any]], None] | None,
    ):
        self._run, self._sequences, self._loss, self._before_step = run, sequences, loss, before_step
        self._groups: Mapping[str, Any] = {}

    def before_step(self, rows: list[Any]) -> None:
        """Note the comparisons of a whole step: a micro-batch may have one of two views of a row."""
        for who, comparison in self._run.origins.compared(rows):
            self._run.ledger.reading.setdefault(who, set()).add(comparison)
        if self._before_step is not None:
            self._before_step(rows)

    def sequences(self, rows: list[Any]) -> Mapping[str, Any]:
        """Return what the method scores; the trainer calls its loss with the last."""
        with plugins.naming_row(rows, lambda place: self._sequences([rows[place]])):
            self._groups = arguments.groups(self._sequences(rows))
        return self._groups

    def loss(self, scores: Any, rows: list[Any]) -> Any:
        """Note the rows, and return the method's loss."""
        try:
            made = arguments.loss(self._loss(scores, rows))
        except AlignbenchError:
            raise
        except Exception as error:
            error.add_note(plugins.one_of(rows))
            raise
        origins = self._run.origins
        found = [origins.of_row(row) for row in rows if isinstance(row, Row)]
        groups = (getattr(group, "items", group) for group in self._groups.values())
        scored = [one for group in groups for one in group]
        if len(found) < len(rows):  # an on-policy method scores what it drew: its prompts count
            found += [origin for one in scored for origin in origins.of_sequence(one)]
        elif rows and all(hasattr(row, "sequences") for row in rows):
            known = {one.prompt + one.response for row in rows for one in row.sequences()}
            found += [(UNDECLARED, "") for one in scored if not _part(one.prompt + one.response, known)]
        learned = self._run.ledger.learned
        for origin, id in found:
            learned.setdefault(origin, set()).add(id)
            if origin == UNDECLARED:
                self._run.record.departure("trained on rows that it did not declare")
            elif origin not in ("train", MADE):
                self._run.record.departure(f"trained on {origin} rows")
        return made


def _part(ids: tuple[int, ...], known: set[tuple[int, ...]]) -> bool:
    """Whether a scored sequence is one of the rows', as it stands or with its end cut or added."""
    return ids in known or ids[:-1] in known or any(one[:-1] == ids for one in known)


def _account(run: CellState, batches: Any, additional: Budget | None) -> tuple[Budget, Spent, int]:
    """Return what a training may spend, what is spent of it already, and the rows of its epoch."""
    from alignbench.training import batches as order
    from alignbench.training.budget import Spent

    budget = run.budget if additional is None else additional
    size = run.size if callable(batches) else order.size(batches)
    drawn = {unit: 0 if additional else run.drawn(unit) for unit in ("rows", "steps", *TOTALS)}
    spent = Spent(**{**drawn, "steps": int(drawn["steps"])})
    if budget.epochs is not None:
        spent.rows = 0 if additional else round(run.drawn("epochs") * size, 6)
        if callable(batches):
            budget = Budget(rows=max(1, round(budget.epochs * size)), scope=budget.scope)
    return budget, spent, size


def _curves(run: CellState, additional: bool) -> Path:
    """Where a training's numbers go: an additional one has a file of its own."""
    if not additional:
        return run.curves
    return (run.building or run.folder) / layout.training_log(run.scope.trainings)


def _beside(
    run: CellState,
    result: TrainingResult,
    learning_rate: float,
    modules: Mapping[str, Module],
    learning_rates: Mapping[Any, float],
) -> None:
    """Record what a training of the policy trained in addition: further adapters with their sizes, and modules."""

    def rate(of: Policy | Module) -> float:
        return learning_rates.get(of, learning_rate)

    found = [
        f"{_name(one)}, {tokens:,} tokens at a learning rate of {rate(one):g}"
        for one, tokens in result.beside
    ]
    found += [f"{name} at {rate(module):g}" for name, module in modules.items()]
    if found:
        run.record.departure("trained beside the policy", "", "; ".join(found))


def _name(adapter: ModelPolicy) -> str:
    """Return the name that a method gave an adapter, without the number that the session gave it."""
    return adapter.name.rpartition("-")[0]


def _charge(run: CellState, result: TrainingResult, size: int, additional: bool, budget: Budget) -> None:
    ledger = run.ledger
    ledger.cost.add(peak_memory_bytes=result.peak_memory_bytes)
    count = sum(map(len, ledger.end_reading().values()))
    compared = f", {count:,} comparisons" if count else ""
    if additional:
        reach = budget.rows or (budget.epochs or 0) * size
        read = str(budget) if result.rows >= reach - 1e-9 else f"{result.rows:,.0f} rows of {budget}"
        ledger.departure("an additional training", "", f"{read}{compared}, {result.work.trained:,} tokens")
    else:
        ledger.account.add(epochs=result.rows / size, rows=result.rows, steps=result.steps)
