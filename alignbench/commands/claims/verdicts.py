"""The verdict on a part: three tests at each look, corrected over the parts of all claims."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from alignbench import stats
from alignbench.commands.claims.evidence import Evidence
from alignbench.commands.claims.registry import Claim, Part, Procedure

Word = Literal[
    "reproduced", "contradicted", "no effect", "undecided", "the sandbox cannot show it", "not run yet"
]
"""`no effect`: none larger than the part's d."""
DECIDED: tuple[Word, ...] = ("reproduced", "contradicted", "no effect")

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class PValues:
    """The p values of a part at one look."""

    direction: float = 1.0
    """That the truth lies on the other side of the bound than the estimate; both sides are looked at, so that it is
    twice that of one side. For a part of sign `=`, that the truth is within d although the estimate is not."""
    reproduces: bool = True
    """Whether the estimate lies on the claim's side."""
    inside: float = 1.0
    """That the truth is d or more from zero (two one-sided tests)."""
    inside_reproduces: bool = False
    """Whether a truth within d is what the claim says."""

    @property
    def smallest(self) -> float:
        return min(self.direction, self.inside)

    def word(self, threshold: float) -> Word:
        """Return the verdict where p values of at most `threshold` decide; a direction goes before a size."""
        if self.direction <= threshold:
            return "reproduced" if self.reproduces else "contradicted"
        if self.inside <= threshold:
            return "reproduced" if self.inside_reproduces else "no effect"
        return "undecided"


NOTHING = PValues()
"""Of a part without numbers: it decides nothing."""


def p_values(part: Part, one: stats.Estimate) -> PValues:
    """Return the p values of a part, by the estimate of its effect."""
    inside = max(one.p_above(-part.d), one.p_below(part.d))
    if part.sign == "=":
        outside = min(one.p_above(part.d), one.p_below(-part.d))
        return PValues(outside, reproduces=False, inside=inside, inside_reproduces=True)
    bound = -part.d if part.sign == ">=" else 0.0
    above, below = one.p_above(bound), one.p_below(bound)
    upwards = above < below
    return PValues(
        min(1.0, 2 * min(above, below)),
        reproduces=upwards == (part.sign != "-"),
        inside=1.0 if part.sign == ">=" else inside,
    )


def decide(
    procedure: Procedure,
    family: int,
    closed: int,
    open_parts: Mapping[Key, PValues],
    *,
    level: float | None = None,
) -> dict[Key, Word]:
    """Return the verdict on each open part at one look.

    Benjamini and Hochberg's correction over all `family` parts of the registry, of which `closed` were decided at
    earlier looks; a part without numbers counts as well, and decides nothing. The error of each look is
    `procedure.level`: the expected share of false verdicts over all looks is at most their sum
    (benchmarks/proofs/claims.py).
    """
    level = procedure.level if level is None else level
    ordered = sorted(one.smallest for one in open_parts.values())
    threshold = -1.0
    for place, p in enumerate(ordered, start=1):
        if p <= level * (closed + place) / family:
            threshold = level * (closed + place) / family
    return {key: one.word(threshold) for key, one in open_parts.items()}


NO_EVIDENCE = Evidence()


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one part."""

    part: Part
    word: Word = "not run yet"
    look: int | None = None
    """Seeds at which it was judged the last time."""
    evidence: Evidence = NO_EVIDENCE
    needs: tuple[int | None, int | None] | None = None
    """Seeds on the same prompts, or prompts at the same seeds, that would decide it at this estimate with a
    probability of 80 %; None where no number of them would. Only of an undecided part."""
    note: str = ""


def found(procedure: Procedure, part: Part, look: int, word: Word, one: Evidence) -> Found:
    """Return what a look has shown of a part, with what an undecided one needs."""
    note = one.missing
    if one.left_out:
        note = "; ".join(
            filter(None, (note, f"{one.left_out} of {one.seeds} seeds left out: failed or diverged"))
        )
    if one.estimate is None or word in DECIDED:
        small = one.estimate is not None and part.sign in "+-" and word == "reproduced"
        if small and one.estimate is not None and p_values(part, one.estimate).inside <= procedure.level:
            note = "; ".join(filter(None, (note, f"smaller than {part.d:g}")))
        return Found(part, word, look, one, None, note)
    return Found(part, word, look, one, needs(procedure, part, one.estimate), note)


def needs(procedure: Procedure, part: Part, one: stats.Estimate) -> tuple[int | None, int | None]:
    """Return the seeds, or the prompts, that would decide a part if the truth were its estimate.

    By the test that needs fewest; uncorrected, at one half of a look's error for a direction.
    """
    size = abs(one.value)
    ways = {
        "+": [(size, procedure.level / 2), (part.d - size, procedure.level)],
        "-": [(size, procedure.level / 2), (part.d - size, procedure.level)],
        "=": [(abs(part.d - size), procedure.level)],
        ">=": [(abs(one.value + part.d), procedure.level / 2)],
    }[part.sign]
    asked = [one.needed(distance, alpha) for distance, alpha in ways if distance > 0]
    seeds = [count for count, _ in asked if count is not None]
    prompts = [count for _, count in asked if count is not None]
    return min(seeds, default=None), min(prompts, default=None)


def usable(procedure: Procedure, one: Evidence) -> bool:
    """Whether enough seeds of a part finished for a verdict."""
    return one.estimate is not None and one.left_out <= procedure.most_diverged * one.seeds


def summary(claim: Claim, parts: list[Found]) -> str:
    """Return the verdict on a claim: the word of all its parts, or each word with its parts."""
    if claim.cannot:
        return "the sandbox cannot show it"
    words: list[Word] = list(dict.fromkeys(one.word for one in parts))
    if len(words) == 1:
        return spelled(words[0], parts)
    return ", ".join(
        f"{spelled(word, parts)}: {', '.join(str(place) for place, one in enumerate(parts, 1) if one.word == word)}"
        for word in words
    )


def spelled(word: Word, parts: list[Found]) -> str:
    """Return a verdict in full; `no effect` names the size."""
    sizes = sorted({one.part.d for one in parts if one.word == word})
    return f"no effect larger than {' or '.join(f'{d:g}' for d in sizes)}" if word == "no effect" else word
