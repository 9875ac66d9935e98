"""The public record of a run, `results.json`: all that reports say, readable without model or plugin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from alignbench import layout, store
from alignbench.api.method import Departure
from alignbench.errors import Problem, RecipeError, StorageError

SCHEMA = 1
"""Rises when a reader of the old record would misread the new one; a field that is only added leaves it."""


Status = Literal["done", "failed", "diverged", "degenerate", "blocked", "cancelled"]
Estimand = Literal["policies", "method"]
"""`policies`: these trained weights, paired by prompt. `method`: any seed, crossed seed x prompt variance."""
Outcome = Literal["better", "worse", "not distinguishable"]

VOLATILE = (
    "/cost/*_seconds",
    "/cost/peak_memory_bytes",
    "/tuning/*_seconds",
    "/tuning/peak_memory_bytes",
    "/labels/*/cost/*/*_seconds",
    "/labels/*/cost/*/peak_memory_bytes",
    "/labels/*/decoding/*seconds",
    "/cells/*/cost/*_seconds",
    "/cells/*/cost/peak_memory_bytes",
    "/command",
    "/environment/started",
    "/environment/finished",
    "/environment/host",
)
"""What may differ between two equal runs: JSON pointers (RFC 6901), where `*` stands for any characters of
a key or for any index."""


def _finite(value: Any) -> Any:
    """Read a number that is no number as absent: it must never be ranked or drawn."""
    odd = isinstance(value, Real) and not isinstance(value, int) and not math.isfinite(value)
    return None if odd else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[float, float]


class Record(BaseModel):
    """A frozen part of the record. Unknown keys are passed over, so that a reader outlives added fields."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class Estimate(Record):
    """A number, or the reason why there is none."""

    value: Number = None
    ci95: Interval | None = None
    n: int | None = None
    """What the interval rests on: prompts for `policies`, seeds for `method`."""
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


class MetricInfo(Record):
    """What a metric's numbers mean."""

    unit: str = ""
    higher_is_better: bool | None = None
    """None where more is neither better nor worse, as for length."""
    description: str = ""
    judge: str | None = None
    """Whose judgement it rests on, if anyone's."""


class Cost(Record):
    """What was spent. None: not counted."""

    train_seconds: Number = None
    """Wall time inside `align`."""
    train_tokens: Number = None
    """Positions with gradient."""
    generated_tokens: Number = None
    """Positions generated while training; for answers that were searched, all that the search computed."""
    forward_passes: Number = None
    comparisons: Number = None
    """Human comparisons used."""
    ai_comparisons: Number = None
    """Comparisons labelled by a model."""
    judge_calls: Number = None
    """Questions put to judges: a comparison in both orders is two, a text that a classifier scores is one."""
    judge_tokens: Number = None
    """Positions that judges processed while they labelled."""
    judge_seconds: Number = None
    peak_memory_bytes: Number = None
    answer_tokens: Number = None
    """Positions processed for one answer of the evaluation, on average."""
    answer_seconds: Number = None
    answer_forwards: Number = None
    answer_length: Number = None
    """Tokens of one answer, on average."""
    answer_uncached_tokens: Number = None
    """Positions of one answer, had the start decoded it plainly and read all again for every token; None
    for a policy that decodes plainly itself."""
    answer_uncached_seconds: Number = None
    """Wall time of the same, measured on some of the answers, side by side."""


class Costs(Record):
    """Mean over the finished seeds."""

    own: Cost = Cost()
    """Of the method itself."""
    chain: Cost = Cost()
    """With every label and shared artefact it stands on, back to base."""


class Decoding(Record):
    """What an answer token costs a policy with a decoder of its own, and how many times what its start takes.

    Plain decoding with a cache is the start's own, in its own cell, on the same prompts. Without a cache the
    start is taken through the decoder's own answers, each token reading again all before it: as many model
    calls, positions counted over all answers, time measured on some.
    """

    against: str
    """The label whose plain decoding it is held against."""
    forwards: Number = None
    """Model calls for each answer token."""
    tokens: Number = None
    """Positions for each answer token."""
    seconds: Number = None
    """Wall time for each answer token."""
    cached_forwards: Number = None
    """Times the model calls of plain decoding, with a cache or without."""
    cached_tokens: Number = None
    """Times the positions of plain decoding with a cache."""
    cached_seconds: Number = None
    """Times the wall time of plain decoding with a cache."""
    uncached_tokens: Number = None
    """Times the positions of plain decoding without a cache."""
    uncached_seconds: Number = None
    """Times the wall time of plain decoding without a cache."""


