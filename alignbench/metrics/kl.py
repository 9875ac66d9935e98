"""KL divergence of a policy from base and from its start, in nats per response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from alignbench.api.config import Sampling
from alignbench.api.metric import Evidence, Measure, Metric, Missing, Need, Under, by_prompt
from alignbench.api.policy import TokenScores

OTHERS: tuple[Under, ...] = ("base", "start")


class KL(Metric):
    """KL(policy || other) per response, estimated on the policy's own samples: `kl.base` and `kl.start`.

    With r_t = log policy(y_t) - log other(y_t), `kl.base` is the mean over responses of sum_t r_t (k1:
    unbiased, may be negative), and `kl.base.k3` that of sum_t (exp(-r_t) - 1 + r_t): also unbiased and
    never negative (Schulman 2020, "Approximating KL Divergence"). If they differ much, use more samples.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"samples", "logprobs"})
    by_cell: ClassVar[bool] = True

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            own = evidence.logprobs(cell, under="self")
            for under in OTHERS:
                other = None if own is None else evidence.logprobs(cell, under=under)
                for name, estimate in (f"kl.{under}", k1), (f"kl.{under}.k3", k3):
                    if own is None or other is None:
                        whose = "the policy" if own is None else f"its {under}"
                        reason = f"{whose} gives no log-probabilities"
                        found.append(Missing(metric=name, **cell._asdict(), reason=reason))
                        continue
                    found.append(
                        Measure(
                            metric=name,
                            **cell._asdict(),
                            unit="nats",
                            values=by_prompt(evidence.samples(cell), estimate(own, other)),
                            description=_description(evidence.sampling(cell)),
                        )
                    )
        return found


def k1(own: Sequence[TokenScores], other: Sequence[TokenScores]) -> list[float]:
    """Return each response's summed log-ratio, in nats."""
    return [float(ratio.sum()) for ratio in _log_ratios(own, other)]


def k3(own: Sequence[TokenScores], other: Sequence[TokenScores]) -> list[float]:
    """Return each response's sum of exp(-r) - 1 + r, in nats; every term is zero or more."""
    return [float((np.expm1(-ratio) + ratio).sum()) for ratio in _log_ratios(own, other)]


def _log_ratios(own: Sequence[TokenScores], other: Sequence[TokenScores]) -> list[NDArray[np.float64]]:
    pairs = zip(own, other, strict=True)
    return [p.logps.astype(np.float64) - q.logps.astype(np.float64) for p, q in pairs]


def _description(sampling: Sampling | None) -> str:
    if sampling is not None and (sampling.temperature, sampling.top_k, sampling.top_p) == (1, 0, 1):
        return "sampled at temperature 1 over the whole vocabulary, per response"
    return (
        "the mean log-ratio of these answers, not a divergence: they were not sampled at temperature 1 "
        "over the whole vocabulary"
    )
