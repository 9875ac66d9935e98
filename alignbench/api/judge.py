"""A judge says how good an answer is, or which of two is better: the contract, and what comes with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from alignbench.api.config import API, Settings
from alignbench.api.policy import Policy, TrainablePolicy
from alignbench.errors import Problem
from alignbench.rows import Prompt

if TYPE_CHECKING:
    from alignbench.api.reward import RewardModel
    from alignbench.store import Store

__all__ = ["Judge", "Models", "PairwiseJudgment", "Score"]


@dataclass(frozen=True, slots=True)
class Score:
    """What a judge says about one answer. None means: does not apply to this prompt, or abstained."""

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Named aspects of the value: `helpful`, `honest`, `harmless`."""


@dataclass(frozen=True, slots=True)
class PairwiseJudgment:
    """What a judge says about two answers, `a` and `b`, to one prompt."""

    preference: float | None
    """The probability that `a` is better; None is an abstention."""
    orders: tuple[float, float] | None = None
    """That probability with `a` shown first, and with `b` shown first, where the judge reads both at once."""
    mass: float | None = None
    """The probability that the judge gave to its options at all, the lesser of both orders."""
    reason: str = ""
    """Why it abstained."""

    @property
    def verdict(self) -> float | None:
        """The preference, or a tie where the orders disagree: that is what a comparison of policies counts."""
        return 0.5 if self.preference is not None and self.consistent is False else self.preference

    @property
    def consistent(self) -> bool | None:
        """Whether no order prefers the answer that the other does not; None where there are no two orders."""
        return None if self.orders is None else (self.orders[0] - 0.5) * (self.orders[1] - 0.5) >= 0

    def swapped(self) -> PairwiseJudgment:
        """The same opinion with `a` and `b` in each other's place."""
        return PairwiseJudgment(
            None if self.preference is None else 1 - self.preference,
            None if self.orders is None else (1 - self.orders[1], 1 - self.orders[0]),
            self.mass,
            self.reason,
        )


class Models(Protocol):
    """What a judge may read with, and where it may keep answers that cost something."""

    @property
    def base(self) -> TrainablePolicy:
        """The untouched shared base, as a policy."""
        ...

    @property
    def start(self) -> Policy:
        """Inside `align` the start of the method that asks; in the evaluation the base."""
        ...

    @property
    def root(self) -> Path:
        """The folder that relative paths of the recipe start from."""
        ...

    @property
    def store(self) -> Store: ...

    def own_reward_model(self, rows: Literal["train"] | tuple[float, float], **how: float) -> RewardModel:
        """A reward model trained in this run: on the methods' own rows, inside `align` only, or on the part of
        the training rows, from and to, that no method sees."""
        ...


class Judge(ABC):
    """Scores answers, or compares two answers to one prompt.

    Laws: equal (config, prompt, answer) give equal verdicts, whichever other answers are judged with it;
    an abstention is None, never a middling number; `compare(prompts, b, a)` is 1 - `compare(prompts, a, b)`.
    """

    api: ClassVar[int] = API
    trains: ClassVar[bool] = False
    """Whether a method may learn from it inside `align`; one that trains in a run may not evaluate in it."""
    recorded: ClassVar[bool] = False
    """Whether its verdicts were given beforehand: it knows none on other answers, so no control is put to it."""

    Config: ClassVar[type[Settings]] = Settings
    """The fields that a recipe may set: a subclass of Settings in a judge that has any."""

    def __init__(self, config: Settings | None = None):
        self.config: Any = self.Config() if config is None else config
        self.name = type(self).__name__.lower()
        """What the recipe calls it."""
        self.meter: Callable[..., object] = lambda **spent: None
        """Called with what judging cost: `judge_calls`, `judge_tokens`, `judge_seconds`, `ai_comparisons`."""
        self.quality: Mapping[str, Any] = {}
        """What is known of its verdicts once it is open, such as its accuracy on labels of people."""
        self.abstained: Counter[str] = Counter()
        """Abstentions so far, by reason."""

    def open(self, models: Models) -> None:  # noqa: B027  (most judges need no model)
        """Load what judging needs; called once in the process that judges, before the first verdict."""

    @property
    def held_out(self) -> float:
        """Share of the training rows, from the first on, that no method sees in a run with this judge."""
        return 0.0

    @classmethod
    def tuning_judge(cls, config: Any) -> dict[str, Any]:
        """Return what to change in a config for the judge that chooses the settings that this one reports on.

        A judge that is trained in the run has a twin that is trained on rows of its own, so that no setting
        is chosen by the errors it is then measured with; any other is its own twin, on other prompts.
        """
        return {}

    @classmethod
    def reads_with(cls, config: Any, base: str) -> str:
        """Return the model it reads with (`base` is the recipe's), so that a yardstick cannot also train."""
        return ""

    @classmethod
    def check_principles(cls, config: Any) -> Problem | None:
        """Return what keeps it from comparing by a principle (`field`: which of its own says so); None if nothing."""
        if cls.judge_pairs is Judge.judge_pairs:
            return Problem(
                "it compares scores and reads no principle", "name a judge that is asked a question"
            )
        return None

    def fingerprint(self) -> Any:
        """Return, as JSON values, all that its verdicts depend on, once it is open."""
        return [f"{type(self).__module__}.{type(self).__qualname__}", self.config.model_dump(mode="json")]

    @abstractmethod
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        """Score each answer to its prompt; higher is better. `prompts` and `answers` are aligned."""

    def compare(self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]) -> list[float | None]:
        """Return for each prompt the probability that `a` is better than `b`; None is an abstention.

        A judge that says one thing in one order and the other in the other has seen no difference: 0.5.
        """
        return [judgment.verdict for judgment in self.judge_pairs(prompts, a, b)]

    def judge_pairs(
        self,
        prompts: Sequence[Prompt],
        a: Sequence[str],
        b: Sequence[str],
        principles: Sequence[str] | None = None,
    ) -> list[PairwiseJudgment]:
        """Return for each prompt what it thinks of `a` and `b`, by a principle for each, where given.

        From two scores: 1, 0.5 for a tie, or 0. A judge that reads both answers at once overrides this and
        asks in both orders.
        """
        pairs = zip(self.score(prompts, a), self.score(prompts, b), strict=True)
        return [PairwiseJudgment(preference(first.value, second.value)) for first, second in pairs]

    def forget(self) -> None:  # noqa: B027  (most judges keep nothing)
        """Ask again from here on, instead of repeating what was answered before."""


def preference(a: float | None, b: float | None) -> float | None:
    """Return 1 where `a` is higher, 0 where `b` is, 0.5 for a tie, and None where either is unknown."""
    if a is None or b is None:
        return None
    return 0.5 if a == b else float(a > b)
