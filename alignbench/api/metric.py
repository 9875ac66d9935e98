"""The metric contract: one number per prompt from samples, log-probabilities and judgments.

A metric does not average over prompts, so that `alignbench.stats` can pair labels by prompt. A value that cannot
be measured is Missing with the reason: shown as `n/a`, never left out and never a default number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from alignbench.api.config import API, Sampling, Settings
from alignbench.api.judge import Judge, Score
from alignbench.api.policy import Answer, TokenScores
from alignbench.rows import Ids, Prompt, Text
from alignbench.rows import Sequence as Scorable
from alignbench.store import digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Cell",
    "Difference",
    "Evidence",
    "Figure",
    "Measure",
    "Metric",
    "Missing",
    "Need",
    "PairLogprobs",
    "Request",
    "Under",
]

Under = Literal["self", "base", "start"]
"""Whose log-probabilities of a cell's samples: the policy's own, the base's, or those of its start."""

Need = Literal["samples", "logprobs", "entropy", "judge", "comparisons", "pairs", "generations", "texts"]
"""Parts of the evidence that a metric reads; nothing else is computed. `comparisons`: every label judged against
every other, in one batch that shares prefixes."""


NO_JUDGE = "the recipe names no judge"
"""The reason why a metric that needs a judge is missing where there is none."""


ByRater = Mapping[str, Mapping[str, float]]
"""Prompt id -> rater -> value."""


class Cell(NamedTuple):
    """One label at one seed. The untouched model is ("base", seed) at every seed of the recipe."""

    label: str
    seed: int


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Log-probabilities of one held-out pair in nats, summed over each response at temperature 1."""

    row_id: str
    chosen: float
    rejected: float


@dataclass(frozen=True, slots=True)
class Request:
    """Answers that a metric requests from every policy in addition to the evaluation samples.

    Equal requests of several metrics are generated once; requests that differ only in `samples` share the
    first samples of the largest. Their cost counts as evaluation, not as the method's.
    """

    prompts: tuple[Prompt, ...]
    """A prompt without token ids is tokenised like a row's prompt; one with token ids is used unchanged."""
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def key(self) -> str:
        """Digest of prompts and sampling, without the number of samples."""
        asked = [[one.id, [dict(turn) for turn in one.prompt], list(one.prompt_ids)] for one in self.prompts]
        return digest({"asked": asked, "sampling": self.sampling.model_dump(mode="json")})


