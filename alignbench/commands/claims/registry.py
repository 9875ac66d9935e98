"""The registry of claims: what each claim says, how it is asked, and which procedure decides. Fixed before the runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from alignbench import layout, store
from alignbench.api.config import Settings
from alignbench.errors import Problem, RecipeError
from alignbench.recipe import yaml
from alignbench.recipe.schema import Evaluation

REGISTRY = "registry.yaml"
CLAIMS = "claims"

Sign = Literal["+", "-", "=", ">="]


class Replication(Settings):
    """What is decided is run once more, on seeds that decided nothing."""

    seeds: list[int] = Field(min_length=3)
    error: float = Field(gt=0, lt=1)
    """Of each part by itself: there is one look, at parts that are decided already."""


class Procedure(Settings):
    """How verdicts come about, equally for all claims."""

    first_seed: int = Field(ge=0)
    """Seeds are this one and those that follow it."""
    looks: list[int] = Field(min_length=1)
    """Numbers of seeds at which the parts that are still open are judged."""
    error: float = Field(gt=0, lt=1)
    """The expected share of false verdicts among all verdicts of the whole procedure; each look has an equal part."""
    estimand: Literal["method"] = "method"
    """Seeds and prompts are both samples."""
    most_diverged: float = Field(ge=0, lt=1)
    """A seed at which a label of a part failed or diverged is left out and counted. Where more than this share of
    the seeds is, the part stays undecided."""
    replication: Replication

    @model_validator(mode="after")
    def _looks_grow_and_seeds_are_new(self) -> Procedure:
        if sorted(set(self.looks)) != self.looks or self.looks[0] < 3:
            raise ValueError("looks must grow, from three seeds or more")
        if set(self.replication.seeds) & set(self.seeds(self.looks[-1])):
            raise ValueError("replication.seeds must be seeds of no look")
        return self

    @property
    def level(self) -> float:
        """The error of each look."""
        return self.error / len(self.looks)

    @property
    def every_seed(self) -> list[int]:
        """Those of all looks, and of the replication."""
        return [*self.seeds(self.looks[-1]), *self.replication.seeds]

    def seeds(self, count: int) -> list[int]:
        """Return the first `count` seeds."""
        return list(range(self.first_seed, self.first_seed + count))


class Part(Settings):
    """One thing that must be true for the claim to hold."""

    says: str
    """The part in a few words."""
    metric: str
    """A column of results.json, or `judge.<field>` for the quality of the judge that was trained on the way."""
    a: str
    """A label, or `variant/label`."""
    b: str | None = None
    """The label that `a` is compared with; none: `a`'s own value."""
    sign: Sign
    """What the claim says of a minus b (or of a's value minus `around`): above zero, below zero, within d of zero, or
    above -d (a is not worse by d)."""
    d: float = Field(gt=0)
    """The smallest effect that counts."""
    around: float = 0.0
    """What a's own value is compared with."""
    temperature: float | None = Field(default=None, ge=0)
    """The sampling temperature; none: the one that each label is ranked at."""
    frontier: list[str] = []
    """Instead of `b`, labels of the same run: the reward of `a` is compared with theirs at the KL of `a`, seed by seed,
    on the straight line between the two whose KL is next to it. A mixture of these two policies has that reward, and
    no more KL."""
    beyond: Literal["refused", "flat"] = "refused"
    """Where the KL of `a` is larger than that of every label of the frontier: there is no number, or the frontier goes
    on at the reward of the label with the largest KL. That is a lower bound of what its method attains with the KL of
    `a`: enough to contradict that `a` is not worse, and to the advantage of `a` where the part holds."""
    again: int | None = Field(default=None, ge=1)
    """The number of the part that this one asks again, with more seeds or rows, in the last registry before this one
    that has the claim. The other parts of the claim keep their verdicts. Without it the claim is asked by new parts."""

    @model_validator(mode="after")
    def _against_a_frontier(self) -> Part:
        if self.frontier and (self.b is not None or self.around or self.metric != "reward"):
            raise ValueError("frontier compares rewards, and stands instead of b and around")
        if self.beyond != "refused" and not self.frontier:
            raise ValueError("beyond is for a part with a frontier")
        if self.frontier and (len(self.frontier) < 2 or self.temperature is not None):
            raise ValueError("frontier needs two labels or more, at the temperature of the recipe")
        if len({label.rpartition("/")[0] for label in (self.a, *self.frontier)}) > 1:
            raise ValueError("frontier compares labels of one variant")
        return self

    def asks_again(self, before: Sequence[Part]) -> bool:
        """Whether the part that it says it asks again is one of `before`, and asks the same."""
        if self.again is None or self.again > len(before):
            return False
        one = before[self.again - 1]
        return (one.metric, one.sign, one.d, one.around) == (self.metric, self.sign, self.d, self.around)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that it names."""
        return tuple(label for label in (self.a, self.b, *self.frontier) if label)

    @model_validator(mode="after")
    def _around_a_value(self) -> Part:
        if self.around and self.b is not None:
            raise ValueError("around is for a label's own value, without b")
        if self.b is not None and self.a.rpartition("/")[0] != self.b.rpartition("/")[0]:
            if self.metric != "reward" and not self.metric.startswith("judge."):
                raise ValueError("labels of two variants are compared by reward, or by judge.<field>")
            if self.temperature is not None:
                raise ValueError("labels of two variants are compared at their own temperatures")
        return self

    @property
    def what(self) -> str:
        """What is measured, in a line."""
        against = f" minus {self.b}" if self.b else f" minus {self.around:g}" if self.around else ""
        if self.frontier:
            kl = "equal" if self.beyond == "refused" else "no more"
            against = f" minus that of {', '.join(self.frontier)} at {kl} KL"
        at = "" if self.temperature is None else f", T {self.temperature:g}"
        return f"{self.metric}{at}: {self.a}{against}"

    @property
    def reproduced_if(self) -> str:
        """Where the truth must lie for the part to hold."""
        return {
            "+": "above 0",
            "-": "below 0",
            "=": f"within {self.d:g} of 0",
            ">=": f"above {-self.d:g}",
        }[self.sign]

    @property
    def contradicted_if(self) -> str:
        """Where the truth would contradict the part."""
        return {
            "+": "below 0",
            "-": "above 0",
            "=": f"more than {self.d:g} from 0",
            ">=": f"below {-self.d:g}",
        }[self.sign]


class Claim(Settings):
    """A sentence of the literature, and how the sandbox could contradict it."""

    says: str
    """The claim, in a sentence."""
    source: str
    """Whose it is."""
    asked: str = ""
    """What of it the recipe asks, where that is not all."""
    confounder: str = ""
    """What else could make the numbers come out like this."""
    recipe: str = ""
    """The recipe in the folder of the registry; several claims may share one, and then share its cells."""
    variants: dict[str, list[str]] = {}
    """Name -> overrides: the recipe runs once for each, and parts name `variant/label`."""
    parts: list[Part] = []
    cannot: str = ""
    """Why the sandbox, or what is installed, cannot show it: declared before any seed."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Claim:
        if bool(self.cannot) == bool(self.recipe and self.parts):
            raise ValueError("give a recipe with parts, or say why the sandbox cannot show it")
        known = set(self.variants) or {""}
        if len({part.again is None for part in self.parts}) > 1:
            raise ValueError("either all parts of a claim ask one again, or none does")
        for part in self.parts:
            for label in part.labels:
                if label.rpartition("/")[0] not in known:
                    raise ValueError(f"'{label}' is of no variant of this claim")
        return self

    def labels(self, variant: str, parts: Sequence[int] | None = None) -> tuple[str, ...]:
        """Return the labels of a variant that the parts (by their places; all if None) need, once each."""
        wanted = [one for place, one in enumerate(self.parts) if parts is None or place in parts]
        named = [label.rpartition("/") for one in wanted for label in one.labels]
        return tuple(dict.fromkeys(name for of, _, name in named if of == variant))


