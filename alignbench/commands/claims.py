"""Claims of the literature put to the test: a recipe, what it should show, and a verdict by the numbers.

A claim never tunes itself until it holds: recipes, measures, expected signs and margins stand in a file
before the run, and a failure is printed like a success.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from alignbench import results, stats
from alignbench.api.config import Settings
from alignbench.errors import Problem, RecipeError
from alignbench.recipe import yaml
from alignbench.results import Results

Verdict = Literal["reproduced", "not reproduced", "not testable here", "no verdict"]
INDEX = "claims.yaml"
NOT_RUN = "not run yet"


class Expectation(Settings):
    """One thing that the run must show for the claim to hold."""

    metric: str
    """A column of results.json, `cost.<field>` for what an own cell cost, `uncached.<what>` for how many times
    the `seconds` or `tokens` of decoding without a cache an answer takes, or `judge.<field>` for the quality of
    the judge that was trained on the way."""
    a: str
    """A label, or `variant/label`."""
    b: str | None = None
    """The label that `a` is compared with; none: `a`'s own value."""
    sign: Literal["+", "-", "="]
    """Whether a minus b (or a's value) lies above zero, below it, or within `margin` of `around`."""
    around: float = 0.0
    """For `=`: the value that is expected of what is no ratio."""
    margin: float = Field(default=0.0, ge=0)
    """For `=` the largest distance from `around` that is none; for `+` and `-` the least that counts."""
    ratio: bool = False
    """Hold the logarithm of a / b against the logarithm of `margin`: for costs."""

    @model_validator(mode="after")
    def _around_a_value(self) -> Expectation:
        if self.around and (self.ratio or self.sign != "="):
            raise ValueError("around is for sign '=' and for what is no ratio")
        return self

    def __str__(self) -> str:
        what = self.a if self.b is None else f"{self.a} {'over' if self.ratio else 'minus'} {self.b}"
        least = self.margin or (1 if self.ratio else 0)
        bound = {
            "+": f"above {least:g}",
            "-": f"below {least if self.ratio else -least:g}",
            "=": f"within {self.margin:g} of {self.around or (1 if self.ratio else 0):g}",
        }
        return f"{self.metric}, {what}: {bound[self.sign]}"


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
    """The recipe beside the file; several claims may share one, which then runs once."""
    variants: dict[str, list[str]] = {}
    """Name -> overrides: the recipe runs once for each, and expectations name `variant/label`."""
    expect: list[Expectation] = []
    """All must hold."""
    untestable: str = ""
    """Why the sandbox, or what is installed, cannot tell."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Claim:
        if bool(self.untestable) == bool(self.recipe and self.expect):
            raise ValueError("give a recipe with what it should show, or say why it is untestable")
        return self


@dataclass(frozen=True, slots=True)
class Found:
    """What a run showed of one expectation."""

    expectation: Expectation
    value: float | None = None
    low: float | None = None
    high: float | None = None
    holds: bool | None = None
    """None where the run speaks of too few seeds, or has no number."""
    note: str = ""
    policies: tuple[float, float] | None = None
    """The interval of the policies trained here, where the run compares them; it decides nothing."""


def judge(claim: Claim, runs: Mapping[str, Results]) -> tuple[Verdict, list[Found]]:
    """Return the verdict on a claim and the numbers behind it.

    `runs` are the finished runs by variant, "" for the recipe as it stands. Intervals are those of the
    estimand `method`: with fewer than three seeds there is no verdict.
    """
    if claim.untestable:
        return "not testable here", []
    found = [_found(one, runs) for one in claim.expect]
    if any(one.holds is None for one in found):
        return "no verdict", found
    return ("reproduced" if all(one.holds for one in found) else "not reproduced"), found


def _found(wanted: Expectation, runs: Mapping[str, Results]) -> Found:
    compared = _compared(wanted, runs, "method") or _compared(wanted, runs, "policies")
    if compared is not None:
        found = _held(wanted, compared.difference, compared.ci95, compared.missing)
        here = _compared(wanted, runs, "policies")
        found = replace(found, policies=here.ci95 if here is not None else None)
        if compared.estimand == "policies" and found.value is not None:
            return replace(found, holds=None, note="too few seeds to speak of the method")
        return found
    per_seed = [_values(wanted.metric, label, runs) for label in (wanted.a, wanted.b) if label is not None]
    if not all(per_seed):
        return Found(wanted, note="there is no such number in this run")
    shared = [seed for seed in per_seed[0] if all(seed in side for side in per_seed)]
    if wanted.ratio:
        per_seed = [{seed: math.log(side[seed]) for seed in shared} for side in per_seed]
    sides = [[side[seed] for seed in shared] for side in per_seed]
    values = sides[0] if len(sides) == 1 else [a - b for a, b in zip(*sides, strict=True)]
    interval = _over_seeds(values)
    return _held(wanted, fmean(values) if values else None, interval, "")


def _compared(
    wanted: Expectation, runs: Mapping[str, Results], estimand: results.Estimand
) -> results.Comparison | None:
    """The run's own comparison, where both labels are of one run and the column is one of its metrics."""
    if wanted.b is None:
        return None
    (one, a), (two, b) = _place(wanted.a), _place(wanted.b)
    run = runs.get(one)
    if one != two or run is None or wanted.metric not in run.metrics:
        return None
    return run.comparison(a, b, wanted.metric, estimand)


