"""Fields that recipes and plugins share: settings, named plugins, sampling, labelling, budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
)

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

API = 2
"""The version of this contract. A plugin states it in its class; another version is refused."""

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""What may name a label, a method, a run or a metric: it becomes a folder and a column."""

Label = Annotated[str, StringConstraints(pattern=NAME)]
"""A row of the comparison. A config field of type `Label` or `list[Label]` is an edge: that label runs first."""


@dataclass(frozen=True)
class ReadsWeights:
    """Marks a label whose weights are read."""


AdapterLabel = Annotated[str, StringConstraints(pattern=NAME), ReadsWeights()]
"""A `Label` whose adapter is read: a decoder has none, and `alignbench check` refuses it."""

Split = Literal["train", "validation", "test"]
ALL = slice(None)


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


class NamedReward(Named):
    """A reward function by name with its fields: `length`, or `{regex: {pattern: ...}}` in YAML."""


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
    evaluations: int = Field(default=16, ge=2)
    """How often the policy is evaluated, at equal distances; the last evaluation is at the end."""
    prompts: int = Field(default=64, ge=1)
    """Validation prompts answered at each evaluation."""
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
    """Held-out pairs that the judge labels too, to measure its agreement with the people who did; 0 for none."""


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


class Training(Settings):
    """How every gradient method trains."""

    batch: int = Field(default=16, ge=1)
    """Rows of one optimiser step."""
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Rows of one forward; auto measures the memory of a token, takes what fits, and accumulates to `batch`."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Of the learning rate, after warm-up; cosine and linear fall to zero."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """AdamW, with its state in 32 or in 8 bits."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """A longer gradient is shortened to this norm."""
    checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations in the backward pass; auto: only where memory is short."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """CPU threads of a cell; auto: the machine's cores shared among the jobs."""


TOTALS = ("tokens", "flops", "seconds")
"""Units of a budget that count all that is computed for a cell; the others count the policy's training only."""


WHOLE = ("rows", "steps", "tokens")
"""Units that have no parts."""


class Budget(Settings):
    """What every method may spend. Exactly one of the six units is set.

    Epochs, rows and steps count the training of the policy; tokens, FLOPs and seconds everything that is computed for
    it: reward models, answers, labels and their judge, references, searches, and shared artefacts in full.
    """

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the kept training rows."""
    rows: int | None = Field(default=None, gt=0)
    """Rows drawn, counting a row each time it is drawn, and several answers to one prompt as one row."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps."""
    tokens: int | None = Field(default=None, gt=0)
    """Positions that any model computes: trained, generated, scored, searched or judged."""
    flops: float | None = Field(default=None, gt=0)
    """Floating-point operations, counted from shapes."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time inside `align`; outside the promise of identical bytes."""
    scope: Literal["own", "chain"] = "own"
    """Whether the budget is the method's own, or has to pay for its start as well."""

    def model_post_init(self, _context: object) -> None:
        known = ("epochs", "rows", "steps", *TOTALS)
        units = [unit for unit in known if getattr(self, unit)]
        if len(units) != 1:
            raise ValueError(f"set exactly one of {', '.join(known)} (got {', '.join(units) or 'none'})")

    @property
    def unit(self) -> str:
        """The one unit that is set."""
        return next(iter(self.model_dump(exclude={"scope"}, exclude_none=True)))

    @property
    def amount(self) -> float:
        """How much of the unit."""
        return getattr(self, self.unit)

    def part(self, share: float) -> Budget:
        """Return `share` of this budget, in the same unit; rows, steps and tokens are rounded down, to 1 at least."""
        amount = self.amount * share
        return self.of(max(1, amount + 1e-9) if self.unit in WHOLE else amount)

    def of(self, amount: float) -> Budget:
        """Return a budget of `amount` in the same unit; rows, steps and tokens are rounded down."""
        amount = int(amount) if self.unit in WHOLE else float(amount)
        return Budget.model_validate({self.unit: amount, "scope": self.scope})

    def __str__(self) -> str:
        unit, amount = self.unit, self.amount
        text = f"{amount:g}" if isinstance(amount, float) else f"{amount:,}"
        text = f"{text} {unit.removesuffix('s') if amount == 1 else unit}"
        return f"{text} for the whole chain" if self.scope == "chain" else text
