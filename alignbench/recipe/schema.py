"""The recipe: what is compared, on which model and data, and what every method may spend.

This file is the schema; `alignbench.recipe.load` makes a recipe of a file, with every problem at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from alignbench.api.config import Budget, Label, Labelling, Named, NamedJudge, Sampling, Settings, Training
from alignbench.rows import Pair, Ranking, Row, UnpairedPreference

BASE = "base"
"""The reserved label: the untouched model, always measured."""

RESERVED = ("method", "start", "budget", "training", "seeds", "sweep")
"""Keys of a method block that the core reads or will read; all others are the method's own fields."""


class Adapter(Settings):
    """The shape of every LoRA adapter on the shared base."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Names of the linear layers that get an adapter; the head never does."""


GGUF = ".gguf"
"""How the name of a GGUF file ends."""


class Model(Settings):
    """The shared base."""

    id: str
    """A hub id, a local folder, a GGUF file, or `sandbox`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    gguf: str | None = None
    """A GGUF file of that hub id or folder, instead of its safetensors."""
    sha256: str | None = None
    """The sha256 that the GGUF file must have."""
    quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    """How the frozen weights are stored; 4-bit with double quantisation."""
    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the arithmetic; auto: bfloat16 on a GPU that has it, and on a CPU that multiplies it twice as fast
    as float32, tried once; float32 on others and, on a CPU, for models of less than about 30 million weights."""
    adapter: Adapter = Adapter()
    """The LoRA adapter that every method trains."""
    chat_template: str | None = None
    """A Jinja template, or the path of one, that replaces the tokenizer's; or the name of one of its own."""

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, found: str | None) -> str | None:
        if found is not None and not re.fullmatch("[0-9a-fA-F]{64}", found):
            raise ValueError(f"'{found}' is no sha256; give its 64 hexadecimal digits")
        return None if found is None else found.lower()

    @model_validator(mode="after")
    def _one_file(self) -> Model:
        if self.gguf is not None:
            if self.id.endswith(GGUF):
                raise ValueError("id is a GGUF file, and gguf names one of a folder or hub id; keep one")
            if not self.gguf.endswith(GGUF) or self.gguf.startswith("/") or ".." in self.gguf.split("/"):
                raise ValueError(f"gguf: {self.gguf!r} is not a name of a GGUF file inside {self.id}")
        elif self.sha256 is not None and not self.id.endswith(GGUF):
            raise ValueError("sha256 is that of a GGUF file, and the model is none; leave it out")
        return self


CONVERSATION, PROMPT = "conversation", "prompt"
"""Values of `data.split.by` that are not columns."""


class Where(Settings):
    """How rows are divided into train, validation and test, unless the source divides them itself."""

    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows."""
    by: str = CONVERSATION
    """What stays together: `conversation`, rows with an equal first turn of the user; `prompt`, rows with an
    equal prompt; or a column, rows with an equal value in it."""
    seed: int = Field(default=0, ge=0)
    """Which rows fall where; the same for every seed of the recipe."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Where:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave no row to train on; make them smaller")
        return self


COMPARISONS: tuple[type[Row], ...] = (Ranking, Pair, UnpairedPreference)
"""Views that say which answers are good: those that `data.source` relabels."""

FILE = "file"
"""The comparisons as they came."""

START = "start"
"""Instead of a label in `data.source`: the policy that a method starts from."""