class Evidence(Protocol):
    """The input of all metrics, computed once: samples of each finished cell, scores and log-probabilities."""

    cells: Sequence[Cell]
    """The finished cells, base among them."""
    prompts: Sequence[Prompt]

    @property
    def judges(self) -> Mapping[str, Judge]:
        """By name, in the recipe's order; columns without a judge's name are of the first one."""
        ...

    root: Path
    """The folder that the recipe's relative paths refer to."""

    def sampling(self, cell: Cell) -> Sampling | None:
        """How a cell's samples were drawn; None where its policy draws in a way of its own. At the label's own
        temperature; for a metric that needs log-probabilities at temperature 1, where the recipe has it."""
        ...

    def start(self, cell: Cell) -> Cell | None:
        """The cell that `cell` started from, base itself for base; None where it is not a cell of this run."""
        ...

    def samples(self, cell: Cell) -> Sequence[Answer]:
        """The answers of a cell, ordered by prompt, then by sample, equally for all cells."""
        ...

    def logprobs(self, cell: Cell, *, under: Under) -> Sequence[TokenScores] | None:
        """Log-probabilities of the cell's own samples, aligned with them; None where that policy has none."""
        ...

    def preference_logprobs(self, cell: Cell) -> Sequence[PairLogprobs] | None:
        """Log-probabilities of the held-out pairs: empty without pairs, None where the policy has none."""
        ...

    def scores(self, judge: str, cell: Cell) -> Sequence[Score]:
        """A judge's scores of a cell's samples, aligned with them."""
        ...

    def compare(self, judge: str, a: Cell, b: Cell) -> Sequence[float | None]:
        """A judge's probabilities that `a`'s sample is better than `b`'s, aligned with both."""
        ...

    def by_rater(self, judge: str, a: Cell, b: Cell) -> Sequence[Mapping[str, float]]:
        """The same by each rater of the judge, aligned with both; empty for a judge that is one instrument."""
        ...

    def generations(self, cell: Cell, request: Request) -> Sequence[Answer]:
        """The cell's answers to a request from the metric's `requests`, ordered by prompt, then by sample."""
        ...

    def score(self, cell: Cell, sequences: Sequence[Scorable]) -> Sequence[TokenScores] | None:
        """Log-probabilities of any sequences under the cell's policy; None where it has none."""
        ...

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[Ids]:
        """The token ids of plain texts, with the tokenizer's special first tokens if `special`."""
        ...

    @property
    def first_token(self) -> int:
        """The token that a text begins with: the beginning-of-sequence token, else the end-of-sequence token."""
        ...

    @property
    def context_length(self) -> int | None:
        """Tokens that the model can attend to; None where its configuration does not say."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The mean of the base's last hidden states over each text, float32 [texts, hidden].

        A text without a token has the state of `first_token`.
        """
        ...

    @property
    def texts(self) -> Sequence[Text]:
        """Held-out pretraining text; none where the recipe names no source of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric of one cell, by prompt."""

    metric: str
    """Dotted for a part: `reward.harmless`."""
    label: str
    seed: int
    values: Mapping[str, float]
    """Prompt (or row) id -> value, the mean over its samples; a prompt without a value is absent."""
    judge: str | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    """None where neither direction is better; such a metric gets differences but no verdict."""
    by_rater: ByRater = field(default_factory=dict)
    """Where the judge is several raters, what each of them gave a prompt; `values` are their means."""
    span: tuple[float, float] | None = None
    """Where a value is an outcome or a mean of outcomes, the least and greatest there is: (0, 1) for what
    happens or does not. Their intervals hold near both ends too (`alignbench.stats.with_prior`)."""
    description: str = ""
    """What the number means, and its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A metric that is missing for one cell, with the reason."""

    metric: str
    label: str
    seed: int
    reason: str
    judge: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of label `a` minus that of label `b` at one seed, by prompt."""

    metric: str
    a: str
    b: str
    seed: int
    values: Mapping[str, float]
    against: int | None = None
    """The seed of `b` where the labels share no seed: every seed of `a` is then compared with every seed of `b`."""
    missing: str = ""
    """Why the two cannot be compared although both were measured."""
    judge: str | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    by_rater: ByRater = field(default_factory=dict)
    """As of a Measure: differences of what the same rater gave both."""
    span: tuple[float, float] | None = None
    """As of a Measure: (-1, 1) for a difference of what happens or does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of a metric, which the report draws with each label in its colour."""

    kind: Literal["histogram", "words", "map"]
    title: str
    """Title, and label of the first axis."""
    description: str
    """How to read it; also the alternative text."""
    data: Mapping[str, Any]
    """By label. histogram: shares [bins], which sum to 1; words: {word: share}, most frequent first; map:
    positions [[x, y], ...]."""
    edges: tuple[float, ...] = ()
    """Bin edges of a histogram [bins + 1], equal for all labels."""


class Metric(ABC):
    """Measures every finished cell, and the differences between labels."""

    api: ClassVar[int] = API
    needs: ClassVar[frozenset[Need]] = frozenset({"samples"})
    by_cell: ClassVar[bool] = False
    """Whether what it says of a cell reads no other cell (its start and base under `logprobs` are none): each cell is
    then measured by a task of its own, in parallel with others, and the evaluation reads the numbers. Without it,
    and where it needs a judge, the evaluation measures all cells in one process."""

    Config: ClassVar[type[Settings]] = Settings
    """The metric's own fields in a recipe: a subclass of Settings, if it has any."""

    name: str = ""
    """What the recipe calls it, which the core sets: the column of a metric that fails."""

    def __init__(self, config: Settings | None = None):
        self.config: Any = self.Config() if config is None else config

    @classmethod
    def check_files(cls, config: Any, root: Path) -> Sequence[str]:
        """Raise AlignbenchError with what is wrong with its files, by what can be read without loading a model.

        `alignbench check` calls it, and a run before anything is trained. Relative paths start from `root`. By default
        `requests` are made, which read the files of their prompts; a metric that reads others checks those too.
        Returns what was not checked: the ids of models that `measure` would download first.
        """
        cls(config).requests(root)
        return ()

    def requests(self, root: Path) -> Sequence[Request]:
        """Return the answers that this metric needs in addition to the samples.

        `root` is the folder that the recipe's relative paths refer to. Raises DataError where a file named in
        the config cannot be read.
        """
        return ()

    def answers(self, root: Path) -> int:
        """Return the number of additional answers of each policy, for the plan."""
        return sum(len(one.prompts) * one.samples for one in self.requests(root))

    @abstractmethod
    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        """Return one entry for each cell of `evidence` and each part of the metric."""

    def figures(self, evidence: Evidence) -> Sequence[Figure]:
        """Return the metric's figures; called after `measure`."""
        return ()

    def differences(
        self, evidence: Evidence, measures: Iterable[Measure | Missing], a: str, b: str
    ) -> list[Difference]:
        """Return `a` minus `b` on their common prompts, for each part and each pair of seeds (`matches`).

        `measures` is the result of `measure`. Law: exchanging `a` and `b` changes only the sign.
        """
        found = {(m.metric, m.judge, m.label, m.seed): m for m in measures if isinstance(m, Measure)}
        parts = dict.fromkeys((metric, judge) for metric, judge, label, _ in found if label == a)
        return [
            Difference(
                metric=metric,
                a=a,
                b=b,
                seed=seed,
                against=against,
                judge=judge,
                unit=one.unit,
                higher_is_better=one.higher_is_better,
                span=one.span and (one.span[0] - one.span[1], one.span[1] - one.span[0]),
                values={
                    id: value - other.values[id] for id, value in one.values.items() if id in other.values
                },
                by_rater={
                    id: {rater: value - theirs[rater] for rater, value in ours.items() if rater in theirs}
                    for id, ours in one.by_rater.items()
                    if (theirs := other.by_rater.get(id))
                },
            )
            for metric, judge in parts
            for seed, against in matches(
                [Cell(m.label, m.seed) for m in found.values() if (m.metric, m.judge) == (metric, judge)],
                a,
                b,
            )
            if (one := found[metric, judge, a, seed])
            and (other := found[metric, judge, b, seed if against is None else against])
        ]


