"""The one page a plugin author reads: what a method is given, what it gives back, and the laws between.

Nothing heavy is imported here, and a plugin's module should import torch only inside the functions that
need it: a recipe is checked and planned without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    runtime_checkable,
)

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from alignbench.rows import Draw, Ids, Pair, Prompt, Row, Sequence, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.nn import Module
    from transformers import TrainerCallback

    from alignbench.judges import Judge
    from alignbench.judges.reward_training import RewardModel

API = 1
"""The version of this contract. A class whose `api` differs is refused by name, never half-run."""

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What may name a label, a method, a run or a metric: it becomes a folder and a column."""

Label = Annotated[str, StringConstraints(pattern=NAME)]
"""A row of the comparison. A config field of type `Label` or `list[Label]` is an edge: that label runs first."""

Split = Literal["train", "validation", "test"]
ALL = slice(None)
Can = Literal["answer", "logprobs", "adapter"]


class Settings(BaseModel):
    """A frozen pydantic model that forbids unknown keys: the base of everything a recipe can say."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Named(Settings):
    """A plugin by name with its fields: `gold`, or `{reward-model: {id: ...}}` in YAML."""

    name: str
    """An installed plugin, or a data source by its path or hub id."""
    config: dict[str, Any] = {}
    """The plugin's own fields."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "name" not in value:
            if len(value) != 1:
                raise ValueError("expected a name, or one name with its fields; write {name: {field: value}}")
            ((name, config),) = value.items()
            return {"name": name, "config": {} if config is None else config}
        return value


class NamedJudge(Named):
    """A judge by name with its fields. A config field of this type says whom a method learns from."""


class NamedMethod(Named):
    """An installed method by name with its fields. A config field of this type is what a method builds on."""


class NamedSource(Named):
    """A data source by name, path or hub id with its fields."""


class Sampling(Settings):
    """How answers are drawn. Every log-probability is taken at temperature 1 over the full vocabulary."""

    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits before a token is drawn; 0 takes the likeliest token."""
    top_k: int = Field(default=0, ge=0)
    """Draw among the k likeliest tokens; 0 for all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that hold this probability."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Tokens after which an answer is cut."""


class Select(Settings):
    """How the weights of a training are chosen, where they are not its last."""

    by: NamedJudge
    """Who scores the answers; `{reward-model: {train_on: train}}` is the reward model of the training rows."""
    on: Literal["validation"] = "validation"
    """Whose prompts are answered."""
    looks: int = Field(default=16, ge=2)
    """How often the policy is looked at, at equal distances; the last look is at the end."""
    prompts: int = Field(default=64, ge=1)
    """Prompts answered at each look."""
    sampling: Sampling = Sampling()
    """How they are answered."""


class Labelling(Settings):
    """How a judge's preferences become rows: answers are drawn, compared, and kept or dropped."""

    answers: int = Field(default=2, ge=2)
    """Answers drawn for each prompt; equal ones count once."""
    form: Literal["pairs", "rankings"] = "pairs"
    """One row for each comparison, or one for each prompt, ranked by how often an answer is preferred."""
    soft: bool = True
    """Keep the judge's probability as the label of each comparison, instead of a plain one."""
    ties: float = Field(default=0.0, ge=0, lt=0.5)
    """A pair whose probability is closer to one half than this is dropped, a tie of a ranking."""
    consistent: bool = False
    """Drop pairs of which the judge prefers the other answer when their order is changed."""
    constitution: str | None = None
    """Draw a principle for each comparison: a file with one on each line, `built-in`, `sandbox`, or none."""
    sampling: Sampling = Sampling()
    """How the answers are drawn."""
    people: int = Field(default=64, ge=0)
    """Held-out pairs of the data that the judge labels too, to be held against the people who did; 0 for none."""


class Revising(Settings):
    """How a policy corrects its own answers: a critique and a revision for each principle drawn."""

    rounds: int = Field(default=1, ge=0)
    """Revisions of each answer, one after the other; 0 keeps it as it was drawn."""
    critique: bool = True
    """Write down what is wrong before revising."""
    constitution: str = "built-in"
    """The principles: a file with one on each line, `built-in`, or `sandbox`."""
    wording: Literal["plain", "sandbox"] = "plain"
    """Requests in plain English for any chat model, or those that the sandbox's model was taught."""
    sampling: Sampling = Sampling()
    """How answers, critiques and revisions are drawn."""