class Relabelled(Settings):
    """Relabelled comparisons: a policy answers the training prompts, and a judge compares its answers."""

    policy: Label = START
    """Who answers: `start`, the policy that each method starts from, or a label, also `base`."""
    judge: NamedJudge = NamedJudge(name="self")
    """Who compares."""
    labels: Labelling = Labelling()
    """How answers are drawn, and preferences become rows."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value


def _kind_of_comparisons(value: Any) -> str | None:
    if value == FILE:
        return "(file)"
    return "(policy)" if isinstance(value, str | Mapping | Relabelled) else None


Comparisons = Annotated[
    Union[  # noqa: UP007  (as for `Start`)
        Annotated[Literal["file"], Tag("(file)")],
        Annotated[Relabelled, Tag("(policy)")],
    ],
    Discriminator(
        _kind_of_comparisons,
        custom_error_type="comparisons",
        custom_error_message="expected 'file', 'start', a label, or {policy: ..., judge: ..., labels: ...}",
    ),
]
"""`file`, `start`, a label, or `{policy: ..., judge: ..., labels: ...}`."""


class Data(Settings):
    """The one table of rows."""

    train: Named
    """A data source plugin, a JSONL or Parquet file, a folder, or a hub id."""
    validation: Named | None = None
    """A separate source for validation rows; otherwise they are split off `train`."""
    test: Named | None = None
    """A separate source for test rows; otherwise they are split off `train`."""
    limit: int | None = Field(default=None, ge=1)
    """Keep at most this many training rows."""
    split: Where = Where()
    """How rows are assigned to training, validation and test."""
    stages: Literal["shared", "disjoint"] = "shared"
    """Whether the stages of one method draw from the same prompts or from three disjoint sets."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt plus answer; a longer row is dropped, for every method alike."""
    allowed_drop: float = Field(default=0.25, ge=0, le=1)
    """Share of the rows that the length filter may drop before it is an error."""
    allow_overlap: bool = False
    """Let evaluation prompts that also occur in the training rows pass."""
    noise: float = Field(default=0.0, ge=0, le=1)
    """Share of the training rows whose label is flipped: how noisy may annotators be?"""
    source: Comparisons = FILE
    """Whose answers the comparisons hold: the `file`'s; or those of `start`, the policy that a method starts
    from, or of a label, compared by a judge: `{policy: start, judge: self, labels: {answers: 2}}`."""
    filters: list[Named] = []
    """Row filters by name, applied in order, before the split."""
    pretraining: Named | None = None
    """A source of plain text, for mixing in and for perplexity."""


class AdapterStart(Settings):
    """An already tuned adapter."""

    adapter: str
    """A hub id or a local folder."""


class ModelStart(Settings):
    """An already tuned model; a departure, since it is another base."""

    model: str
    """A hub id or a local folder."""


def _kind_of_start(value: Any) -> str | None:
    if isinstance(value, str):
        return "(label)"
    if isinstance(value, AdapterStart) or (isinstance(value, Mapping) and "adapter" in value):
        return "(adapter)"
    if isinstance(value, ModelStart) or (isinstance(value, Mapping) and "model" in value):
        return "(model)"
    return None


Start = Annotated[
    Union[  # noqa: UP007  (a pipe between annotated types hides them from pyright)
        Annotated[Label, Tag("(label)")],
        Annotated[AdapterStart, Tag("(adapter)")],
        Annotated[ModelStart, Tag("(model)")],
    ],
    Discriminator(
        _kind_of_start,
        custom_error_type="start",
        custom_error_message="expected 'base', another label, {adapter: path-or-id} or {model: path-or-id}",
    ),
]
"""`base`, another label, `{adapter: path-or-id}` or `{model: path-or-id}`."""


