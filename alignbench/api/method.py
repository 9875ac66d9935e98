"""The contract of a method: what it is given, `Run`, what it returns, and the laws between them.

Nothing heavy is imported here, and a plugin's module should import torch only inside the functions that
need it: a recipe is checked and planned without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Protocol,
    TypeAlias,
    TypeVar,
)

from alignbench.rows import Pair, Row, Sequence, View

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Module

    from alignbench.api.judge import Judge

from alignbench.api.config import (
    API,
    Budget,
    NamedJudge,
    Sampling,
    Select,
    Settings,
    Split,
    Training,
)
from alignbench.api.policy import Policy, TrainablePolicy


@dataclass(frozen=True, slots=True)
class ScoringGroup:
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
    kl_from: Policy | None = None
    """Another policy, of weights, whose distributions of each next token are compared with these: see
    `GroupScores.kl`. It costs a forward of that policy without gradient and twice the head."""
    term: str = ""
    """The term of the loss that reads this group, where the loss has several. A term has forwards of its own."""


@dataclass(frozen=True, slots=True)
class PerToken:
    """One value for each response token of a named group: what `GroupScores.per_token` returns."""

    values: Tensor
    """[N, R]; values outside the group's mask are ignored."""
    group: str


class GroupScores(Protocol):
    """The scores of one group of sequences: N sequences, at most R response tokens each."""

    logps: Tensor
    """float32 [N, R]: log-probability of each response token; 0 outside the mask."""
    values: Tensor
    """float32 [N, R]: the head's values, where the group has a head."""
    kl: Tensor
    """float32 [N, R]: KL(`kl_from` || the policy that scores) over the whole vocabulary where each response token
    stands, in nats; 0 outside the mask. Only where the group has `kl_from`, which gets no gradient."""
    mask: Tensor
    """bool [N, R]: True on response tokens, the end of sequence included."""
    tolerance: float | None
    """How far two scores of equal policies may differ in this arithmetic: 1e-5 in float32, 1e-2 in less.
    None under dropout, where they cannot be compared."""

    def sums(self) -> Tensor:
        """float32 [N]: the log-probability of each whole response."""
        ...

    def means(self) -> Tensor:
        """float32 [N]: the log-probability of each response divided by its length."""
        ...

    def per_token(self, values: Tensor) -> PerToken:
        """Return `values` [N, R] as values of this group's tokens, for a loss that scores several groups.

        Raises PluginError where they do not have the shape of `mask`.
        """
        ...


Values: TypeAlias = "Tensor | PerToken"
"""What a loss returns of a micro-batch, unreduced. A tensor [n] holds one value for each row: its mean over
the rows of the optimiser step is taken. A tensor [N, R], or `GroupScores.per_token`, holds one value for each
response token of a group: its mean over the group's response tokens of the step is taken."""
Loss: TypeAlias = "Values | Many[Values] | Mapping[str, Values | Many[Values]]"
"""A list of values is the sum of their means. A mapping names the terms of a loss that is their sum; the norm
of each term's gradient is logged as `grad_norm/<term>`."""
Numbers: TypeAlias = "Mapping[str, Values | float]"
"""Numbers to log. Tensors are reduced as a loss is, without gradient; a float is a constant of the step."""

Batch = TypeVar("Batch")
ScoreFn: TypeAlias = Callable[[list[Batch]], Mapping[str, ScoringGroup | Many[Sequence]]]
LossFn: TypeAlias = Callable[[Mapping[str, GroupScores], list[Batch]], "tuple[Loss, Numbers]"]


