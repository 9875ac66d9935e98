"""The public record of a run, `results.json`: everything a report shows, readable without model or plugin."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from fnmatch import fnmatchcase
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from alignbench import layout, store
from alignbench.api.method import Departure
from alignbench.errors import Problem, RecipeError, StorageError

SCHEMA = 5
"""Raised when a reader of the old record would misread the new one; an added field does not raise it.

2: `warnings` (was `alarms`), `learning_curve` (was `checkpoints`) with `score` (was `yardstick`), `log` (was `curves`).
3: `cost` counts all that was computed: `seconds` and `tokens` by kind of work, `flops`, `prompts`, `answer_flops`.
4: next to it, `evaluation/scores.parquet` and `preferences.parquet` (were `judgements` and `verdicts`).
5: the verdict `not told apart` (was `not distinguishable`); no status `degenerate`.
"""

Status = Literal["done", "failed", "diverged", "blocked", "cancelled"]
Estimand = Literal["policies", "method"]
"""`policies`: these trained weights, paired by prompt. `method`: any seed, crossed seed x prompt variance."""
Outcome = Literal["better", "worse", "equivalent", "not told apart"]
"""`equivalent`: closer than the recipe's `evaluation.margin`. Not told apart is not equivalent."""

MIN_RATERS = 3
"""Raters from which an interval is about other raters too; fewer show too little of how much raters vary."""

VOLATILE = (
    "/cost/*seconds",
    "/cost/peak_memory_bytes",
    "/tuning/*seconds",
    "/tuning/peak_memory_bytes",
    "/labels/*/cost/*/*seconds",
    "/labels/*/cost/*/peak_memory_bytes",
    "/labels/*/decoding/*seconds",
    "/cells/*/cost/*seconds",
    "/cells/*/cost/peak_memory_bytes",
    "/command",
    "/environment/started",
    "/environment/finished",
    "/environment/host",
    "/environment/launcher",
)
"""Fields that may differ between two equal runs: JSON pointers (RFC 6901), where `*` matches any part of a
key or any index."""


def _finite(value: Any) -> Any:
    """Return None for a number that is not finite: it must never be ranked or drawn."""
    odd = isinstance(value, Real) and not isinstance(value, int) and not math.isfinite(value)
    return None if odd else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[float, float]


class Section(BaseModel):
    """A frozen part of the record. Unknown keys are ignored, so that added fields do not break a reader."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class StudentT(Section):
    """How uncertain a number is: (centre - truth) / se follows Student's t with `df` degrees of freedom.

    From it follows any test of the number, such as a one-sided one or one against another margin:
    `alignbench.stats.Estimate` has the same fields.
    """

    se: float
    df: float
    tail: float | None = None
    """Degrees of freedom beyond the 95% level, where `df` is itself estimated."""
    centre: float
    """The middle of the interval: the number itself, unless its outcomes have a least and a greatest value."""
    seeds: int
    prompts: int
    of_seeds: float = 0.0
    """The part of se squared that more seeds reduce and more prompts do not."""
    of_prompts: float = 0.0
    """The part of se squared that more prompts reduce and more seeds do not; both reduce what is left."""


class Estimate(Section):
    """A number, or the reason why there is none."""

    value: Number = None
    ci95: Interval | None = None
    n: int | None = None
    """Sample size of the interval: prompts for `policies` (those of one conversation count as one), seeds for
    `method`."""
    raters: int | None = None
    """Raters that the number comes from, where its judge is several or one of them. From three on (`MIN_RATERS`)
    the interval is for other raters too; with fewer it is about these raters only."""
    t: StudentT | None = None
    """Of the estimand `method`; absent where the number is of these policies."""
    missing: str = ""
    """Why there is no value; empty where there is one."""

    @model_validator(mode="before")
    @classmethod
    def _no_number_without_a_reason(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = dict(given)
        if given.get("ci95") is not None and any(_finite(bound) is None for bound in given["ci95"]):
            given["ci95"] = None
        if _finite(given.get("value")) is None:
            given["missing"] = given.get("missing") or (
                "not measured" if given.get("value") is None else f"not a finite number ({given['value']})"
            )
            given["value"] = given["ci95"] = None
        return given


class Measured(Estimate):
    """A metric of one label or cell."""

    estimand: Estimand = "policies"
    method: Estimate | None = None
    """The same metric under the estimand `method`; absent with fewer than three seeds."""

    def decisive(self) -> Measured:
        """The number to show: of the method where three seeds or more estimate it, else of these policies."""
        if self.method is None or self.method.value is None:
            return self
        return Measured(**dict(self.method), estimand="method")


class MetricInfo(Section):
    """What a metric's numbers mean."""

    unit: str = ""
    higher_is_better: bool | None = None
    """None where more is neither better nor worse, as for length."""
    description: str = ""
    judge: str | None = None
    """The judge whose judgments it is computed from, if any."""
    plugin: bool = False
    """Whether it is a plugin's, which the first table shows with alignbench's own."""