class Budget(Settings):
    """What every method may spend. Exactly one of the five units is set."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the kept training rows."""
    rows: int | None = Field(default=None, gt=0)
    """Rows drawn, counting a row each time it is drawn."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps."""
    tokens: int | None = Field(default=None, gt=0)
    """Positions with gradient plus positions generated."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time inside `align`; outside the promise of identical bytes."""
    scope: Literal["own", "chain"] = "own"
    """Whether the budget is the method's own, or has to pay for its start as well."""

    def model_post_init(self, _context: object) -> None:
        units = [unit for unit in ("epochs", "rows", "steps", "tokens", "seconds") if getattr(self, unit)]
        if len(units) != 1:
            raise ValueError(
                f"set exactly one of epochs, rows, steps, tokens, seconds (got {', '.join(units) or 'none'})"
            )

    def __str__(self) -> str:
        ((unit, amount),) = self.model_dump(exclude={"scope"}, exclude_none=True).items()
        said = f"{amount:g}" if isinstance(amount, float) else f"{amount:,}"
        said = f"{said} {unit.removesuffix('s') if amount == 1 else unit}"
        return f"{said} for the whole chain" if self.scope == "chain" else said


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's answer, and what it cost."""

    prompt_id: str
    text: str
    ids: Ids
    """The tokens of the answer, the end-of-sequence token included where the policy stopped by itself."""
    finished: bool
    """False where the answer was cut at `max_new_tokens`."""
    sample: int = 0
    forwards: int = 0
    """Model calls this answer took part in."""
    tokens: int = 0
    """Positions processed for this answer: prompt, answer, and whatever a search looked at."""
    seconds: float = 0.0
    """This answer's share of the wall time."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What a policy says about one response, token by token: float32 arrays of shape [response tokens]."""

    logps: NDArray[np.float32]
    entropy: NDArray[np.float32] | None = None
    """Of the next-token distribution, in nats."""


@runtime_checkable
class Policy(Protocol):
    """Anything that answers prompts: a model with adapters, or a decoder around a frozen one."""

    @property
    def can(self) -> frozenset[Can]:
        """`answer` always; `logprobs`; `adapter` where there are trainable weights on the shared base."""
        ...

    def answer(
        self, prompts: Many[Prompt], sampling: Sampling, key: int, *, samples: int = 1
    ) -> list[Answer]:
        """Answer each prompt `samples` times: prompt by prompt, sample by sample.

        Law: the noise is keyed by (key, prompt id, sample, position), so an answer does not depend on which
        other prompts were asked (in float32).
        """
        ...

    def logprobs(self, sequences: Many[Sequence], *, entropy: bool = False) -> list[TokenScores]:
        """Score each response at temperature 1. Raises PluginError where the policy cannot."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that `Method.restore` (for an adapter: the core) needs to rebuild the policy."""
        ...


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences scored in one forward: under which adapter, and with which head."""

    items: Many[Sequence]
    policy: Policy | None = None
    """The adapter that scores; None is the policy that is being trained."""
    head: Module | None = None
    """None reads log-probabilities off the language-model head; a module maps hidden states
    [tokens, hidden] to values [tokens]. Either reads the state before each response token, the one that
    predicts it. The last token itself is never read: one more, of any kind, gives the state after the end."""
    temperature: float = 1.0
    """Divides the logits before log-probabilities are taken: an on-policy method draws and scores alike."""
    term: str = ""
    """The term of the loss that reads this group, where the loss has several. A term has forwards of its own."""


class Scored(Protocol):
    """What the trainer hands to a loss for one group of sequences: N sequences, R response positions."""

    logps: Tensor
    """float32 [N, R]: log-probability of each response token; 0 outside the mask."""
    values: Tensor
    """float32 [N, R]: the head's values, where the group has a head."""
    mask: Tensor
    """bool [N, R]: True on response tokens, the end of sequence included."""
    rows: int
    """Rows of the whole optimiser step, of which this micro-batch holds a part."""
    tokens: int
    """Response tokens of this group in the whole optimiser step."""
    tolerance: float | None
    """How far two scores of equal policies may differ in this arithmetic: 1e-5 in float32, 1e-2 in less.
    None under dropout, where they cannot be compared."""

    def sums(self) -> Tensor:
        """float32 [N]: the log-probability of each whole response."""
        ...

    def means(self) -> Tensor:
        """float32 [N]: the log-probability of each response divided by its length."""
        ...

    def row_mean(self, values: Tensor) -> Tensor:
        """This micro-batch's share of the mean of `values` over the rows of the step.

        Law: the shares of a step's micro-batches add up to the step's loss, whatever the micro-batch is.
        """
        ...

    def token_mean(self, values: Tensor) -> Tensor:
        """This micro-batch's share of the mean of `values` [N, R] over the response tokens of the step."""
        ...


