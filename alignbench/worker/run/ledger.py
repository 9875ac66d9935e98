"""The ledger of a cell: what it spent, which rows it used, and what it has to report. One record, one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.config import TOTALS
from alignbench.api.launcher import Event
from alignbench.api.method import Departure
from alignbench.rows import different
from alignbench.worker.run.row_origins import MODEL, PEOPLE

FORMAT = 2
"""Of a ledger that is kept: an artefact with one of another format is made again."""


@dataclass
class Cost:
    """What a cell has spent, in the units of the public record (`alignbench.results.Cost`)."""

    train_seconds: float = 0.0
    generate_seconds: float = 0.0
    score_seconds: float = 0.0
    search_seconds: float = 0.0
    judge_seconds: float = 0.0
    other_seconds: float = 0.0
    train_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    searched_tokens: int = 0
    judge_tokens: int = 0
    flops: float = 0.0
    forward_passes: int = 0
    ai_comparisons: int = 0
    judge_calls: int = 0
    peak_memory_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Wall time of all kinds of work."""
        return sum(value for name, value in vars(self).items() if name.endswith("_seconds"))

    @property
    def tokens(self) -> int:
        """Positions computed in all kinds of work."""
        return sum(value for name, value in vars(self).items() if name.endswith("_tokens"))

    def add(self, **spent: float) -> None:
        """Add what was spent; the peak of memory is a maximum."""
        for name, value in spent.items():
            old = getattr(self, name)
            setattr(self, name, max(old, value) if name == "peak_memory_bytes" else old + value)


@dataclass
class Account:
    """What the training of the policy takes off a budget in epochs, rows or steps."""

    epochs: float = 0.0
    """Passes over the training rows."""
    rows: float = 0.0
    """Rows drawn, counting a row each time it is drawn."""
    steps: int = 0
    """Optimiser steps."""

    def add(self, **spent: float) -> None:
        """Add what was spent."""
        for name, value in spent.items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Warned:
    """A warning about a training: where it first came, and how often."""

    step: int
    text: str
    count: int = 1

    def __str__(self) -> str:
        more = f" ({self.count} times)" if self.count > 1 else ""
        return f"step {self.step}: {self.text}{more}"