class LabelResult(Record):
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
    metrics: dict[str, Measured] = {}
    cost: Costs = Costs()
    decoding: Decoding | None = None
    """None where the policy decodes plainly, or its start is no label of the run."""


class Checkpoint(Record):
    """What a policy on its way was worth, over the validation prompts of `evaluation.curve`."""

    step: int
    yardstick: Estimate | None = None
    """Of the evaluation's first judge, whom the training never sees."""
    proxy: Estimate | None = None
    """Of the reward that the method learns from; None where it has none."""
    kl: Estimate | None = None
    """`kl.base` of these answers, nats per response."""


class Cell(Record):
    """One label at one seed. A cell that did not finish is a cell with a reason, never a hole."""

    label: str
    seed: int
    status: Status
    reason: str = ""
    metrics: dict[str, Measured] = {}
    alarms: tuple[str, ...] = ()
    """Signs of a sick training, each with the step at which it was first seen."""
    judges: tuple[dict[str, Any], ...] = ()
    """Judges trained on the way, such as a reward model, each with its `name` and its `quality`."""
    cost: Cost = Cost()
    samples: str | None = None
    """Parquet of this cell's answers, relative to the run's folder."""
    curves: str | None = None
    """JSON lines of its training curves, relative to the run's folder."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """From its start to its end, where the recipe asks for `evaluation.curve`."""


class Comparison(Record):
    """Two labels on one metric: `difference` is a's value minus b's."""

    a: str
    b: str
    metric: str
    judge: str | None = None
    estimand: Estimand = "policies"
    difference: Number = None
    """For `win_rate`, a's rate of wins over b, minus one half."""
    ci95: Interval | None = None
    p_value: Number = None
    p_holm: Number = None
    """Corrected for all pairs of labels on this metric: what the verdict stands on."""
    p_holm_all: Number = None
    """Corrected for all pairs on all metrics that have a verdict, at once, under the same estimand."""
    p_permutation: Number = None
    """Of a paired permutation test over prompts, uncorrected: where it differs much, t is in doubt."""
    verdict: Outcome | None = None
    """Of a, as seen from b; None where nothing could be compared."""
    smallest_detectable: Number = None
    """The smallest difference that this run would have found four times out of five."""
    missing: str = ""
    """Why there is no difference."""

    def swapped(self) -> Comparison:
        """The same comparison with a and b in each other's place."""
        opposite: dict[Outcome, Outcome] = {"better": "worse", "worse": "better"}
        return self.model_copy(
            update={
                "a": self.b,
                "b": self.a,
                "difference": None if self.difference is None else -self.difference,
                "ci95": None if self.ci95 is None else (-self.ci95[1], -self.ci95[0]),
                "verdict": None if self.verdict is None else opposite.get(self.verdict, self.verdict),
            }
        )


class Point(Record):
    """One policy on the plane of reward against distance from base."""

    label: str
    seed: int
    step: int | None = None
    """Of a policy on its way, measured on the prompts of `evaluation.curve`; None for the finished one."""
    kl: Estimate
    """`kl.base`, nats per response."""
    reward: Estimate
    """The first judge's score."""


class DataCounts(Record):
    """The one table of rows: what was kept, what was not and why."""

    model_config = ConfigDict(extra="allow")

    kept: dict[str, int] = {}
    """Rows of each split."""
    dropped: dict[str, int] = {}
    """Rows by reason."""
    fingerprints: dict[str, Any] = {}