class _File(Settings):
    title: str = "Claims of the literature, on the sandbox"
    """Of the page."""
    about: str = ""
    """What the page begins with: why these claims are asked."""
    procedure: Procedure
    claims: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Registry:
    """The procedure and all claims."""

    folder: Path
    procedure: Procedure
    claims: dict[str, Claim]
    """By name, in the order of the file."""
    content: dict[str, Any]
    """What is registered: the file, and the recipes that it names, as they are written."""
    title: str = ""
    about: str = ""

    @property
    def digest(self) -> str:
        """The sha256 of what is registered; comments and layout do not count."""
        return store.digest(self.content)

    @property
    def record(self) -> dict[str, Any]:
        """What is written down before the first seed."""
        return {"digest": self.digest, **self.content}

    @property
    def name(self) -> str:
        """What its pages and runs are called: `claims`, or `claims-` and the name of its folder."""
        names = [one for one in (self.folder.parent.name, self.folder.name) if one]
        return "-".join(names) if names[0] == CLAIMS and len(names) > 1 else CLAIMS

    @property
    def follow_ups(self) -> tuple[Path, ...]:
        """The folders whose registries may ask some of its claims again: those inside its own, and those beside it."""
        inside = self.folder.glob(f"*/{REGISTRY}")
        beside = self.folder.parent.glob(f"*/{REGISTRY}") if (self.folder.parent / REGISTRY).exists() else ()
        return tuple(sorted({one.parent for one in (*inside, *beside)} - {self.folder}))

    @property
    def askable(self) -> dict[str, Claim]:
        """The claims that are run."""
        return {name: claim for name, claim in self.claims.items() if not claim.cannot}