@dataclass
class Ledger:
    """Everything a cell adds to the record while it aligns; `alignbench.api.method.Record` is its public part.

    What is made once for several cells has a ledger of its own, which is merged into that of each of them.
    """

    cost: Cost = field(default_factory=Cost)
    account: Account = field(default_factory=Account)
    departures: list[Departure] = field(default_factory=list)
    warnings: dict[str, Warned] = field(default_factory=dict)
    outside: int = 0
    """Tokens computed with gradient outside of every training that the run knows of."""
    judges: list[dict[str, Any]] = field(default_factory=list)
    """What is known of the judges of the method, each with its `name` and `quality`."""
    learned: dict[str, set[str]] = field(default_factory=dict)
    """Ids of the rows that entered a loss, by origin: see `alignbench.worker.run.row_origins`."""
    asked: dict[str, set[str]] = field(default_factory=dict)
    """Ids of the rows whose prompts were answered, for a label or for learning, by origin."""
    compared: dict[str, set[str]] = field(default_factory=dict)
    """Comparisons of the table whose outcome entered a loss, by who made them: see `RowOrigins.compared`."""
    reading: dict[str, set[str]] = field(default_factory=dict)
    """Those of the training that is going on."""
    emit: Callable[[Event], None] = field(default=lambda event: None, repr=False, compare=False)

    @property
    def rows(self) -> dict[str, set[str]]:
        """Ids of all rows used, by origin."""
        names = [*self.learned, *(name for name in self.asked if name not in self.learned)]
        return {name: self.learned.get(name, set()) | self.asked.get(name, set()) for name in names}

    @property
    def prompts(self) -> int:
        """How many different prompts all rows used have."""
        return len(self._prompts)

    @property
    def _prompts(self) -> set[str]:
        return different(set().union(*self.rows.values()))

    def comparisons(self, who: str) -> set[str]:
        """Return the comparisons whose outcome entered a loss, of those that `who` made."""
        return self.compared.get(who, set()) | self.reading.get(who, set())

    def public(self) -> dict[str, float]:
        """Return what was spent and read, as `alignbench.results.Cost` names it."""
        cost = vars(self.cost)
        return {
            "seconds": self.cost.seconds,
            "tokens": self.cost.tokens,
            **cost,
            "prompts": self.prompts,
            "comparisons": len(self.comparisons(PEOPLE)),
            "ai_comparisons": cost["ai_comparisons"] + len(self.comparisons(MODEL)),
        }

    def used(self) -> dict[str, list[str]]:
        """Return what was read, by its ids: a chain of cells counts each once."""
        return {
            "prompts": sorted(self._prompts),
            "comparisons": sorted(self.comparisons(PEOPLE)),
            "ai_comparisons": sorted(self.comparisons(MODEL)),
        }

    def end_reading(self) -> dict[str, set[str]]:
        """Add the comparisons of a training to the others, and return them."""
        read, self.reading = self.reading, {}
        for who, found in read.items():
            self.compared.setdefault(who, set()).update(found)
        return read

    def spent(self, unit: str) -> float:
        """Return what was spent in a unit of a budget."""
        return getattr(self.cost if unit in TOTALS else self.account, unit)

    def departure(self, what: str, shared: str = "", own: str = "") -> None:
        """Record in what the method is not treated like the others."""
        found = Departure(what, shared, own)
        if found not in self.departures:
            self.departures.append(found)

    def judge(self, name: str, **quality: Any) -> None:
        """Record how good a judge of the method's own is."""
        self.judges.append({"name": name, "quality": quality})

    def warning(self, name: str, step: int, text: str) -> None:
        """Keep the first warning of a name, and count the others."""
        if name in self.warnings:
            self.warnings[name].count += 1
        else:
            self.warnings[name] = Warned(step, text)
        self.emit(Event(f"warning: {text}", step))

    def merge(self, other: Ledger, *, epochs: float = 1.0) -> None:
        """Add what another ledger holds. `epochs` is how many of this run's an epoch of the other is."""
        self.cost.add(**vars(other.cost))
        self.account.add(**{**vars(other.account), "epochs": other.account.epochs * epochs})
        self.outside += other.outside
        self.judges += other.judges
        self.departures += [one for one in other.departures if one not in self.departures]
        for name, warned in other.warnings.items():
            if name in self.warnings:
                self.warnings[name].count += warned.count
            else:
                self.warnings[name] = warned
        other.end_reading()
        for ours, theirs in (
            (self.learned, other.learned),
            (self.asked, other.asked),
            (self.compared, other.compared),
        ):
            for origin, ids in theirs.items():
                ours.setdefault(origin, set()).update(ids)

    def as_json(self) -> dict[str, Any]:
        """Return the ledger in plain values; `restore` takes them back."""
        return {
            "cost": vars(self.cost).copy(),
            "account": vars(self.account).copy(),
            "outside": self.outside,
            "departures": [asdict(one) for one in self.departures],
            "warnings": {name: vars(one).copy() for name, one in self.warnings.items()},
            "judges": list(self.judges),
            "learned": {origin: sorted(ids) for origin, ids in self.learned.items()},
            "asked": {origin: sorted(ids) for origin, ids in self.asked.items()},
            "compared": {who: sorted(ids) for who, ids in self.compared.items()},
            "reading": {who: sorted(ids) for who, ids in self.reading.items()},
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Become the ledger that `as_json` described."""
        self.cost, self.account = Cost(**kept["cost"]), Account(**kept["account"])
        self.outside = kept["outside"]
        self.departures[:] = [Departure(**one) for one in kept["departures"]]
        self.warnings = {name: Warned(**one) for name, one in kept["warnings"].items()}
        self.judges[:] = kept["judges"]
        self.learned = {origin: set(ids) for origin, ids in kept["learned"].items()}
        self.asked = {origin: set(ids) for origin, ids in kept["asked"].items()}
        self.compared = {who: set(ids) for who, ids in kept["compared"].items()}
        self.reading = {who: set(ids) for who, ids in kept["reading"].items()}

    def write(self, folder: Path) -> None:
        """Write the ledger of a shared artefact next to it."""
        store.write_json(folder / layout.LEDGER, self.as_json())


def read(folder: Path) -> Ledger:
    """Return the ledger of a shared artefact."""
    ledger = Ledger()
    ledger.restore(json.loads((folder / layout.LEDGER).read_text(encoding="utf-8")))
    return ledger