def _each_seed_once(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed is given twice; keep one, equal seeds give equal results")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_each_seed_once)]


class Range(Settings):
    """Values between two bounds, both included; whole numbers where both bounds are."""

    low: float | int
    """The least value."""
    high: float | int
    """The greatest."""
    log: bool = False
    """Draw the logarithm evenly: for learning rates."""

    @model_validator(mode="after")
    def _low_is_lower(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above zero with log")
        return self


class Sweep(Settings):
    """Tuning before the comparison, with the same number of trials for every method."""

    trials: int = Field(ge=2)
    """Settings tried of each method that has a `sweep` block; the first is the one the recipe writes."""
    metric: str = "reward"
    """The column that chooses, on validation prompts."""
    seed: Seed = 100
    """Of the trials, both of their training and of the settings drawn; none of the comparison's seeds."""


class MethodBlock(Settings):
    """One row of the comparison."""

    method: str
    """An installed method by name, or by `distribution:name` where two packages share the name."""
    start: Start
    """The policy it starts from."""
    budget: Budget | None = None
    """Instead of the recipe's: a departure."""
    training: dict[str, Any] = {}
    """Fields of `training` instead of the recipe's: departures."""
    seeds: Seeds | None = None
    """Instead of the recipe's: the label is then compared unpaired, as one trained elsewhere would be."""
    sweep: dict[str, Range | Annotated[list[Any], Field(min_length=1)]] = {}
    """Own field, dotted for a part -> the values that tuning may draw: `{low, high, log}` or a list."""
    config: dict[str, Any] = {}
    """The method's own fields, checked against its `Config` once the plugin is found."""


class Curve(Settings):
    """How a policy is followed while it trains: its answers are kept, and judged when all cells are done."""

    evaluations: int = Field(default=8, ge=1)
    """Evaluations after the start, at equal intervals; the last one is at the end of training."""
    prompts: int = Field(default=64, ge=2)
    """Validation prompts of each evaluation."""


Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SamplingGrid(Settings):
    """How the answers of the evaluation are drawn: one setting for each temperature."""

    temperature: Annotated[list[Temperature], Field(min_length=1)] = [0.0, 0.7, 1.0]
    """One temperature, or a list of them: each policy answers at every one, and the validation prompts choose
    the one it is ranked at. 0 takes the likeliest token."""
    top_k: int = Field(default=0, ge=0)
    """Draw among the k likeliest tokens; 0 for all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that hold this probability."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Tokens after which an answer is cut."""

    @field_validator("temperature", mode="before")
    @classmethod
    def _one_is_a_grid_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("temperature")
    @classmethod
    def _each_once_in_order(cls, value: list[float]) -> list[float]:
        if len(set(value)) != len(value):
            raise ValueError("a temperature stands here twice; keep one")
        return sorted(value)

    def at(self, temperature: float | None) -> Sampling:
        """Return the setting of one temperature; of None, for a policy that ignores it, that of `unscaled`."""
        return self.unscaled if temperature is None else self._setting(temperature)

    @property
    def unscaled(self) -> Sampling:
        """The setting at temperature 1, at which divergences and entropies are defined; else the highest."""
        return self._setting(1.0 if 1.0 in self.temperature else self.temperature[-1])

    def _setting(self, temperature: float) -> Sampling:
        return Sampling(**{**self.model_dump(), "temperature": temperature})


class Evaluation(Settings):
    """How every policy is measured."""

    prompts: int = Field(default=200, ge=2)
    """Prompts asked, the first of the split."""
    split: Literal["test", "validation"] = "test"
    """Whose prompts are asked; validation is for choosing, test for reporting."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Answers of each policy to each prompt."""
    sampling: SamplingGrid = SamplingGrid()
    tuning_prompts: int = Field(default=100, ge=2)
    """Validation prompts that choose each label's temperature, where `sampling` has several; the first."""
    judges: list[Named] = []
    """The evaluation judges; columns without a judge's name come from the first one."""
    judge_every_setting: bool = False
    """Let expensive judges too judge the answers at every temperature, not only at the chosen one."""
    allow: list[str] = []
    """Evaluation judges that methods may also learn from: a departure of that method."""
    metrics: list[Named] = [Named(name=name) for name in ("win_rate", "kl", "length")]
    """What is measured, in the order of the table's columns."""
    margin: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Column -> the difference below which two labels count as equivalent: `{reward: 0.05}`. Without it, no
    two labels are called equivalent."""
    curve: Curve | None = None
    """Measure a learning curve with the first judge: `{evaluations: 8, prompts: 64}`. It takes no budget, and
    shows where a method's own reward rises while the evaluation judge's score falls."""

    @property
    def chooses(self) -> bool:
        """Whether validation prompts choose each label's temperature."""
        return len(self.sampling.temperature) > 1

    @model_validator(mode="after")
    def _a_curve_has_a_judge(self) -> Evaluation:
        if self.curve is not None and not self.judges:
            raise ValueError("evaluation.curve has no judge; name one in evaluation.judges")
        return self

    @field_validator("judges", "metrics")
    @classmethod
    def _each_name_once(cls, named: list[Named]) -> list[Named]:
        names = [one.name for one in named]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"{', '.join(map(repr, twice))} is given twice; keep one, the table's columns are their names"
            )
        return named


def _not_reserved(label: str) -> str:
    if label == BASE:
        raise ValueError(
            "'base' is reserved for the untouched model, which is always measured; rename the label"
        )
    return label


OwnLabel = Annotated[Label, AfterValidator(_not_reserved)]


class Recipe(Settings):
    """A whole comparison."""

    model: Model
    """The base: every method trains an adapter on its frozen weights, or decodes from it."""
    data: Data
    """The rows, which are the same for all methods."""
    training: Training = Training()
    """The optimisation that all methods share: batch, schedule, precision."""
    budget: Budget = Budget(epochs=1)
    """What every label may spend, unless it sets a budget of its own."""
    start: Start = BASE
    """The start of every method that does not name its own."""
    methods: Annotated[dict[OwnLabel, MethodBlock], Field(min_length=1)]
    """By label: a method with its own fields, and a start, budget or seeds of its own."""
    evaluation: Evaluation = Evaluation()
    """What is measured, on how many prompts, by which judges."""
    sweep: Sweep | None = None
    """Tune every method that has a `sweep` block on validation prompts, before the comparison."""
    seeds: Seeds = [0]
    """Each seed runs the whole comparison again, from adapters to samples."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        """Give each method block its name and start, and gather the method's own fields under `config`."""
        if not isinstance(value, dict) or not isinstance(value.get("methods"), dict):
            return value
        blocks = {}
        for label, block in value["methods"].items():
            block = {} if block is None else block
            if isinstance(block, dict):
                spelled = "config" in block
                core = block if spelled else {key: block[key] for key in RESERVED if key in block}
                shared = {"method": label, "start": value.get("start", BASE)}
                block = {**shared, **core, "config": own_fields(block)}
            blocks[label] = block
        return {**value, "methods": blocks}

    @model_validator(mode="after")
    def _trials_are_counted(self) -> Recipe:
        swept = [label for label, block in self.methods.items() if block.sweep]
        if swept and self.sweep is None:
            raise ValueError(f"{', '.join(swept)} has a sweep; set sweep.trials for the whole recipe")
        if self.sweep is not None and self.sweep.seed in self.seeds:
            raise ValueError("sweep.seed is one of the seeds; tuning on it would favour what is tuned")
        return self

    @model_validator(mode="after")
    def _every_chain_can_be_paid(self) -> Recipe:
        for label in self.methods:
            own_budget(self, label)
        return self


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked recipe and where it came from; `alignbench.recipe.load.load` makes it."""

    recipe: Recipe
    path: Path
    """The file; relative paths of the recipe start from its folder."""
    text: str
    """The file as it was read, without the overrides."""
    overrides: tuple[str, ...] = ()
    """`a.b=c`, as the command line gave them."""


def own_fields(block: Mapping[str, Any]) -> Any:
    """Return a method's own fields: all but the reserved keys, or under `config`."""
    return block["config"] if "config" in block else {key: block[key] for key in block if key not in RESERVED}


def canonical(recipe: Recipe) -> str:
    """Return the recipe as JSON that `Recipe.model_validate_json` reads back.

    Law: comments, white space, the order of keys and defaults written out do not change it; any value does.
    """
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a value of JSON, such as a recipe's; the keys are none of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def own_budget(recipe: Recipe, label: str) -> Budget:
    """Return what a label may spend itself: with `scope: chain`, what its starts leave of its budget.

    A start is taken to spend its whole budget. Raises ValueError where its starts leave nothing, or count in
    another unit.
    """
    block = recipe.methods[label]
    budget = block.budget or recipe.budget
    if budget.scope == "own":
        return budget
    ((unit, whole),) = budget.model_dump(exclude={"scope"}, exclude_none=True).items()
    left, start, seen = whole, block.start, {label}
    while isinstance(start, str) and start in recipe.methods and start not in seen:
        seen.add(start)
        theirs = recipe.methods[start].budget or recipe.budget
        # A chain's budget has paid for its starts already.
        start = BASE if theirs.scope == "chain" else recipe.methods[start].start
        spent = getattr(theirs, unit)
        if spent is None:
            raise ValueError(
                f"'{label}' pays for its chain in {unit}, which a start's budget does not count in"
            )
        left -= spent
    if left <= 0:
        raise ValueError(
            f"'{label}' has nothing left of {unit} {whole:g}: its starts spend {whole - left:g}; give it a "
            "budget that is larger"
        )
    return Budget.model_validate({unit: left})
