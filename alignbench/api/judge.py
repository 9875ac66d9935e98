"""The judge contract: scores of answers, and comparisons of two answers to one prompt."""

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
    """A judge's score of one answer. None: not applicable to this prompt, or abstained."""

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Named aspects of the value: `helpful`, `honest`, `harmless`."""
    by_rater: Mapping[str, Score] = field(default_factory=dict)
    """Each rater's own score, where the judge is several raters and this is their mean."""


@dataclass(frozen=True, slots=True)
class PairwiseJudgment:
    """A judge's judgment of two answers, `a` and `b`, to one prompt."""

    preference: float | None
    """The probability that `a` is better; None is an abstention."""
    orders: tuple[float, float] | None = None
    """The probability with `a` shown first, and with `b` shown first, where the judge reads both at once."""
    mass: float | None = None
    """Total probability of the judge's options, the smaller of both orders."""
    reason: str = ""
    """Reason of an abstention."""

    @property
    def value(self) -> float | None:
        """The preference, or a tie where the orders disagree: the value that comparisons of policies use."""
        return 0.5 if self.preference is not None and self.consistent is False else self.preference

    @property
    def consistent(self) -> bool | None:
        """Whether both orders prefer the same answer; None where there are no two orders."""
        return None if self.orders is None else (self.orders[0] - 0.5) * (self.orders[1] - 0.5) >= 0

    def swapped(self) -> PairwiseJudgment:
        """Return the same judgment with `a` and `b` exchanged."""
        return PairwiseJudgment(
            None if self.preference is None else 1 - self.preference,
            None if self.orders is None else (1 - self.orders[1], 1 - self.orders[0]),
            self.mass,
            self.reason,
        )


class Models(Protocol):
    """Models that a judge may use, and the store for expensive answers."""

    @property
    def base(self) -> TrainablePolicy:
        """The untouched shared base, as a policy."""
        ...

    @property
    def start(self) -> Policy:
        """Inside `align` the start of the method; in the evaluation the base."""
        ...

    @property
    def root(self) -> Path:
        """The folder that the recipe's relative paths refer to."""
        ...

    @property
    def store(self) -> Store: ...

    def own_reward_model(self, rows: Literal["train"] | tuple[float, float], **how: float) -> RewardModel:
        """Return a reward model trained in this run: on the methods' own rows (`train`, only inside `align`), or on
        a share of the training rows, from and to, that no method sees."""
        ...