class Cost(Section):
    """What was spent, counted where it was computed. None: not counted.

    A token is a position that a model computes; a prompt that several answers share, computed once, counts once.
    What is shared by several cells is counted in full in each.
    """

    seconds: Number = None
    """Wall time inside `align`: the sum of the six below."""
    train_seconds: Number = None
    """In trainings: of the policy, a critic, a reward model."""
    generate_seconds: Number = None
    """Drawing answers: rollouts, and those that are labelled."""
    score_seconds: Number = None
    """Scoring given texts without gradient: references, and rollouts under policy, critic and reward model."""
    search_seconds: Number = None
    """Searching answers."""
    judge_seconds: Number = None
    """Judging."""
    other_seconds: Number = None
    """Everything else, such as loading adapters."""
    tokens: Number = None
    """Tokens in all: the sum of the five below."""
    train_tokens: Number = None
    """With gradient."""
    generated_tokens: Number = None
    """Of answers, and of the prompts read for them."""
    scored_tokens: Number = None
    """Of given texts, without gradient."""
    searched_tokens: Number = None
    judge_tokens: Number = None
    """That judges read or write while a method learns from them."""
    flops: Number = None
    """Floating-point operations, from shapes: of forward passes, and of backward passes by what needs a gradient."""
    forward_passes: Number = None
    """Calls of a model."""
    prompts: Number = None
    """Different rows that entered a loss, or whose prompt was answered."""
    comparisons: Number = None
    """Different comparisons of people whose outcome entered a loss: which of two answers is the better one. An answer
    that is imitated is none."""
    ai_comparisons: Number = None
    """Comparisons that a model made: those it was asked for, and different ones of the data whose outcome entered a
    loss."""
    judge_calls: Number = None
    """Judge calls: a comparison in both orders is two, a text scored by a classifier is one."""
    peak_memory_bytes: Number = None
    """Of the device; on a CPU, of the whole process."""
    answer_tokens: Number = None
    """Tokens computed for one answer of the evaluation, on average."""
    answer_flops: Number = None
    """Floating-point operations of the same."""
    answer_seconds: Number = None
    answer_forwards: Number = None
    """Model calls in which one answer took part."""
    answer_length: Number = None
    """Tokens of one answer, on average."""
    answer_uncached_tokens: Number = None
    """Positions of one answer under plain decoding of the start without a cache; None for a policy that
    decodes plainly itself."""
    answer_uncached_seconds: Number = None
    """Wall time of the same, measured on a subset of the answers."""


class Costs(Section):
    """Mean over the finished seeds."""

    own: Cost = Cost()
    """Of the method itself."""
    chain: Cost = Cost()
    """With every label and shared artefact it depends on, back to base."""


class Decoding(Section):
    """The cost of an answer token of a policy with its own decoder, and its ratio to plain decoding of the start.

    Plain decoding with a cache is measured in the start's own cell, on the same prompts. Plain decoding
    without a cache is computed over the decoder's answers: every token recomputes all positions before it.
    Its positions are counted over all answers, its time is measured on a subset.
    """

    against: str
    """The label whose plain decoding it is compared with."""
    forwards: Number = None
    """Model calls for each answer token."""
    tokens: Number = None
    """Positions for each answer token."""
    seconds: Number = None
    """Wall time for each answer token."""
    cached_forwards: Number = None
    """Ratio to the model calls of plain decoding, with a cache or without."""
    cached_tokens: Number = None
    """Ratio to the positions of plain decoding with a cache."""
    cached_seconds: Number = None
    """Ratio to the wall time of plain decoding with a cache."""
    uncached_tokens: Number = None
    """Ratio to the positions of plain decoding without a cache."""
    uncached_seconds: Number = None
    """Ratio to the wall time of plain decoding without a cache."""


class TuningScore(Section):
    """The tuning judge's scores of a label's answers to validation prompts at one temperature."""

    temperature: float
    score: Estimate


