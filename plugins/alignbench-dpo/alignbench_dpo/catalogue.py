"""The losses by name: where each comes from, which fields it reads, and what it needs; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Name = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "hinge",
    "exponential",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "f_forward_kl",
    "f_js",
    "chi_po",
    "r_dpo",
    "odpo",
    "dpop",
    "rpo",
    "cal_dpo",
    "beta_dpo",
    "wpo",
    "tdpo1",
    "tdpo2",
    "simpo",
    "alpha_po",
    "cpo",
    "slic",
    "rrhf",
]


@dataclass(frozen=True)
class Loss:
    """One loss of the family."""

    source: str
    """arXiv number, and the number of the equation where it is known; the docstring in `losses.py` writes it out."""
    reads: Mapping[str, float] = field(default_factory=dict)
    """The fields that only some losses read, with the value each has here where the recipe says none."""
    beta: float = 0.1
    """Its beta where the recipe says none."""
    reference: bool = True
    """Whether it compares with the start; one that does not computes no reference."""
    smoothing: bool = False
    """Whether an assumed share of wrong labels makes sense for it."""
    whole_step: bool = False
    """Whether it needs a number or an order of all rows of a step."""
    token_nll: bool = False
    """Whether the chosen answers' NLL is added as a mean over all their tokens of the step, and not for each pair."""
    kl: bool = False
    """Whether it needs the KL over the whole vocabulary at each token of an answer, from the start to the policy."""
    strength: bool = False
    """Whether the probability of a label says how much better the answer is, and not only how sure the label is."""


LOSSES: Mapping[Name, Loss] = {
    "sigmoid": Loss("2305.18290, eq. 7", smoothing=True),
    "sigmoid_norm": Loss("2411.15124, eq. 6", beta=5.0, smoothing=True),
    "ipo": Loss("2310.12036, eq. 17", smoothing=True),
    "hinge": Loss("2305.10425, eq. 4, on DPO's margin", smoothing=True),
    "exponential": Loss("2402.05749, table 1", smoothing=True),
    "robust": Loss("2403.00409", smoothing=True),
    "exo_pair": Loss("2402.00856, eq. 16", smoothing=True),
    "nca_pair": Loss("2402.05369, table 1"),
    "bco_pair": Loss("2404.04656, theorem 1, without the shift"),
    "sppo_hard": Loss("2405.00675, eq. 4.7 with P = 1 and 0"),
    "aot": Loss("2406.05882, paired", smoothing=True, whole_step=True),
    "aot_unpaired": Loss("2406.05882, unpaired", smoothing=True, whole_step=True),
    "apo_zero": Loss("2408.06266, eq. 7"),
    "apo_down": Loss("2408.06266, eq. 8"),
    "discopop": Loss("2406.08414, eq. 5", {"tau": 0.05}, smoothing=True),
    "f_forward_kl": Loss("2309.16240", smoothing=True),
    "f_js": Loss("2309.16240", smoothing=True),
    "chi_po": Loss("2407.13399, algorithm 1, without its clip", smoothing=True),
    "r_dpo": Loss("2403.19159, eq. 9", {"length_weight": 0.01}, smoothing=True),
    "odpo": Loss("2402.10571", {"offset_weight": 1.0}, strength=True),
    "dpop": Loss("2402.13228, eq. 3", {"penalty": 50.0}),
    "rpo": Loss("2404.19733, eq. 1", {"nll_weight": 1.0}),
    "cal_dpo": Loss("2412.14516, eq. 10"),
    "beta_dpo": Loss("2407.08639", {"sensitivity": 0.6}, smoothing=True, whole_step=True),
    "wpo": Loss("2406.11827, eq. 2, its weights not aligned", smoothing=True),
    "tdpo1": Loss("2404.11999, eq. 15", smoothing=True, kl=True),
    "tdpo2": Loss("2404.11999, eq. 17", {"kl_weight": 0.5}, smoothing=True, kl=True),
    "simpo": Loss("2405.14734, eq. 6", {"margin": 1.0}, beta=2.0, reference=False, smoothing=True),
    "alpha_po": Loss(
        "2501.03884", {"margin": 1.0, "exponent": 0.25}, beta=2.0, reference=False, smoothing=True
    ),
    "cpo": Loss("2401.08417, eq. 3", {"nll_weight": 1.0}, reference=False, smoothing=True, token_nll=True),
    "slic": Loss("2305.10425, eq. 4", {"nll_weight": 1.0}, reference=False, token_nll=True),
    "rrhf": Loss(
        "2304.05302, eq. 2 and 5, with the NLL as a mean", {"nll_weight": 1.0}, beta=1.0, reference=False
    ),
}
"""Every loss that `loss` can name, in the order of the documentation."""