class Judge(ABC):
    """Scores answers, or compares two answers to one prompt.

    Laws: equal (config, prompt, answer) give equal judgments, whatever else is in the batch; an abstention is
    None, never a neutral number; `compare(prompts, b, a)` is 1 - `compare(prompts, a, b)`.
    """

    api: ClassVar[int] = API
    trains: ClassVar[bool] = False
    """Whether a method may learn from it inside `align`; one that trains in a run may not evaluate in it."""
    uncounted: ClassVar[tuple[str, ...]] = ()
    """Units of a budget that it cannot measure, such as the FLOPs of a server: `check` refuses such a budget for a
    method that learns from it."""
    recorded: ClassVar[bool] = False
    """Whether its judgments were given beforehand: it has none for other answers, so the controls are left out."""

    scores: ClassVar[bool] = True
    """Whether `score` gives numbers. A judge that only compares says False: where a method needs a reward, an answer
    has the mean share of its comparisons with the other answers to its prompt."""
    cheap: ClassVar[bool] = False
    """Whether a judgment costs less than the answer it is about: a cheap judge judges the answers at every
    sampling temperature, any other those at the chosen one, unless the recipe sets `judge_every_setting`."""

    Config: ClassVar[type[Settings]] = Settings
    """The judge's own fields in a recipe: a subclass of Settings, if it has any."""

    def __init__(self, config: Settings | None = None):
        self.config: Any = self.Config() if config is None else config
        self.name = type(self).__name__.lower()
        """Its name in the recipe."""
        self.record_cost: Callable[..., object] = lambda **spent: None
        """Called with the cost of judging: `judge_calls`, `judge_tokens`, `ai_comparisons`; its
        seconds are measured."""
        self.quality: Mapping[str, Any] = {}
        """The measured quality of its judgments once it is open, such as its accuracy on human labels."""
        self.abstained: Counter[str] = Counter()
        """Abstentions so far, by reason."""
        self.first_words: Counter[str] = Counter()
        """First words that stood where a judgment should, of a judge that reads what a model writes: how often each."""

    def open(self, models: Models) -> None:  # noqa: B027  (most judges need no model)
        """Load what judging needs; called once per process, before the first judgment."""

    @property
    def held_out(self) -> float:
        """Share of the training rows, from the first one, that no method sees in a run with this judge."""
        return 0.0

    @classmethod
    def tuning_judge(cls, config: Any) -> dict[str, Any]:
        """Return the config changes of the tuning judge, which chooses the settings that this judge reports on.

        For a judge that is trained in the run, the tuning judge is trained on separate rows, so that settings
        are not fitted to the errors of the evaluation judge. Any other judge is its own tuning judge, on other
        prompts.
        """
        return {}

    @classmethod
    def reads_with(cls, config: Any, base: str) -> str:
        """Return the id of its model (`base` is the recipe's model), so that an evaluation judge cannot also train."""
        return ""

    @classmethod
    def check_files(cls, config: Any, root: Path) -> Sequence[str]:
        """Raise AlignbenchError with what is wrong with its files, by what can be read without loading a model.

        `alignbench check` calls it, and a run before anything is trained. Relative paths start from `root`.
        Returns what was not checked: the ids of models that `open` would download first.
        """
        return ()

    @classmethod  # noqa: B027  (most judge any)
    def check_prompts(cls, config: Any, prompts: Sequence[Prompt]) -> None:
        """Raise AlignbenchError where it cannot judge answers to these prompts.

        `alignbench check --data` calls it, and a run before anything is trained.
        """

    @classmethod
    def check_evaluation(cls, config: Any) -> Problem | None:
        """Return why it cannot be an evaluation judge (`field`: its own field at fault), or None if it can."""
        return None

    @classmethod
    def check_principles(cls, config: Any) -> Problem | None:
        """Return why it cannot compare by a principle (`field`: its own field at fault), or None if it can."""
        if cls.judge_pairs is Judge.judge_pairs:
            return Problem("it compares scores and reads no principle", "name a language-model judge")
        return None

    def fingerprint(self) -> Any:
        """Return, as JSON values, everything its judgments depend on, once it is open."""
        return [f"{type(self).__module__}.{type(self).__qualname__}", self.config.model_dump(mode="json")]

    @abstractmethod
    def score(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
        """Score each answer to its prompt; higher is better. `prompts` and `answers` are aligned."""

    def compare(self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]) -> list[float | None]:
        """Return for each prompt the probability that `a` is better than `b`; None is an abstention.

        0.5 where the judgment depends on the order of the answers.
        """
        return [judgment.value for judgment in self.judge_pairs(prompts, a, b)]

    def judge_pairs(
        self,
        prompts: Sequence[Prompt],
        a: Sequence[str],
        b: Sequence[str],
        principles: Sequence[str] | None = None,
    ) -> list[PairwiseJudgment]:
        """Return for each prompt the judgment of `a` and `b`, by a principle for each, where given.

        From two scores: 1, 0.5 for a tie, or 0. A judge that reads both answers at once overrides this and
        asks in both orders.
        """
        pairs = zip(self.score(prompts, a), self.score(prompts, b), strict=True)
        return [PairwiseJudgment(preference(first.value, second.value)) for first, second in pairs]

    def by_rater(
        self, prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str]
    ) -> Sequence[Mapping[str, float]]:
        """Return for each prompt each rater's probability that `a` is better than `b`, by the rater's name.

        Empty for a judge that is one instrument. A judge that is several raters overrides this, and its
        `compare` is their mean: intervals then have raters as a source of variance.
        """
        return [{} for _ in prompts]

    def forget(self) -> None:  # noqa: B027  (most judges keep nothing)
        """Drop cached answers, so that questions are asked again."""


def preference(a: float | None, b: float | None) -> float | None:
    """Return 1 where `a` is higher, 0 where `b` is, 0.5 for a tie, and None where either is unknown."""
    if a is None or b is None:
        return None
    return 0.5 if a == b else float(a > b)