class Choice(Section):
    """The sampling temperature that a label is ranked at, and how it was chosen."""

    temperature: Number = None
    """None: the policy ignores the temperature."""
    judge: str | None = None
    """The judge whose tuning judge chose it."""
    prompts: int = 0
    """Validation prompts that chose it, all seeds together."""
    same_prompts: bool = False
    """Whether the label is ranked on the prompts that chose it: its numbers are then too high."""
    scores: tuple[TuningScore, ...] = ()
    """At every temperature."""
    reason: str = ""
    """Why validation prompts did not choose it; empty where they did."""


class LabelResult(Section):
    """One row of the comparison, over all seeds."""

    label: str
    method: str | None = None
    """None for base."""
    distribution: str | None = None
    version: str | None = None
    start: str | dict[str, str] | None = None
    """A label, `{adapter: ...}` or `{model: ...}`; None for base."""
    departures: tuple[Departure, ...] = ()
    seeds: tuple[int, ...] = ()
    sampling: Choice | None = None
    """The temperature at which `metrics` were measured; None where no cell finished."""
    metrics: dict[str, Measured] = {}
    """At the label's own temperature; divergences and entropies at temperature 1, where the recipe has it."""
    cost: Costs = Costs()
    """That of an answer is the one at the label's temperature."""
    same_cost_as: str | None = None
    """The label whose answers cost what its own do: this one is its control."""
    decoding: Decoding | None = None
    """None where the policy decodes plainly, or its start is not a label of the run."""


class CurvePoint(Section):
    """One evaluation during training, on the validation prompts of `evaluation.curve`."""

    step: int
    score: Estimate | None = None
    """Mean score of the first evaluation judge, which training never sees."""
    proxy: Estimate | None = None
    """Mean reward that the method learns from; None where it has none."""
    kl: Estimate | None = None
    """`kl.base` of these answers, nats per response."""


class CellResult(Section):
    """One label at one seed. A cell that did not finish is listed with its reason, never left out."""

    label: str
    seed: int
    status: Status
    reason: str = ""
    metrics: dict[str, Measured] = {}
    warnings: tuple[str, ...] = ()
    """Signs that training went wrong, each with the step at which it first appeared."""
    judges: tuple[dict[str, Any], ...] = ()
    """Judges trained in this cell, such as a reward model, each with its `name` and its `quality`."""
    device: str | None = None
    """The model of the device it was trained on; None in a run that did not record it."""
    cost: Cost = Cost()
    samples: str | None = None
    """Parquet of this cell's answers, relative to the run's folder."""
    log: str | None = None
    """JSON lines of the numbers logged while it trained, relative to the run's folder."""
    learning_curve: tuple[CurvePoint, ...] = ()
    """From first to last step, where the recipe sets `evaluation.curve`."""


class Comparison(Section):
    """Two labels on one metric: `difference` is a's value minus b's."""

    a: str
    b: str
    metric: str
    judge: str | None = None
    estimand: Estimand = "policies"
    difference: Number = None
    """For `win_rate`, the rate at which a wins against b, minus one half."""
    ci95: Interval | None = None
    t: StudentT | None = None
    """Of the estimand `method`; absent where the difference is of these policies."""
    p_value: Number = None
    p_holm: Number = None
    """Corrected for all pairs of labels on this metric: the verdict is based on it."""
    p_holm_all: Number = None
    """Corrected for all pairs on all metrics that have a verdict, at once, under the same estimand."""
    p_permutation: Number = None
    """Of a paired permutation test over prompts, uncorrected: a large gap to `p_value` casts doubt on t."""
    verdict: Outcome | None = None
    """Of a against b; None where nothing could be compared."""
    margin: Number = None
    """The recipe's `evaluation.margin` for this metric."""
    p_equivalence: Number = None
    """Of two one-sided tests (TOST) of a difference beyond the margin, corrected as `p_holm` is."""
    smallest_detectable: Number = None
    """The smallest difference that such a run finds with 80 % power, from the variance of all pairs."""
    seeds: tuple[int, ...] = ()
    """The seeds of a that were compared."""
    against: tuple[int, ...] = ()
    """The seeds of b, where the two share none that was measured: each is compared with every one of `seeds`."""
    raters: int | None = None
    """As of an Estimate."""
    missing: str = ""
    """Why there is no difference."""

    def swapped(self) -> Comparison:
        """The same comparison with a and b exchanged."""
        opposite: dict[Outcome, Outcome] = {"better": "worse", "worse": "better"}
        return self.model_copy(
            update={
                "a": self.b,
                "b": self.a,
                "difference": None if self.difference is None else -self.difference,
                "ci95": None if self.ci95 is None else (-self.ci95[1], -self.ci95[0]),
                "t": None if self.t is None else self.t.model_copy(update={"centre": -self.t.centre}),
                "verdict": None if self.verdict is None else opposite.get(self.verdict, self.verdict),
                "seeds": self.against or self.seeds,
                "against": self.seeds if self.against else (),
            }
        )