def matches(cells: Iterable[Cell], a: str, b: str) -> list[tuple[int, int | None]]:
    """Return the pairs of seeds to compare: equal seeds as (seed, None), or all pairs where the labels share no
    seed."""
    of: dict[str, list[int]] = defaultdict(list)
    for cell in cells:
        of[cell.label].append(cell.seed)
    shared = [seed for seed in of[a] if seed in of[b]]
    return [(seed, None) for seed in shared] or [(seed, other) for seed in of[a] for other in of[b]]


def histograms(
    values: Mapping[str, Sequence[float] | NDArray[np.floating]], span: tuple[float, float], bins: int = 24
) -> tuple[tuple[float, ...], dict[str, list[float]]]:
    """Return common bin edges [bins + 1] within `span` and each label's shares [bins], to four digits."""
    import numpy as np

    edges = np.linspace(*span, bins + 1)
    shares = {
        label: np.histogram(np.clip(ones, *span), edges)[0] / max(1, len(ones))
        for label, ones in values.items()
    }
    return tuple(edges.tolist()), {
        label: [round(x, 4) for x in ones.tolist()] for label, ones in shares.items()
    }


def by_prompt(samples: Sequence[Answer], values: Iterable[float | None]) -> dict[str, float]:
    """Return the mean of aligned `values` over the samples of each prompt, without None."""
    found: dict[str, list[float]] = defaultdict(list)
    for sample, value in zip(samples, values, strict=True):
        if value is not None:
            found[sample.prompt_id].append(value)
    return {id: fmean(of_one) for id, of_one in found.items()}


def by_prompt_and_rater(samples: Sequence[Answer], values: Iterable[Mapping[str, float]]) -> ByRater:
    """Return the mean of each rater's aligned `values` over the samples of each prompt; empty without raters."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample, of_one in zip(samples, values, strict=True):
        for rater, value in of_one.items():
            found[sample.prompt_id][rater].append(value)
    return {id: {rater: fmean(ones) for rater, ones in of_one.items()} for id, of_one in found.items()}
