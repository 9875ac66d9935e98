"""False verdicts of the whole procedure of the claims: its looks, its parts, its correction, simulated.

    python benchmarks/proofs/claims.py

Draws results for every part of each registry of recipes/claims, with the standard deviations of the sandbox
(`alignbench.stats.PLANNING`) and d = .05, and lets the procedure's own functions judge them look by look. The labels of
a claim are compared as in a run: all differ from one label, by a pooled variance (`alignbench.stats.pooled`); the parts
share that label's seeds. In the scenes with an unstable label the seeds of the first part's vary three times as much.
Each scene says which truth the parts have; "false share" is the expected share of false verdicts among all verdicts,
which the procedure promises to keep below its error. "one part" is a registry of a single part, where nothing is
corrected. Writes claims.json next to this file. Two minutes on one core.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignbench import stats
from alignbench.commands.claims.registry import Part, Procedure, Registry, load
from alignbench.commands.claims.verdicts import DECIDED, PValues, Word, decide, p_values

ROOT = Path(__file__).parents[2]
D = 0.05
PROMPTS = 100
"""Drawn for each table, with the noise of ASKED prompts: as exact, and four times as fast."""
ASKED = 400
LABELS = 4
"""Labels of a run at least: what the parts compare, and others."""
UNSTABLE = 3.0
"""Deviation of the seeds of an unstable label, in units of the others'."""
RUNS = 60

Table = NDArray[np.float64]
Truth = Callable[[int, Part], float]
"""The true effect of a part, by the number of its claim."""


def towards(part: Part) -> int:
    """Return the direction in which the part says that its effect lies."""
    return -1 if part.sign == "-" else 1


def _mixed(claim: int, part: Part) -> float:
    return (0.0, 0.03, 0.06, -0.03)[claim % 4] * towards(part)


SCENES: dict[str, tuple[Truth, float]] = {
    "no effect anywhere": (lambda claim, part: 0.0, 1.0),
    "no effect anywhere, unstable labels": (lambda claim, part: 0.0, UNSTABLE),
    "every effect is d": (lambda claim, part: D * towards(part), 1.0),
    "every effect is -d": (lambda claim, part: -D * towards(part), 1.0),
    "half none, half 0.03": (lambda claim, part: 0.03 * towards(part) * (claim % 2), 1.0),
    "half none, half 0.03, unstable labels": (
        lambda claim, part: 0.03 * towards(part) * (claim % 2),
        UNSTABLE,
    ),
    "a quarter each: none, 0.03, 0.06, -0.03": (_mixed, 1.0),
    "a quarter each, unstable labels": (_mixed, UNSTABLE),
    "every effect is 0.03": (lambda claim, part: 0.03 * towards(part), 1.0),
    "every effect is 0.1": (lambda claim, part: 0.1 * towards(part), 1.0),
}
"""The truth of each scene, and the seeds' deviation of each claim's first label, in units of the others'."""


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
    rng: np.random.Generator,
    claims: Sequence[Sequence[Part]],
    truth: Truth,
    seeds: int,
    unstable: float,
) -> list[Table]:
    """Return the scores [labels, seeds, prompts] of every claim; its part n is label n + 1 minus label 0."""
    rest = stats.PLANNING.rest * math.sqrt(PROMPTS / ASKED)
    tables = []
    for number, parts in enumerate(claims):
        count = max(LABELS, 1 + len(parts))
        effects = np.zeros(count)
        effects[1 : 1 + len(parts)] = [truth(number, part) for part in parts]
        spread = np.full(count, stats.PLANNING.seed)
        spread[1] *= unstable
        means = effects[:, None] + spread[:, None] * rng.normal(size=(count, seeds))
        tables.append(means[..., None] + rng.normal(0, rest, (count, seeds, PROMPTS)))
    return tables


def judged(procedure: Procedure, claims: Sequence[Sequence[Part]], tables: Sequence[Table]) -> Outcome:
    """Return the verdicts after all looks."""
    parts = [(number, place) for number, of in enumerate(claims) for place in range(len(of))]
    words: dict[tuple[int, int], Word] = dict.fromkeys(parts, "undecided")
    seeds = dict.fromkeys(parts, procedure.looks[-1])
    for look in procedure.looks:
        still = [at for at in parts if words[at] not in DECIDED]
        found: dict[tuple[int, int], PValues] = {}
        for number in {at[0] for at in still}:
            scores = tables[number][:, :look]
            pairs = combinations(range(len(scores)), 2)
            estimates = stats.pooled({(str(a), str(b)): scores[b] - scores[a] for a, b in pairs})
            for place, part in enumerate(claims[number]):
                if (number, place) in still:
                    found[number, place] = p_values(part, estimates["0", str(place + 1)])
        for at, word in decide(procedure, len(parts), len(parts) - len(still), found).items():
            words[at] = word
            if word in DECIDED:
                seeds[at] = look
    return Outcome(list(words.values()), list(seeds.values()))


def scene(
    registry: Registry, truth: Truth, runs: int, *, unstable: float = 1.0, single: bool = False
) -> dict[str, float]:
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
        tables = drawn(rng, claims, truth, registry.procedure.looks[-1], unstable)
        one = judged(registry.procedure, claims, tables)
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


def simulated(registry: Registry) -> dict[str, Any]:
    """Return all scenes of one registry."""
    return {
        "digest": registry.digest,
        "parts": sum(len(claim.parts) for claim in registry.askable.values()),
        "error": registry.procedure.error,
        "scenes": {
            name: scene(registry, truth, RUNS, unstable=unstable)
            for name, (truth, unstable) in SCENES.items()
        },
        "one part": {
            name: scene(registry, SCENES[name][0], 30 * RUNS, unstable=SCENES[name][1], single=True)
            for name in (
                "no effect anywhere",
                "no effect anywhere, unstable labels",
                "every effect is d",
                "every effect is 0.03",
            )
        },
    }


def main() -> None:
    folder = ROOT / "recipes" / "claims"
    registries = [load(one) for one in (folder, *load(folder).follow_ups)]
    found = {"runs": RUNS, "registries": {one.name: simulated(one) for one in registries}}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