class SettingResult(Section):
    """All labels at one temperature; a label that ignores it has the same numbers at each.

    Holds the metrics that depend on how answers are drawn. Expensive judges judge the chosen temperature only,
    unless the recipe sets `evaluation.judge_every_setting`.
    """

    temperature: float
    labels: dict[str, dict[str, Measured]] = {}
    comparisons: tuple[Comparison, ...] = ()


class Point(Section):
    """One policy on the frontier of reward against distance from base."""

    label: str
    seed: int
    step: int | None = None
    """Of an evaluation during training, on the prompts of `evaluation.curve`; None for the finished policy."""
    kl: Estimate
    """`kl.base`, nats per response."""
    reward: Estimate
    """The first judge's score."""


class DataCounts(Section):
    """The shared table of rows: what was kept, what was dropped and why."""

    model_config = ConfigDict(extra="allow")

    kept: dict[str, int] = {}
    """Rows of each split."""
    dropped: dict[str, int] = {}
    """Rows by reason."""
    fingerprints: dict[str, Any] = {}


class Model(Section):
    """What was found out about the base when it was loaded."""

    weights: int | None = None
    """Weights of the whole base."""
    shares: dict[str, float] = {}
    """Shares of the weights that are `quantised`, that are `adapted`, and that are `neither`."""
    paths: dict[str, Any] = {}
    """The fast paths that were tried against the plain forward, and whether each is taken."""
    slower: tuple[str, ...] = ()
    """What is computed on a slower path, because the fast one gave other numbers."""