def _values(metric: str, label: str, runs: Mapping[str, Results]) -> dict[int, float]:
    """A column of each seed of a label."""
    variant, name = _place(label)
    run = runs.get(variant)
    found: dict[int, float] = {}
    for cell in run.cells_of(name) if run else ():
        kind, _, part = metric.partition(".")
        if kind == "cost":
            value: Any = getattr(cell.cost, part)
        elif kind == "uncached":
            ours, plain = (getattr(cell.cost, name) for name in (f"answer_{part}", f"answer_uncached_{part}"))
            value = ours / plain if ours is not None and plain else None
        elif kind == "judge":
            value = next((one["quality"].get(part) for one in cell.judges if part in one["quality"]), None)
        else:
            value = cell.metrics[metric].value if metric in cell.metrics else None
        if isinstance(value, int | float):
            found[cell.seed] = float(value)
    return found


def _over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's t over seeds: for what is one number a seed, such as a cost."""
    if len(values) < stats.MIN_SEEDS:
        return None
    spread = math.sqrt(sum((value - fmean(values)) ** 2 for value in values) / (len(values) - 1))
    one = stats.Estimate(
        "method", fmean(values), spread / math.sqrt(len(values)), len(values) - 1, 0, len(values)
    )
    return one.interval()


def _held(wanted: Expectation, value: float | None, interval: tuple[float, float] | None, note: str) -> Found:
    if value is None:
        return Found(wanted, note=note or "there is no such number in this run")
    if interval is None:
        return Found(wanted, value, note="too few seeds for an interval")
    low, high = interval
    margin = math.log(wanted.margin) if wanted.ratio and wanted.margin else wanted.margin
    holds = {
        "+": low > margin,
        "-": high < -margin,
        "=": -margin <= low - wanted.around and high - wanted.around <= margin,
    }[wanted.sign]
    return Found(wanted, value, low, high, holds, note)


def _place(label: str) -> tuple[str, str]:
    variant, _, name = label.rpartition("/")
    return variant, name


def page(
    claims: Mapping[str, Claim],
    judged: Mapping[str, tuple[Verdict, list[Found]]],
    *,
    sandbox: str,
    quick: bool,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return docs/claims.md: a table of all verdicts, then every claim with its measure and its numbers.

    `failed` says, by claim, why a run that it needs came to nothing.
    """
    said = {name: judged[name][0] if name in judged else NOT_RUN for name in claims}
    counts = Counter(said.values())
    lines = [
        "# Claims of the literature, on the sandbox",
        "",
        "Written by `alignbench claims`. Each claim has a recipe under `recipes/claims`, a measure, an expected sign",
        "that was fixed before the run, and its confounders. A verdict is about the *method* at 95%; a claim that is",
        "not reproduced here may still hold for larger models. Three seeds give wide intervals for a method, so the",
        "interval for the policies trained here is shown as well; it does not affect the verdict.",
        "",
        f"Sandbox {sandbox[:16]}. {', '.join(f'{count} {name}' for name, count in counts.items())}.",
        *(["", "Written with `--quick`: one seed, which gives no verdict."] if quick else []),
        "",
        "| | claim | verdict |",
        "|---|---|---|",
        *(f"| [{name}](#{name.lower()}) | {claim.says} | {said[name]} |" for name, claim in claims.items()),
    ]
    for name, claim in claims.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{claim.says} ({claim.source})",
            "",
            f"**{said[name].capitalize()}.**",
        ]
        if claim.untestable:
            lines[-1] += f" {claim.untestable[0].upper()}{claim.untestable[1:].strip().rstrip('.')}."
            continue
        if name in failed:
            lines[-1] += f" {failed[name]}"
        lines += [
            "",
            "| expected | found | 95% interval | holds | these policies only |",
            "|---|---|---|---|---|",
        ]
        found = judged[name][1] if name in judged else [Found(one) for one in claim.expect]
        lines += [_row(one) for one in found]
        of = f"`recipes/claims/{claim.recipe}`"
        of += f", variants {', '.join(claim.variants)}" if claim.variants else ""
        if claim.asked:
            lines += ["", f"Tested here: {claim.asked.strip()}"]
        lines += ["", f"Recipe: {of}. Confounder: {claim.confounder.strip() or 'none known'}"]
    return "\n".join(lines) + "\n"


def _row(one: Found) -> str:
    value = "" if one.value is None else f"{_scale(one, one.value):.3g}"
    between = one.note
    if one.low is not None and one.high is not None:
        between = _between(one, (one.low, one.high)) + (f" ({one.note})" if one.note else "")
    holds = {True: "yes", False: "no", None: ""}[one.holds]
    here = "" if one.policies is None else _between(one, one.policies)
    return f"| {one.expectation} | {value} | {between} | {holds} | {here} |"


def _between(one: Found, interval: tuple[float, float]) -> str:
    low, high = (_scale(one, bound) for bound in interval)
    return f"{low:.3g} to {high:.3g}"


def _scale(one: Found, value: float) -> float:
    return math.exp(value) if one.expectation.ratio else value


def load(folder: Path) -> dict[str, Claim]:
    """Return the claims of a folder's claims.yaml by name, in its order. Raises RecipeError with places."""
    _, document = yaml.read(folder / INDEX)
    found: dict[str, Claim] = {}
    problems: list[Problem] = []
    for name, said in document.data.items():
        try:
            found[name] = Claim.model_validate(said)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_input=False):
                route = (name, *one["loc"])
                problems.append(document.place(route).problem(one["msg"], field=yaml.spell(route)))
    if problems:
        raise RecipeError(problems)
    return found


def runs_of(claim: Claim) -> dict[str, list[str]]:
    """Return the overrides of each run that a claim needs, by variant."""
    if claim.untestable:
        return {}
    return dict(claim.variants) or {"": []}
