"""False verdicts of the whole procedure of the claims: its looks, its parts, its correction, simulated.

    python benchmarks/proofs/claims.py

Draws results for every part of recipes/claims/registry.yaml, with the standard deviations of the sandbox
(`alignbench.stats.PLANNING`) and d = .05, and lets the procedure's own functions judge them look by look. The parts of
a claim share half of their seeds' variance, as labels with a common start do. Each scene says which truth the parts
have; "false share" is the expected share of false verdicts among all verdicts, which the procedure promises to keep
below its error. "one part" is a registry of a single part, where nothing is corrected. Writes claims.json next to this
file. About two minutes on one core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench import stats
from alignbench.commands.claims.registry import Part, Procedure, Registry, load
from alignbench.commands.claims.verdicts import DECIDED, Word, decide, p_values

ROOT = Path(__file__).parents[2]
D = 0.05
PROMPTS = 100
"""Drawn for each table, with the noise of ASKED prompts: as exact, and four times as fast."""
ASKED = 400
SHARED = 0.5
"""Share of the seeds' variance that the parts of a claim have in common."""
RUNS = 60

Table = NDArray[np.float64]
Truth = Callable[[int, Part], float]
"""The true effect of a part, by the number of its claim."""


def towards(part: Part) -> int:
    """Return the direction in which the part says that its effect lies."""
    return -1 if part.sign == "-" else 1


def _mixed(claim: int, part: Part) -> float:
    return (0.0, 0.03, 0.06, -0.03)[claim % 4] * towards(part)


SCENES: dict[str, Truth] = {
    "no effect anywhere": lambda claim, part: 0.0,
    "every effect is d": lambda claim, part: D * towards(part),
    "every effect is -d": lambda claim, part: -D * towards(part),
    "half none, half 0.03": lambda claim, part: 0.03 * towards(part) * (claim % 2),
    "a quarter each: none, 0.03, 0.06, -0.03": _mixed,
    "every effect is 0.03": lambda claim, part: 0.03 * towards(part),
    "every effect is 0.1": lambda claim, part: 0.1 * towards(part),
}


def true_words(part: Part, truth: float) -> set[Word]:
    """Return the verdicts that are not errors where the true effect is `truth`; on a bound only `undecided` is none."""
    if part.sign == "=":
        found = {"reproduced" if abs(truth) < D else "contradicted"} if abs(truth) != D else set()
    elif part.sign == ">=":
        found = {"reproduced" if truth > -D else "contradicted"} if truth != -D else set()
    else:
        along = truth * towards(part)
        found = {"reproduced"} if along > 0 else {"contradicted"} if along < 0 else set()
        found |= {"no effect"} if abs(truth) < D else set()
    return {"undecided", *found}  # pyright: ignore[reportReturnType]


@dataclass
class Outcome:
    """What the procedure made of one registry's worth of results."""

    words: list[Word]
    seeds: list[int]
    """At which each part was decided, or the last look."""


def drawn(
    rng: np.random.Generator, claims: Sequence[Sequence[Part]], truth: Truth, seeds: int
) -> list[Table]:
    """Return the differences [seeds, prompts] of every part, in order."""
    of_seed = math.sqrt(2) * stats.PLANNING.seed
    rest = math.sqrt(2) * stats.PLANNING.rest * math.sqrt(PROMPTS / ASKED)
    tables = []
    for number, parts in enumerate(claims):
        common = rng.normal(0, math.sqrt(SHARED) * of_seed, (seeds, 1))
        for part in parts:
            own = rng.normal(0, math.sqrt(1 - SHARED) * of_seed, (seeds, 1))
            tables.append(truth(number, part) + common + own + rng.normal(0, rest, (seeds, PROMPTS)))
    return tables


def judged(procedure: Procedure, parts: Sequence[Part], tables: Sequence[Table]) -> Outcome:
    """Return the verdicts after all looks."""
    words: list[Word] = ["undecided"] * len(parts)
    seeds = [procedure.looks[-1]] * len(parts)
    for look in procedure.looks:
        still = [place for place, word in enumerate(words) if word not in DECIDED]
        found = {place: p_values(parts[place], stats.method(tables[place][:look])) for place in still}
        for place, word in decide(procedure, len(parts), len(parts) - len(still), found).items():
            words[place] = word
            if word in DECIDED:
                seeds[place] = look
    return Outcome(words, seeds)


def scene(registry: Registry, truth: Truth, runs: int, *, single: bool = False) -> dict[str, float]:
    """Return how often verdicts are false, and how often right, over simulated registries."""
    rng = np.random.default_rng(0)
    claims = [
        [part.model_copy(update={"d": D}) for part in claim.parts] for claim in registry.askable.values()
    ]
    if single:
        claims = [[claims[0][0].model_copy(update={"sign": "+"})]]
    parts = [part for of in claims for part in of]
    truths = [truth(number, part) for number, of in enumerate(claims) for part in of]
    shares, some, reproduced, decided, right, seeds = [], [], [], [], [], []
    for _ in range(runs):
        one = judged(registry.procedure, parts, drawn(rng, claims, truth, registry.procedure.looks[-1]))
        verdicts = list(zip(parts, truths, one.words, strict=True))
        false = [word for part, effect, word in verdicts if word not in true_words(part, effect)]
        known = sum(word in DECIDED for word in one.words)
        shares.append(len(false) / max(1, known))
        some.append(bool(false))
        reproduced.append(sum(word == "reproduced" for word in false) / len(parts))
        decided.append(known / len(parts))
        right.append((known - len(false)) / len(parts))
        seeds.append(np.mean(one.seeds))
    columns = {
        "false share": shares,
        "any false": some,
        "false reproduced, of all parts": reproduced,
        "decided": decided,
        "decided rightly": right,
        "seeds": seeds,
    }
    return {name: round(float(np.mean(values)), 4) for name, values in columns.items()}


def main() -> None:
    registry = load(ROOT / "recipes" / "claims")
    found: dict[str, Any] = {
        "registry": registry.digest,
        "runs": RUNS,
        "parts": sum(len(claim.parts) for claim in registry.askable.values()),
        "error": registry.procedure.error,
        "scenes": {name: scene(registry, truth, RUNS) for name, truth in SCENES.items()},
        "one part": {
            name: scene(registry, SCENES[name], 30 * RUNS, single=True)
            for name in ("no effect anywhere", "every effect is d", "every effect is 0.03")
        },
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
