"""One cell: load the base and the start, align, save the policy, answer the evaluation prompts, seal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from alignbench import layout, store
from alignbench.api.config import TOTALS
from alignbench.api.launcher import Event, Task
from alignbench.api.policy import Policy
from alignbench.errors import PluginError
from alignbench.recipe.schema import BASE
from alignbench.versions import versions
from alignbench.worker.finished.answering import answer
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.ledger import Ledger
from alignbench.worker.run.metering import naming_answers
from alignbench.worker.run.policy_io import load_method, save_policy
from alignbench.worker.run.row_origins import MADE
from alignbench.worker.run.session import Session
from alignbench.worker.run.trackers import Tracking

GROWING = (layout.LOG, layout.STATUS, layout.CHECKPOINTS)
"""Files of a cell's folder that are not part of its sealed result."""


def main(task: Task, emit: Callable[[Event], None]) -> None:
    """Fill the cell's folder and seal it. `what`: label, seed, folder and key."""
    label, seed, folder = task.what["label"], task.what["seed"], Path(task.what["folder"])
    clear(folder)
    from alignbench.training.trainer import device_name, peak_memory

    session = Session(task, emit)
    untouched = session.base.checksum()
    run, policy = align(session, label, seed, folder)
    if session.base.checksum() != untouched:
        raise PluginError(f"'{label}' changed the weights of the shared base", "train adapters only")

    run.ledger.cost.add(peak_memory_bytes=peak_memory(session.base.device))
    answering = answer(session, policy, run.start, label, seed, folder)
    sealed = {
        "label": label,
        "seed": seed,
        "rows": {
            origin: {"count": len(ids), "digest": store.digest(sorted(ids))}
            for origin, ids in run.ledger.rows.items()
        },
        "warnings": [str(warned) for warned in run.ledger.warnings.values()],
        "judges": run.ledger.judges,
        "departures": [asdict(departure) for departure in run.ledger.departures],
        "cost": run.ledger.public(),
        "answering": answering,
        "device": device_name(session.base.device),
        "versions": versions(),
    }
    store.write_json(folder / layout.USED, run.ledger.used())
    store.write_json(folder / layout.CELL, sealed)
    store.commit(folder, key=task.what["key"], producer=label, leave_out=GROWING)
    shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)


def align(session: Session, label: str, seed: int, folder: Path) -> tuple[CellContext, Policy]:
    """Run one label at one seed; return its run, with what it saw and spent, and the saved policy."""
    planned = session.plan.labels.get(label)
    if planned is None:
        run = CellContext(session, label=BASE, seed=seed, method="", start=BASE, folder=folder)
        save_policy(run.start, folder / layout.POLICY, method="", config={}, start=BASE)
        return run, run.start
    method = load_method(planned.method, planned.config)
    run = CellContext(
        session,
        label=label,
        seed=seed,
        method=planned.method,
        start=planned.start,
        folder=folder,
        budget=planned.budget,
        training=planned.training,
        comparisons=planned.comparisons,
    )
    session.emit(Event("aligning"))
    config = planned.model_dump(mode="json", include={"method", "config", "start", "seeds", "budget"})

    def lost(tracker: str, why: str) -> None:
        run.record.warning(
            f"tracker {tracker}", 0, f"the tracker {tracker} failed and is not used any more: {why}"
        )

    run.tracking = Tracking(session.task.what.get("track", ()), session.run, label, seed, config, lost)
    try:
        policy = run.align(method)
    finally:
        run.tracking.end()
    if not isinstance(policy, Policy) or "answer" not in policy.can:
        lacks = [
            name for name in ("can", "follows", "answer", "logprobs", "save") if not hasattr(policy, name)
        ]
        raise PluginError(
            f"'{planned.method}' returned {type(policy).__name__}, which is not a policy"
            + (f": it has no {', '.join(lacks)}" if lacks else ""),
            "return the policy of run.adapt, or a Decoder",
        )
    if "adapter" not in policy.can:
        naming_answers(policy)
    _audit(run, policy)
    if any(one is policy for one in run.additional):
        raise PluginError(
            f"'{label}' returned a policy that was trained outside the budget", "train it without `budget`"
        )
    what = {"method": planned.method, "config": planned.config, "start": planned.start}
    save_policy(policy, folder / layout.POLICY, **what)
    return run, policy


OVER = 1.02
"""How much of a budget that counts everything may be spent before it is a departure."""


def _audit(run: CellContext, policy: Policy) -> None:
    """Record where a method computed outside the budget: too much, or weights that no training accounts for."""
    ledger, budget = run.ledger, run.budget
    if budget.unit in TOTALS and run.drawn(budget.unit) > OVER * budget.amount:
        ledger.departure("spent more than its budget", str(budget), f"{run.drawn(budget.unit):,.4g}")
    if "test" in ledger.asked:
        ledger.departure("answered test prompts while it aligned", "", f"{len(ledger.asked['test']):,}")
    if ledger.outside:
        ledger.departure("trained by itself, outside of its budget", "", f"{ledger.outside:,} tokens")
    run.weights.audit(policy, run.start, run.label, ledger)
    if budget.unit not in TOTALS:
        for what, size in _in_addition(ledger):
            ledger.departure(what, "", size)


def _in_addition(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield what a method wrote and had judged, with its size: a budget of the policy's training counts none of it."""
    cost, made = ledger.cost, len(ledger.learned.get(MADE, ()))
    if made:
        yield "rows of its own", f"{made:,}"
    if cost.generated_tokens:
        asked = sum(map(len, ledger.asked.values()))
        yield "answers of its own", f"to {asked:,} prompts, {cost.generated_tokens:,} tokens"
    if cost.searched_tokens:
        yield "a search of its own", f"{cost.searched_tokens:,} tokens"
    if cost.judge_calls:
        compared = f"{cost.ai_comparisons:,} comparisons, " if cost.ai_comparisons else ""
        yield "feedback of a judge", f"{compared}{cost.judge_calls:,} calls, {cost.judge_tokens:,} tokens"


def clear(folder: Path) -> None:
    """Throw away what an earlier attempt has left, but for its log and what its trainings go on from."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name in GROWING:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