class Results(Record):
    """A whole run."""

    schema_: int = Field(SCHEMA, alias="schema", ge=1)
    run: str = ""
    """The run's name: its folder's."""
    command: str = ""
    """What reproduces it."""
    recipe: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    fairness: dict[str, Any] = {}
    """What was equal for all labels, field by field."""
    data: DataCounts = DataCounts()
    judges: tuple[dict[str, Any], ...] = ()
    """Each with its `name` and what is known about its quality."""
    metrics: dict[str, MetricInfo] = {}
    """What the metrics of labels and cells mean, in the order in which to show them."""
    labels: tuple[LabelResult, ...] = ()
    cells: tuple[Cell, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    frontier: tuple[Point, ...] = ()
    """Every finished cell's reward and distance from base, each a number or the reason why there is none.

    Behind them the policies on the way there, where the recipe asks for `evaluation.curve`.
    """
    cost: Cost = Cost()
    """Of the whole run, every shared artefact counted once."""
    tuning: Cost = Cost()
    """Of the trials of a sweep, a run of their own: no label is charged with them, since all had as many."""
    evaluation: Cost = Cost()
    """Of the answers that metrics asked for beside the samples: no label is charged with them."""
    volatile: tuple[str, ...] = VOLATILE

    def label(self, name: str) -> LabelResult | None:
        return next((label for label in self.labels if label.label == name), None)

    def cells_of(self, label: str) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.label == label)

    def comparison(
        self, a: str, b: str, metric: str, estimand: Estimand = "policies", judge: str | None = None
    ) -> Comparison | None:
        """Return how `a` compares with `b`, whichever way round it is stored; None where it was not done.

        Without `judge`, the first judge's.
        """
        for one in self.comparisons:
            if one.metric == metric and one.estimand == estimand and judge in (None, one.judge):
                if (one.a, one.b) == (a, b):
                    return one
                if (one.a, one.b) == (b, a):
                    return one.swapped()
        return None


def read(path: Path | str) -> Results:
    """Return the record in `path`, a run's folder or its `results.json`.

    Raises RecipeError where there is none or it was written by a newer alignbench, StorageError where it is
    corrupt or cannot be read.
    """
    path = Path(path)
    file = path / layout.RESULTS if path.is_dir() else path
    try:
        record = json.loads(file.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise RecipeError(
            Problem("there is no such record", "name the folder of a finished run", str(file))
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
    if record["schema"] > SCHEMA:
        raise RecipeError(
            Problem(
                f"was written by a newer alignbench (schema {record['schema']}; this one reads {SCHEMA})",
                "upgrade: pip install -U alignbench",
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

    Law: equal results, made in equal order, give equal bytes; a number that is not finite is never written
    as one.
    Raises StorageError where the disk will not take it.
    """
    file = Path(folder) / layout.RESULTS
    store.write_text(file, as_bytes(as_json(results)).decode("utf-8"))
    return file


def as_json(results: Results) -> dict[str, Any]:
    """Return the record as plain JSON values; a number that is not finite is its name, as a string."""
    return _plain(results.model_dump(by_alias=True))


def as_bytes(record: Any) -> bytes:
    """Return the one way to write a record: its own order, indented by one, UTF-8, a newline at the end."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape


def without_volatile(results: Results) -> bytes:
    """Return the record's bytes without the fields that may differ between two equal runs."""
    record = as_json(results)
    for pointer in results.volatile:
        _remove(record, [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]])
    return as_bytes(record)


_AGAIN = "the file is damaged; run the recipe again: finished cells are kept"


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


def _remove(record: Any, parts: list[str]) -> None:
    if not parts:
        return
    head, rest = parts[0], parts[1:]
    for key in list(_keys(record, head)):
        if rest:
            _remove(record[key], rest)
        elif isinstance(record, dict):
            del record[key]


def _keys(record: Any, pattern: str) -> Iterator[Any]:
    before, star, after = pattern.partition("*")
    if isinstance(record, list):
        yield from range(len(record)) if pattern == "*" else [int(pattern)] if pattern.isdigit() else ()
    elif isinstance(record, dict):
        for key in record:
            fits = key.startswith(before) and key.endswith(after) and len(key) >= len(before) + len(after)
            if fits if star else key == pattern:
                yield key