def load(folder: Path) -> Registry:
    """Read the registry of a folder. Raises RecipeError with the place of every problem."""
    _, document = yaml.read(folder / REGISTRY)
    problems: list[Problem] = []

    def refuse(error: ValidationError, *route: str) -> None:
        for one in error.errors(include_url=False, include_input=False):
            at = (*route, *one["loc"])
            problems.append(document.place(at).problem(one["msg"], field=yaml.spell(at)))

    try:
        file = _File.model_validate(document.data)
    except ValidationError as error:
        refuse(error)
        raise RecipeError(problems) from None
    claims: dict[str, Claim] = {}
    for name, fields in file.claims.items():
        try:
            claims[name] = Claim.model_validate(fields)
        except ValidationError as error:
            refuse(error, "claims", name)
    if problems:
        raise RecipeError(problems)
    names = dict.fromkeys(claim.recipe for claim in claims.values() if claim.recipe)
    recipes = {name: yaml.read(folder / name)[1].data for name in names}
    for name, claim in claims.items():
        for place, part in enumerate(claim.parts):
            for field, problem, fix in _unanswerable(part, recipes[claim.recipe]):
                at = ("claims", name, "parts", place, field)
                problems.append(
                    document.place(at).problem(f"{problem} in {claim.recipe}", fix, field=yaml.spell(at))
                )
    if problems:
        raise RecipeError(problems)
    content = {"registry": document.data, "recipes": recipes}
    return Registry(folder, file.procedure, claims, content, file.title, file.about)


def _unanswerable(part: Part, recipe: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what of a part its recipe does not measure: the part's field, the problem, and how to fix it."""
    labels = ["base", *recipe["methods"]]
    named = [("a", part.a), ("b", part.b or part.a), *(("frontier", one) for one in part.frontier)]
    for field, label in named:
        if label.rpartition("/")[2] not in labels:
            yield field, f"there is no label '{label}'", f"choose from {', '.join(labels)}"
    try:
        evaluation = Evaluation.model_validate(recipe.get("evaluation", {}))
    except ValidationError:
        return  # the recipe's own check names what is wrong with it
    metrics = [one.name for one in evaluation.metrics]
    metric = re.split(r"[.@]", part.metric)[0]
    if metric not in ("judge", *metrics):
        yield "metric", f"nothing measures '{metric}'", f"choose from {', '.join(metrics)}"
    if part.frontier and ("kl" not in metrics or len(evaluation.sampling.temperature) > 1):
        yield "frontier", "a frontier needs the metric kl and one temperature", "name them"
    if part.temperature is not None and part.temperature not in evaluation.sampling.temperature:
        grid = ", ".join(f"{one:g}" for one in evaluation.sampling.temperature)
        yield "temperature", f"nothing is sampled at {part.temperature:g}", f"choose from {grid}"


def register(registry: Registry, runs: Path) -> None:
    """Record the registry with its runs before the first seed.

    Raises RecipeError where another one is recorded: what is asked may not change once seeds have answered.
    """
    file = runs / layout.REGISTERED
    if file.exists():
        refuse_change(registry, json.loads(file.read_text(encoding="utf-8")), file)
    else:
        store.write_json(file, registry.record)


def refuse_change(registry: Registry, before: dict[str, Any], file: Path) -> None:
    """Raise RecipeError where `file` holds another registry: what is asked may not change after the first seed."""
    if before["digest"] == registry.digest:
        return
    now = json.loads(store.canonical(registry.content))
    changed = [
        *(
            one
            for name in ("title", "about", "procedure")
            for one in _changed(name, before["registry"], now["registry"])
        ),
        *_changed(
            "claims", before["registry"].get("claims", {}), now["registry"].get("claims", {}), inside=True
        ),
        *_changed("recipes", before["recipes"], now["recipes"], inside=True),
    ]
    raise RecipeError(
        Problem(
            f"the registry changed after its seeds began: {', '.join(changed)}",
            f"undo the change (the registry that ran is in {file}), or register new seeds (procedure.first_seed) "
            f"in a new folder, and give another folder for the runs with --out",
            file=str(registry.folder / REGISTRY),
        )
    )


def _changed(name: str, before: dict[str, Any], now: dict[str, Any], *, inside: bool = False) -> list[str]:
    if not inside:
        return [name] if before.get(name) != now.get(name) else []
    return [one for one in dict.fromkeys([*before, *now]) if before.get(one) != now.get(one)]
