"""How sure a mean over seeds and prompts is: two estimands, never mixed, with intervals, tests and power.

Everything works on a table of shape [seeds, prompts]: the values of one label, or the differences between
two labels on the same prompt at the same seed. The two questions one may ask of it:

`policies`  Do *these trained policies* differ? Seeds are fixed; prompts are a sample. A value per prompt
            (its mean over the seeds), Student's t over the prompts. All that one seed supports.
`method`    Would the methods differ if trained again? Seeds and prompts are both samples, crossed:
            y[s, p] = mean + seed[s] + prompt[p] + rest[s, p]. Needs three seeds or more. Where several
            labels were trained, the seeds' variance is estimated from all of them (`pooled`).

Two labels that share no seed are not pairs: a table of shape [seeds of a, seeds of b, prompts] holds their
differences, every seed of the one against every seed of the other (`unpaired`).
"""

from __future__ import annotations

from alignbench.stats.estimates import (
    ESTIMATORS,
    EXACT,
    LEVEL,
    MIN_SEEDS,
    MOST,
    POWER,
    RESAMPLES,
    Components,
    Estimand,
    Estimate,
    NotEstimableError,
    Pair,
    Table,
    added,
    cautious,
    components,
    far_tail,
    method,
    padded,
    permutation,
    policies,
    unpadded,
    unpaired,
    with_prior,
)
from alignbench.stats.planning import PLANNING, Planning, detectable, planned
from alignbench.stats.pool import UNLIKE, alike, outlier, pooled
from alignbench.stats.verdicts import APART, Verdict, best_settings, holm, tabulate, verdict

__all__ = [
    "APART",
    "Components",
    "ESTIMATORS",
    "EXACT",
    "Estimand",
    "Estimate",
    "LEVEL",
    "MIN_SEEDS",
    "MOST",
    "NotEstimableError",
    "PLANNING",
    "POWER",
    "Pair",
    "Planning",
    "RESAMPLES",
    "Table",
    "UNLIKE",
    "Verdict",
    "added",
    "alike",
    "best_settings",
    "cautious",
    "components",
    "detectable",
    "far_tail",
    "holm",
    "method",
    "outlier",
    "padded",
    "permutation",
    "planned",
    "policies",
    "pooled",
    "tabulate",
    "unpadded",
    "unpaired",
    "verdict",
    "with_prior",
]