class Results(Section):
    """A whole run."""

    schema_: int = Field(SCHEMA, alias="schema", ge=1)
    run: str = ""
    """The run's name: that of its folder."""
    command: str = ""
    """The command that reproduces it."""
    registry: str = ""
    """Digest of the registry of claims in which the run was registered before it began; empty for any other run."""
    recipe: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    fairness: dict[str, Any] = {}
    """What was equal for all labels, field by field."""
    model: Model = Model()
    data: DataCounts = DataCounts()
    judges: tuple[dict[str, Any], ...] = ()
    """Each evaluation judge with its `name` and its measured quality."""
    metrics: dict[str, MetricInfo] = {}
    """What the metrics of labels and cells mean, in display order."""
    labels: tuple[LabelResult, ...] = ()
    cells: tuple[CellResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    """Each label at its own temperature."""
    settings: tuple[SettingResult, ...] = ()
    """All labels at each temperature, where the recipe names several."""
    frontier: tuple[Point, ...] = ()
    """Reward and distance from base of every finished cell, each a number or the reason why there is none; both at
    temperature 1, where the recipe has it and the judge of the reward judged there.

    After them the evaluations during training, where the recipe sets `evaluation.curve`.
    """
    cost: Cost = Cost()
    """Of all cells, what they share counted in each."""
    tuning: Cost = Cost()
    """Of the trials of a sweep, which are a run of their own. They are in no label's cost: all labels have as many."""
    evaluation: Cost = Cost()
    """Of the answers that metrics request in addition to the samples. They are in no label's cost."""
    volatile: tuple[str, ...] = VOLATILE
    _indexed: (
        tuple[tuple[Comparison, ...], dict[tuple[str, str, frozenset[str]], list[Comparison]]] | None
    ) = PrivateAttr(None)

    def label(self, name: str) -> LabelResult | None:
        return next((label for label in self.labels if label.label == name), None)

    def temperature(self, label: str) -> float | None:
        """Return the sampling temperature that a label is ranked at; None where its policy ignores it."""
        found = self.label(label)
        return None if found is None or found.sampling is None else found.sampling.temperature

    def cells_of(self, label: str) -> tuple[CellResult, ...]:
        return tuple(cell for cell in self.cells if cell.label == label)

    def comparison(
        self, a: str, b: str, metric: str, estimand: Estimand = "policies", judge: str | None = None
    ) -> Comparison | None:
        """Return `a` compared with `b`, whatever the stored order; None where there is no such comparison.

        Without `judge`, the comparison of the first judge.
        """
        for one in self._of_pair().get((metric, estimand, frozenset((a, b))), ()):
            if judge in (None, one.judge):
                return one if (one.a, one.b) == (a, b) else one.swapped()
        return None

    def _of_pair(self) -> dict[tuple[str, str, frozenset[str]], list[Comparison]]:
        """Return the comparisons of every two labels on a metric, under an estimand, in the stored order."""
        if self._indexed is None or self._indexed[0] is not self.comparisons:  # a copy may have others
            found = defaultdict(list)
            for one in self.comparisons:
                found[one.metric, one.estimand, frozenset((one.a, one.b))].append(one)
            self._indexed = self.comparisons, found
        return self._indexed[1]

    def decisive(self, a: str, b: str, metric: str) -> Comparison | None:
        """Return the comparison that a verdict is about: of the method where three seeds or more estimate it,
        else of these policies."""
        method = self.comparison(a, b, metric, "method")
        known = method is not None and method.difference is not None
        return method if known else self.comparison(a, b, metric)


def read(path: Path | str) -> Results:
    """Return the record in `path`, a run's folder or its `results.json`.

    Raises RecipeError where there is none or another version of alignbench wrote it, StorageError where it is
    corrupt or cannot be read.
    """
    path = Path(path)
    file = path / layout.RESULTS if path.is_dir() else path
    try:
        record = json.loads(file.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise RecipeError(
            Problem("there is no record of a run here", "name the folder of a finished run", str(file))
        ) from error
    except OSError as error:
        raise StorageError(
            Problem(f"cannot be read: {error.strerror}", "check its permissions", str(file))
        ) from error
    except json.JSONDecodeError as error:
        raise _corrupt(file, f"is not JSON: {error.msg}", error.lineno, error.colno) from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(file, f"is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise _corrupt(file, "is not a record of a run: it has no `schema` number")
    if record["schema"] != SCHEMA:
        newer = record["schema"] > SCHEMA
        raise RecipeError(
            Problem(
                f"was written by {'a newer' if newer else 'an older'} alignbench "
                f"(schema {record['schema']}; this one reads {SCHEMA})",
                "upgrade: pip install -U alignbench"
                if newer
                else "run its recipe again in a new folder, or read it with the alignbench that wrote it",
                str(file),
                field="schema",
            )
        )
    try:
        return Results.model_validate(record)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = [
            Problem(one["msg"], _AGAIN, str(file), field=".".join(str(part) for part in one["loc"]))
            for one in found[:20]
        ]
        raise StorageError(problems, total=len(found)) from error


def write(results: Results, folder: Path | str) -> Path:
    """Write `results.json` into `folder`, whole or not at all, and return its path.

    Law: equal results in equal order give equal bytes; a number that is not finite is written as a string.
    Raises StorageError where it cannot be written.
    """
    file = Path(folder) / layout.RESULTS
    store.write_text(file, as_bytes(as_json(results)).decode("utf-8"))
    return file


def as_json(results: Results) -> dict[str, Any]:
    """Return the record as plain JSON values; a number that is not finite becomes a string."""
    return _plain(results.model_dump(by_alias=True))


def as_bytes(record: Any) -> bytes:
    """Return a record's bytes: keys in their own order, indented by one, UTF-8, a newline at the end."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape


def without_volatile(results: Results) -> bytes:
    """Return the record's bytes without the fields that may differ between two equal runs."""
    pointers = (pointer.split("/")[1:] for pointer in results.volatile)
    routes = [[part.replace("~1", "/").replace("~0", "~") for part in parts] for parts in pointers]
    return as_bytes(_without(as_json(results), routes))


_AGAIN = "the file is damaged: run the recipe again, finished cells are kept"


def _corrupt(file: Path, what: str, line: int | None = None, column: int | None = None) -> StorageError:
    return StorageError(Problem(what, _AGAIN, str(file), line, column))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without importing it
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int) else str(value)


def _without(value: Any, routes: list[list[str]]) -> Any:
    if isinstance(value, list):
        return [_without(one, _below(str(place), routes)) for place, one in enumerate(value)]
    if not isinstance(value, dict):
        return value
    below = {name: _below(name, routes) for name in value}
    return {name: _without(one, below[name]) for name, one in value.items() if [] not in below[name]}


def _below(name: str, routes: list[list[str]]) -> list[list[str]]:
    return [route[1:] for route in routes if route and fnmatchcase(name, route[0])]
