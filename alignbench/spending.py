"""Dividing what is left of a budget that counts everything a method computes. Functions over a run.

Tokens, FLOPs and seconds are such budgets. In epochs, rows and steps these functions change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from collections.abc import Sequence as Many
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from alignbench.api.config import TOTALS
from alignbench.api.method import Run

if TYPE_CHECKING:
    from alignbench.models.meter import Work

__all__ = ["affordable", "computed", "counts_everything", "parts"]

Item = TypeVar("Item")


def counts_everything(run: Run) -> bool:
    """Return whether the run's budget counts all that is computed, and not the training of the policy alone."""
    return run.budget.unit in TOTALS


def parts(run: Run, items: Many[Item], *, share: float = 1.0, first: int = 8) -> Iterator[Many[Item]]:
    """Yield all `items`; where the budget counts everything, as many as `share` of what is left pays for.

    They then come in parts, and what is computed for one part, before the next is asked for, shows how many more can
    be paid for. The first part has `first` items.
    """
    if not counts_everything(run):
        yield items
        return
    begun = run.left
    most, size, at = share * begun, min(first, len(items)), 0
    while size:
        yield items[at : at + size]
        at += size
        spent = begun - run.left
        more = len(items) if not spent else int((most - spent) * at / spent)
        size = min(more, len(items) - at) if more >= first / 4 else 0


def affordable(run: Run, state: MutableMapping[str, Any], wanted: int, *, first: int) -> int:
    """Return how many of `wanted` prompts or answers to draw for the next steps of an on-policy training.

    All of them; where the budget counts everything, as many as what is left pays for, judged by what those asked for
    before took until now, the steps on them included, and `first` at the first time. 0: there is too little left.
    `state` is that of the training, so that a resumed one draws alike.
    """
    if not counts_everything(run):
        return wanted
    left, last = run.left, state.get("spending")
    number = min(first, wanted)
    if last is not None:
        spent, drawn = last["spent"] + last["left"] - left, last["drawn"]
        number = min(wanted, int(left * drawn / spent + 0.5)) if spent else wanted
        state["spending"] = {"left": left, "spent": spent, "drawn": drawn + number}
    else:
        state["spending"] = {"left": left, "spent": 0.0, "drawn": number}
    return number


@contextmanager
def computed() -> Iterator[Work]:
    """Yield what this process's networks compute inside the block: a prompt that answers share counts once.

    The ledger counts the same, and the tokens of judges on a server in addition. What is yielded is complete at the
    end of the block: `forwards`, `positions` (without gradient), `trained` (positions with one) and `flops`.
    """
    from alignbench.models.meter import Tally, metered

    with metered(Tally()) as tally:
        yield tally.work
