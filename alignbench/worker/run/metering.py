"""Writes what networks compute to the ledger of the run that they compute for, and runs its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any

from alignbench import plugins, returned
from alignbench.errors import AlignbenchError
from alignbench.models import meter
from alignbench.models.meter import Meter, Tally, Work
from alignbench.rows import Prompt
from alignbench.worker.run.ledger import Ledger
from alignbench.worker.run.row_origins import RowOrigins

if TYPE_CHECKING:
    from alignbench.api.judge import Judge
    from alignbench.api.policy import Policy

TOKENS = {"generate": "generated_tokens", "search": "searched_tokens", "judge": "judge_tokens"}
"""Where positions without gradient go, by the kind of work; all others are scored."""


JUDGING = ("score", "compare", "judge_pairs")
"""The methods of a judge that judge: each is called with prompts, and with columns as long as them."""


class CellMeter(Meter):
    """The meter of one run: what is computed while it is in charge, and how long everything takes, by kind."""

    def __init__(self, origins: RowOrigins, ledger: Callable[[], Ledger]):
        self._origins, self._ledger = origins, ledger
        self._kinds: list[str] = []
        self._since: float | None = None
        """When the clock was read last; None: it does not run."""

    def computed(self, work: Work) -> None:
        cost = self._ledger().cost
        cost.forward_passes += work.forwards
        cost.flops += work.flops
        cost.train_tokens += work.trained
        if work.trained and "train" not in self._kinds:
            self._ledger().outside += work.trained
        if work.positions:
            name = TOKENS.get(self._kind, "scored_tokens")
            setattr(cost, name, getattr(cost, name) + work.positions)

    def answered(self, prompts: Sequence[Prompt]) -> None:
        asked = self._ledger().asked
        for prompt in prompts:
            if origin := self._origins.of_prompt(prompt):
                asked.setdefault(origin[0], set()).add(origin[1])

    # --- the clock ------------------------------------------------------------------------------------------

    @property
    def _kind(self) -> str:
        return self._kinds[-1] if self._kinds else "other"

    def begin(self, kind: str) -> None:
        self.read()
        self._kinds.append("judge" if self._kind == "judge" else kind)

    def end(self) -> None:
        self.read()
        self._kinds.pop()

    def read(self) -> None:
        """Write the time since the clock was last read to the ledger, where the clock runs."""
        if self._since is not None:
            cost, now, name = self._ledger().cost, perf_counter(), f"{self._kind}_seconds"
            setattr(cost, name, getattr(cost, name) + now - self._since)
            self._since = now

    def forget(self) -> None:
        """Start the clock from now: the ledger holds another time."""
        if self._since is not None:
            self._since = perf_counter()

    def start(self) -> None:
        self._since = perf_counter()

    def stop(self) -> None:
        self.read()
        self._since = None

    @contextmanager
    def charging(self) -> Iterator[None]:
        """Charge this run, and no other, with what is computed inside the block."""
        with meter.metered(self):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Charge nobody: what is computed inside the block belongs to the evaluation."""
        with meter.metered(Meter()):
            yield


def naming_prompts(judge: Judge) -> None:
    """Let what a judge raises name the row that it was asked about: see `alignbench.plugins.naming_row`."""

    def naming(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def named(prompts: Sequence[Prompt], *columns: Any, **how: Any) -> Any:
            def alone(place: int) -> Any:
                given = [None if one is None else [one[place]] for one in columns]
                rest = {name: None if one is None else [one[place]] for name, one in how.items()}
                return function([prompts[place]], *given, **rest)

            with plugins.naming_row(prompts, alone):
                found = function(prompts, *columns, **how)
            return returned.judgments(judge, name, found, prompts)

        return named

    for name in JUDGING:
        setattr(judge, name, naming(name, getattr(judge, name)))


def naming_answers(policy: Policy) -> None:
    """Let what a decoder raises name the row whose prompt it was asked: see `alignbench.plugins.note_row`.

    To find it takes at most twice as long as the answers took, and a second.
    """
    answer = policy.answer

    @wraps(answer)
    def named(prompts: Sequence[Prompt], *args: Any, **how: Any) -> Any:
        begun = perf_counter()
        try:
            found = answer(prompts, *args, **how)
        except AlignbenchError:
            raise
        except Exception as error:
            within = 1 + 2 * (perf_counter() - begun)
            plugins.note_row(
                error, prompts, lambda place: answer([prompts[place]], *args, **how), within=within
            )
            raise
        return returned.answers(policy, found, prompts, how.get("samples", 1))

    with suppress(AttributeError):  # a class may take no further attributes
        policy.answer = named  # pyright: ignore[reportAttributeAccessIssue]


def metered_judge(judge: Judge, ledger: Callable[[], Ledger]) -> None:
    """Let what a judge computes count as judging, and what it says of its cost go to `ledger()`.

    Its tokens are counted where a model of this process computes them; those of a server are what the judge says, and
    one that says none is a departure.
    """
    tallies: list[Tally] = []

    def record(*, judge_calls: int = 0, judge_tokens: int = 0, ai_comparisons: int = 0, **_: float) -> None:
        here = tallies[-1].work.positions if tallies else 0
        elsewhere = max(0, judge_tokens - here)
        if tallies:
            tallies[-1].work = Work()
        ledger().cost.add(judge_calls=judge_calls, ai_comparisons=ai_comparisons, judge_tokens=elsewhere)
        if judge_calls and not here + elsewhere:
            ledger().departure(
                f"the tokens of the judge {judge.name} are not counted: its server does not say them"
            )

    def judging(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def judged(*args: Any, **how: Any) -> Any:
            if tallies:
                return function(*args, **how)
            tallies.append(Tally())
            try:
                with meter.metered(tallies[-1]), meter.doing("judge"):
                    return function(*args, **how)
            finally:
                tallies.pop()

        return judged

    judge.record_cost = record
    for name in JUDGING:
        setattr(judge, name, judging(getattr(judge, name)))