Batch = TypeVar("Batch")
ScoreFn = Callable[[list[Batch]], Mapping[str, Sequences | Many[Sequence]]]
LossFn = Callable[
    [Mapping[str, Scored], list[Batch]],
    "tuple[Tensor | Mapping[str, Tensor], Mapping[str, Tensor | float]]",
]


class Rows(Protocol, Generic[View]):
    """The kept rows of one split, in one view. Iterating records the ids: the proof of what a method saw."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[View]:
        """The rows as the first epoch sees them."""
        ...

    def epoch(self, number: int) -> list[View]:
        """The rows as epoch `number` (from 0) sees them: a ranking draws another pair each epoch."""
        ...


class Run(Protocol):
    """One cell at work: everything a method may touch."""

    @property
    def start(self) -> Policy:
        """The policy to improve, frozen."""
        ...

    budget: Budget
    batch: int
    """Rows of one optimiser step."""
    seed: int
    folder: Path
    """The only place to write."""

    def rows(self, view: type[View], split: Split = "train", *, draw: Draw = "one") -> Rows[View]:
        """Return the shared rows. `draw` other than `one` is recorded as a departure."""
        ...

    def draw(self, rows: Rows[View], step: int, size: int) -> list[View]:
        """Return the rows of step `step` (from 0) of `size` rows, in the one order that all methods share.

        For on-policy methods; an epoch's last step may be smaller.
        """
        ...

    def adapt(self, start: Policy | None = None, *, name: str = "policy", dropout: bool = True) -> Policy:
        """Return a trainable adapter on the shared base that equals `start` (default: the run's start).

        Without `dropout` it has none, whatever the recipe gives adapters: for methods that score what they drew.
        Raises PluginError where `start` is a decoder, which has no weights to train.
        """
        ...

    def reference(self) -> Policy:
        """The start, frozen, on the same base."""
        ...

    def policy(self, label: str) -> Policy:
        """The finished policy of a label that a config field of type `Label` names."""
        ...

    def model(self, id: str) -> Policy:
        """A second model, by hub id or folder, planned in memory; recorded as a departure."""
        ...

    def judge(self, named: NamedJudge) -> Judge:
        """The judge that a config field of type `NamedJudge` names, ready, and charged to this cell."""
        ...

    def label(
        self, judge: Judge, how: Labelling, *, policy: Policy | None = None, part: slice = ALL
    ) -> list[Any]:
        """Return Pair (or Ranking) rows: answers of `policy` (default: the start), labelled by `judge`.

        Shared by all cells that ask for the same; beside it lies an ordinary preference file. `part` picks
        among the training prompts.
        """
        ...

    def revise(self, prompts: Many[Prompt], how: Revising) -> list[Any]:
        """Return Demonstration rows: answers of the start to `prompts`, revised by itself; shared like labels."""
        ...

    def prompts(self, source: NamedSource, limit: int) -> list[Prompt]:
        """Return prompts that a config field names beside the recipe's rows: a departure."""
        ...

    def stage(
        self,
        method: str,
        *,
        rows: Many[Row] | None = None,
        start: Policy | None = None,
        budget: Budget | None = None,
        **config: Any,
    ) -> Policy:
        """Run an installed method by name and return its policy; cached like a cell.

        `rows` replace the training rows; those without token ids are tokenised, and dropped by length, as the
        shared rows were. `budget` (default: this run's) is what the method may spend on them.
        """
        ...

    def shared(self, make: Callable[[Path], None], **inputs: Any) -> Path:
        """Return the folder that `make` filled, computed once for all cells with equal `inputs`.

        The key also holds base, start, tokenizer, template, rows, seed, library versions and the source of
        the plugin. The random state is set from the key inside `make` and put back after, so that a hit
        equals a miss.
        """
        ...

    def reference_logprobs(self, rows: Rows[Any]) -> Callable[[Many[Sequence]], Tensor]:
        """Return a look-up of the start's log-probabilities, computed once and shared by all cells.

        It maps N sequences of `rows`, of any epoch of the budget, to float32 [N], on the base's device:
        the log-probability of each whole response under the start.
        """
        ...

    def train(
        self,
        policy: Policy,
        batches: Rows[Any] | Callable[[int], list[Any]],
        sequences: ScoreFn[Any],
        loss: LossFn[Any],
        *,
        learning_rate: float,
        modules: Mapping[str, Module] | None = None,
        rates: Mapping[Policy | Module, float] | None = None,
        passes: int = 1,
        select: Select | None = None,
        state: MutableMapping[str, Any] | None = None,
        proxy: Callable[[list[Sequence]], Tensor] | None = None,
    ) -> None:
        """Train `policy` until the budget is spent, with the one trainer that all methods share.

        `batches` is a view of rows, or `f(step)` for on-policy methods. `sequences(batch)` says what is
        scored, under which adapter; `loss(scored, batch)` returns this micro-batch's share of the step's
        loss and numbers to log, without side effects: tensors are shares too and add up, floats are
        constants of the step. A loss of several named terms is their sum; the norm of each term's gradient is
        logged. `modules` are further float32 modules to train; `rates` are peak learning rates other than
        `learning_rate`. `passes` says how often `f(step)` hands out each row it has drawn: the budget counts
        a row once. `select` keeps the best weights on the way instead of the last. `state` holds the method's
        own resumable numbers (JSON values and tensors). `proxy` gives answers the worth, float32 [N], that the
        method takes them to have: where the recipe follows a training, it is set against the yardstick.
        Raises Diverged when a loss or gradient is not finite.
        """
        ...

    def score(self, groups: Mapping[str, Sequences]) -> Mapping[str, Scored]:
        """Score groups of sequences as `train` would, without gradient, whatever their number."""
        ...

    def reward_model(
        self,
        rows: Rows[Any] | None = None,
        *,
        learning_rate: float,
        head_rate: float | None = None,
        epochs: float = 1,
        batching: Literal["per-prompt", "shuffled-pairs"] = "per-prompt",
    ) -> RewardModel:
        """Return a reward model of `rows` (default: the training rows, rankings whole), which starts as `start`.

        Shared by all cells that ask for the same. Its quality on held-out rows goes into the record.
        """
        ...

    def observer(self) -> TrainerCallback:
        """A callback that gives a trainer from elsewhere this run's budget, log and checkpoints."""
        ...

    def charge(self, answers: Many[Answer]) -> None:
        """Charge this cell with what answers cost that were made on the way, as those it learns from.

        Inside `shared` every cell that uses the folder is charged.
        """
        ...

    def log(self, step: int, **numbers: float) -> None:
        """Add a point to this cell's curves."""
        ...

    def depart(self, what: str, shared: str = "", own: str = "") -> None:
        """Record a way in which this method is not treated like the others: `own` instead of `shared`."""
        ...

    def vouch(self, judge: str, **quality: float) -> None:
        """Record how good a judge of the method's own is: shares in [0, 1] by name, in results and report."""
        ...

    def alarm(self, name: str, step: int, text: str) -> None:
        """Say that the training looks sick; the first of each name is kept in the record, and how many came."""
        ...

    def rng(self, stream: str) -> np.random.Generator:
        """A generator for one named purpose (`labels`, `sampling`): keyed by seed and stream."""
        ...


class MethodConfig(Settings):
    """A method's own fields. Each has a default and, as its docstring, a description."""


class Method(ABC):
    """One way of turning feedback into a policy.

    The docstring of a method cites its source. Law: equal (config, seed, rows) give equal answers.
    """

    api: ClassVar[int] = API
    consumes: ClassVar[tuple[type[Row], ...]] = (Pair,)
    """The views it reads; a recipe whose data lacks one is refused before anything runs."""
    on_decoders: ClassVar[bool] = True
    """Whether a decoder that it returns can stand on another decoder; a method that trains never can."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """The method's fields; a subclass of MethodConfig, written inside the method."""

    def __init__(self, config: MethodConfig | None = None):
        self.config: Any = self.Config() if config is None else config

    def reads(self) -> tuple[type[Row], ...]:
        """Return `consumes`, and what its fields make it read beside that."""
        return self.consumes

    @abstractmethod
    def align(self, run: Run) -> Policy:
        """Return the aligned policy."""

    def restore(self, folder: Path, run: Run) -> Policy:
        """Rebuild a decoder that `Policy.save` wrote to `folder`, in another process.

        Adapters are rebuilt by the core; only a method that returns a policy of its own kind writes this.
        """
        raise NotImplementedError(f"{type(self).__name__} returns no policy of its own kind")


@dataclass(frozen=True, slots=True)
class Departure:
    """One way in which a method was not treated like the others; printed, never hidden."""

    what: str
    shared: str = ""
    """The value all others have."""
    own: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        said = f"{self.what}: {self.own}" if self.own else self.what
        return f"{said} instead of {self.shared}" if self.own and self.shared else said
