"""The verdict on a part: three tests at each look, corrected over the parts of all claims."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
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
    """Return the p values of a part, by the estimate of its effect; the correction looks far out: see `cautious`."""
    one = stats.cautious(one)
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
    threshold = threshold_of(level, family, closed, open_parts.values())
    return {key: one.word(threshold) for key, one in open_parts.items()}


def threshold_of(level: float, family: int, closed: int, judged: Iterable[PValues]) -> float:
    """Return the largest p value that decides a part; -1 where none does."""
    threshold = -1.0
    for place, p in enumerate(sorted(one.smallest for one in judged), start=1):
        if p <= level * (closed + place) / family:
            threshold = level * (closed + place) / family
    return threshold


def next_threshold(procedure: Procedure, family: int, closed: int) -> float:
    """Return the largest p value that decides one part more, where `closed` of `family` parts are decided."""
    return procedure.level * min(family, closed + 1) / family


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
    small: bool = False
    """Whether it has a direction and is also told apart from d: less than the smallest effect that counts."""

    @property
    def verdict(self) -> str:
        """The verdict in full: the size of no effect, which is less than d, and on which side of a number it lies."""
        if self.word == "no effect":
            return f"no effect larger than {self.part.d:g}"
        if self.word == "reproduced" and self.part.sign in ("=", ">="):
            return f"reproduced, to within {self.part.d:g}"
        if self.small:
            return f"{self.word}, by less than {self.part.d:g}"
        estimate = self.evidence.estimate
        if self.word == "contradicted" and self.part.sign == "=" and estimate is not None:
            return f"contradicted: {'above' if estimate.value > 0 else 'below'}"
        return self.word


def kept(first: Found, second: Found) -> bool:
    """Whether a replication says the same of a part: the same verdict, and the same side of 0 where there are two."""
    one, two = first.evidence.estimate, second.evidence.estimate
    two_sided = first.part.sign == "=" and first.word == "contradicted"
    turned = two_sided and one is not None and two is not None and (one.value > 0) != (two.value > 0)
    return first.word == second.word and not turned


def found(
    procedure: Procedure, part: Part, look: int, word: Word, one: Evidence, level: float | None = None
) -> Found:
    """Return what a look has shown of a part, with what an undecided one needs.

    `level` is the p value that decides; default: that of a look, for a part by itself.
    """
    level = procedure.level if level is None else level
    note = one.missing
    if one.left_out:
        note = "; ".join(
            filter(
                None,
                (
                    note,
                    f"{one.left_out} of {one.seeds} seeds left out: they, or what they start from, diverged",
                ),
            )
        )
    if one.estimate is None or word in DECIDED:
        small = False
        if one.estimate is not None and part.sign in "+-" and word in ("reproduced", "contradicted"):
            small = p_values(part, one.estimate).inside <= level
        return Found(part, word, look, one, None, note, small)
    return Found(part, word, look, one, needs(level, part, one.estimate), note)


def needs(level: float, part: Part, one: stats.Estimate) -> tuple[int | None, int | None]:
    """Return the seeds, or the prompts, that would decide a part if the truth were its estimate.

    By the test that needs fewest, where p values of at most `level` decide; a direction has half of it on each side.
    """
    size = abs(one.value)
    ways = {
        "+": [(size, level / 2), (part.d - size, level)],
        "-": [(size, level / 2), (part.d - size, level)],
        "=": [(abs(part.d - size), level)],
        ">=": [(abs(one.value + part.d), level / 2)],
    }[part.sign]
    one = stats.cautious(one)
    asked = [one.needed(distance, alpha) for distance, alpha in ways if distance > 0]
    seeds = [count for count, _ in asked if count is not None]
    prompts = [count for _, count in asked if count is not None]
    return min(seeds, default=None), min(prompts, default=None)


def usable(procedure: Procedure, one: Evidence) -> bool:
    """Whether enough seeds of a part finished for a verdict."""
    return one.estimate is not None and one.left_out <= procedure.most_diverged * one.seeds


def summary(claim: Claim, parts: list[Found]) -> str:
    """Return the verdict on a claim: that of all its parts, or each verdict with the numbers of its parts."""
    if claim.cannot:
        return "the sandbox cannot show it"
    verdicts = list(dict.fromkeys(one.verdict for one in parts))
    if len(verdicts) == 1:
        return verdicts[0]
    return "; ".join(
        f"{verdict} ({', '.join(str(place) for place, one in enumerate(parts, 1) if one.verdict == verdict)})"
        for verdict in verdicts
    )