class Rows(Protocol, Generic[View]):
    """Rows in one view: the kept rows of a split, or rows that a method made."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[View]:
        """The rows as the first epoch sees them."""
        ...

    def epoch(self, number: int) -> list[View]:
        """The rows as epoch `number` (from 0) sees them: a ranking draws another pair each epoch."""
        ...

    def sequences(self) -> list[Sequence]:
        """Every sequence that the rows of any epoch have, each once."""
        ...


class Record(Protocol):
    """What a method adds to the record of its cell; all of it stands in the results and the report."""

    def departure(self, what: str, shared: str = "", own: str = "") -> None:
        """Record a difference in how this method is treated: `own` instead of `shared`."""
        ...

    def judge(self, name: str, **quality: Any) -> None:
        """Record how good a judge of the method's own is: shares in [0, 1] by name.

        `of_rows`, where given, has such shares for each held-out row by its id. It stays in the cell's record, and
        lets two judges be compared on the same rows.
        """
        ...

    def warning(self, name: str, step: int, text: str) -> None:
        """Warn that the training may have failed. The first of each name is kept, and how many came."""
        ...


class Checkpoints(Protocol):
    """The checkpoints of one training. A value holds nested dicts and lists of tensors and JSON values."""

    def last(self) -> Any:
        """Return the value of the last intact checkpoint; None where there is none."""
        ...

    def due(self) -> bool:
        """Return whether it is time for another one."""
        ...

    def save(self, step: int, value: Any) -> None:
        """Write a value as the checkpoint of a step."""
        ...


class Run(Protocol):
    """One cell at work: everything a method may use.

    Functions over it: `alignbench.feedback` (label, revise, prompts), `alignbench.rewards` (reward, reward_model),
    `alignbench.rollouts` (draw), `alignbench.reference` (logprobs), `alignbench.spending` (parts, affordable),
    `alignbench.integrations` (callback).
    """

    @property
    def start(self) -> Policy:
        """The policy to improve, frozen."""
        ...

    seed: int
    batch: int
    """Rows of one optimiser step."""
    budget: Budget
    """What the cell may spend."""
    root: Path
    """The folder of the recipe: relative paths of a config start here."""

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """How the evaluation asks the policies of the run for answers: one setting for each temperature."""
        ...

    @property
    def training(self) -> Training:
        """How every method trains: the recipe's block `training`, with what the label's own block sets."""
        ...

    @property
    def left(self) -> float:
        """What of `budget` is left, in its own unit."""
        ...

    @property
    def record(self) -> Record:
        """The record of the cell: departures, judges, warnings."""
        ...

    def rows(self, view: type[View], split: Split = "train", given: Many[Row] | None = None) -> Rows[View]:
        """Return the shared rows of a split in one view.

        `given` rows, which the method made (labelled, revised), replace them: tokenised, and dropped by length,
        as the shared rows are.
        """
        ...

    def draw(self, rows: Rows[View], step: int, size: int) -> list[View]:
        """Return the rows of step `step` (from 0) of `size` rows, in the one order that all methods share.

        For on-policy methods; an epoch's last step may be smaller.
        """
        ...

    def adapt(
        self, start: Policy | None = None, *, name: str = "policy", dropout: bool = True
    ) -> TrainablePolicy:
        """Return a trainable adapter on the shared base that equals `start` (default: the run's start).

        Without `dropout` it has none, whatever the recipe gives adapters: for methods that score what they drew.
        Raises PluginError where `start` is a decoder, which has no weights to train.
        """
        ...

    def borrow(self, policy: TrainablePolicy) -> AbstractContextManager[tuple[Any, Any]]:
        """Lend the network to a trainer of another library: `with run.borrow(policy) as (peft_model, tokenizer)`.

        The peft model has one trainable adapter, `default`, which equals `policy`; what it has learnt is the policy's
        at the end of the block, where the network is as it was before: active adapter, `requires_grad`, modes, hooks
        and `forward`. Forward passes in it are charged to the cell. With `alignbench.integrations.callback` the trainer
        keeps the budget. Raises PluginError where the policy is not a trainable adapter.
        """
        ...

    def policy(self, label: str) -> Policy:
        """The finished policy of a label that a config field of type `Label` names; `base` is the untouched base."""
        ...

    def judge(self, named: NamedJudge) -> Judge:
        """The judge that a config field of type `NamedJudge` names, ready; its cost goes to this cell."""
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

        `rows` replace the training rows, as `given` does in `rows`. What the stage spends is taken off this
        run's budget. `budget` is a part of it (`run.budget.part`); default: what is left.
        Raises PluginError where it is more than is left; of seconds, which go by meanwhile, it gets what is left.
        """
        ...

    def shared(self, make: Callable[[Path], None], **inputs: Any) -> Path:
        """Return the folder that `make` filled, computed once for all cells with equal `inputs`.

        The key also holds base, start, tokenizer, template, rows, seed, library versions and the source of
        the plugin. The random state is set from the key inside `make` and put back after, so that a hit
        equals a miss. What making it cost is charged in full to every cell that uses it.
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
        learning_rates: Mapping[Policy | Module, float] | None = None,
        repeats: int = 1,
        select: Select | None = None,
        state: MutableMapping[str, Any] | None = None,
        proxy: Callable[[list[Sequence]], Tensor] | None = None,
        before_step: Callable[[list[Any]], None] | None = None,
        budget: Budget | None = None,
        limit: Budget | None = None,
    ) -> None:
        """Train `policy` until the budget is spent, with the one trainer that all methods share.

        A second training gets what the first has left. `budget` makes it an additional training (a reward
        model, a critic's warm-up): recorded as a departure with its size. Epochs, rows and steps of it are not the
        policy's; tokens, FLOPs and seconds are taken off the cell's budget, and it ends where `limit`, a part of that
        budget (default: what is left), is spent.

        `batches` is a view of rows, or `f(step)` for on-policy methods. `sequences(batch)` says what is
        scored, under which adapter; `loss(scores, batch)` returns `Loss` and `Numbers`, without side effects.
        The trainer masks, reduces and back-propagates: loss, gradient and logged numbers are the same whatever
        the micro-batch is. `modules` are further float32 modules to train; `learning_rates` are peak learning
        rates other than `learning_rate`. `repeats` says how often `f(step)` returns each row it has drawn: the
        budget counts a row once. `select` keeps the best weights on the way instead of the last. `state` holds
        the method's own resumable numbers (JSON values and tensors). `proxy` gives the reward, float32 [N], that
        the method assigns to answers: where the recipe asks for learning curves, the evaluation judge's scores
        are compared with it. `before_step` is called with all rows of a step before they are scored, for a loss
        that needs a number of the whole step, such as a mean or an order; it may call `score`.
        Raises Diverged when a loss or gradient is not finite, and PluginError where nothing is left to spend.
        """
        ...

    def score(self, groups: Mapping[str, ScoringGroup]) -> Mapping[str, GroupScores]:
        """Score groups of sequences as `train` would, without gradient, whatever their number."""
        ...

    def log(self, step: int, **numbers: float) -> None:
        """Add a point to this cell's curves."""
        ...

    def rng(self, stream: str) -> np.random.Generator:
        """A generator for one named purpose (`labels`, `sampling`): keyed by seed and stream."""
        ...


class ExternalRun(Run, Protocol):
    """What a run has in addition for `alignbench.integrations.callback`, which leads a trainer of another library."""

    def checkpoints(self, rows: Rows[Any]) -> Checkpoints:
        """Return the checkpoints of the next training by another library; `rows` are what it reads."""
        ...

    progress: float
    """Share in [0, 1] of the budget that is spent; a trainer of another library sets it for the time left."""

    def trained(
        self,
        *,
        epochs: float,
        rows: float,
        steps: int,
        peak_memory_bytes: int = 0,
        learned: Many[Row] = (),
    ) -> None:
        """Take a training by another library off the budget; `learned`, rows of a view in order, entered its loss.

        `peak_memory_bytes` is the most that it has held: of the device; on a CPU, of the whole process.
        """
        ...


class MethodConfig(Settings):
    """A method's own fields. Each has a default and, as its docstring, a description."""


class Method(ABC):
    """One way of turning feedback into a policy.

    The docstring of a method cites its source. Law: equal (config, seed, rows) give equal answers.
    """

    api: ClassVar[int] = API
    """The contract it was written for; each class states it in its own body, `api = 2`."""
    consumes: ClassVar[tuple[type[Row], ...]] = (Pair,)
    """The views it reads; a recipe whose data lacks one is refused before anything runs."""
    uncounted: ClassVar[tuple[str, ...]] = ()
    """Units of a budget that it cannot measure, since it computes where nothing is counted: `check` refuses them."""
    on_decoders: ClassVar[bool] = True
    """Whether a decoder that it returns can start from another decoder; a method that trains never can."""

    same_cost_as: ClassVar[str] = ""
    """The field of `Config`, of type `Label`, that names the label whose answers cost what its own do: the report
    compares the two. For the control of a decoder."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """The method's fields; a subclass of MethodConfig, written inside the method."""

    def __init__(self, config: MethodConfig | None = None):
        self.config: Any = self.Config() if config is None else config

    def reads(self) -> tuple[type[Row], ...]:
        """Return `consumes`, and what its fields make it read in addition."""
        return self.consumes

    def check_rows(self, rows: Many[Row]) -> None:  # noqa: B027  (most methods learn from any)
        """Raise AlignbenchError where it can learn nothing from these training rows, in a view that it reads.

        `alignbench check --data` calls it for each view, and a run before anything is trained. Comparisons that
        `data.source` has made in the run are not there yet, and are not checked.
        """

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

    def __str__(self) -> str:
        text = f"{self.what}: {self.own}" if self.own else self.what
        return f"{text} instead of {self.shared}" if self.own and self.shared else text
