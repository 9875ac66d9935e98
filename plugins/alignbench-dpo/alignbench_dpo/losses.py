"""The losses of the family on tensors: each maps N pairs to float32 [N]; `catalogue.py` names the sources.

Written out, L is the loss of a pair, pi the policy, ref the reference, w the chosen answer and l the rejected one,
|y| an answer's tokens, s the logistic function, and h = log pi/ref(w) - log pi/ref(l).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu, softplus

from alignbench import GroupScores, PerToken
from alignbench_dpo.catalogue import LOSSES, Name

LARGEST = 20.0
"""Log-ratio at which a ratio of probabilities is cut, so that float32 holds it."""
MOMENTUM = 0.9
"""Share of its last value that beta-DPO's mean margin keeps at each step (arXiv:2407.08639, section 4.2)."""
CERTAIN = 0.99
"""Largest probability of a label of which `odpo` takes the difference of scores: that of a certain one is infinite."""


class Fields(Protocol):
    """The fields of the config that losses read."""

    beta: float
    label_smoothing: float
    margin: float
    exponent: float
    nll_weight: float
    length_weight: float
    offset_weight: float
    penalty: float
    tau: float
    kl_weight: float
    sensitivity: float


@dataclass(frozen=True)
class Answers:
    """N answers: what policy and reference say of each as a whole."""

    logps: Tensor
    """float32 [N]: log pi(y|x), summed over its tokens."""
    reference: Tensor
    """float32 [N]: log ref(y|x); zeros for a loss without a reference."""
    length: Tensor
    """[N]: tokens of each, the end included."""
    kl: Tensor | None = None
    """[N]: for `tdpo1` and `tdpo2`, D: the sum over its tokens of KL(ref || pi) of the distributions there."""
    matched: Tensor | None = None
    """[N]: for `aot_unpaired`, the log-ratio of equal rank among the step's answers of the other kind."""

    @property
    def ratio(self) -> Tensor:
        """log pi(y|x)/ref(y|x)."""
        return self.logps - self.reference

    @property
    def mean(self) -> Tensor:
        """log pi(y|x) / |y|."""
        return self.logps / self.length

    @property
    def mean_ratio(self) -> Tensor:
        """log pi(y|x)/ref(y|x) / |y|."""
        return self.ratio / self.length

    def at_reference(self) -> Answers:
        """Return the same answers as a policy that equals its reference sees them."""
        return replace(self, logps=self.reference, kl=None if self.kl is None else torch.zeros_like(self.kl))


@dataclass(frozen=True)
class Pairs:
    """N pairs, and what their loss needs to know of the whole step."""

    chosen: Answers
    rejected: Answers
    matched: Tensor | None = None
    """[N]: for `aot`, the reference's log pi(w) - log pi(l) of equal rank in the step."""
    shift: Tensor | float = 0.0
    """For `beta_dpo`, how far the step's mean margin lies above the running mean."""
    strength: Tensor | None = None
    """[N]: for `odpo`, the difference of scores of the better and the worse answer, at least 0."""

    @property
    def margin(self) -> Tensor:
        """h = log pi(w)/ref(w) - log pi(l)/ref(l)."""
        return self.chosen.ratio - self.rejected.ratio

    def swapped(self) -> Pairs:
        """Return the pairs as if the rejected answer were the better one."""
        matched = None if self.matched is None else -self.matched
        return replace(self, chosen=self.rejected, rejected=self.chosen, matched=matched)


def pair_loss(pairs: Pairs, preference: Tensor, name: Name, by: Fields) -> Tensor:
    """Return the loss of each pair, float32 [N]: the expectation over which of the two answers is better.

    `preference` [N] is the probability that the chosen one is. `label_smoothing` mixes it further, as conservative
    DPO does (Mitchell 2023, https://ericmitchell.ai/cdpo.pdf); `robust` and `exo_pair` have it in their own equations.
    `odpo` reads it as a strength, and the likelier answer as the better one.
    """
    loss: Callable[[Pairs, Any], Tensor] = getattr(sys.modules[__name__], name)
    if LOSSES[name].strength:
        pairs, preference = replace(pairs, strength=strength(preference)), (preference >= 0.5).float()
    elif name not in ("exo_pair", "robust"):
        share = by.label_smoothing
        preference = preference * (1 - share) + (1 - preference) * share
    # A plain label does not compute the other way round, whose loss may be infinite.
    right, wrong = loss(pairs, by), loss(pairs.swapped(), by)
    return torch.where(preference == 1, right, preference * right + (1 - preference) * wrong)


def token_nll(scores: Mapping[str, GroupScores], preference: Tensor, by: Fields) -> list[PerToken]:
    """Return a times the NLL of each token of the better answer, in expectation over which of the two it is.

    `preference` [N] is the probability that the chosen one is. The trainer takes the mean over the tokens of all
    answers of the step, as TRL's CPOTrainer does; the papers of `cpo` and `slic` have sums over whole answers.
    """
    better = {"chosen": preference, "rejected": 1 - preference}
    return [
        scores[name].per_token(-by.nll_weight * share[:, None] * scores[name].logps)
        for name, share in better.items()
    ]


def strength(preference: Tensor) -> Tensor:
    """Return the difference of scores [N] of the likelier and the other answer, by Bradley and Terry: |log p/(1-p)|.

    `preference` [N] is the probability p of a label. It counts as at most `CERTAIN`.
    """
    return torch.logit(torch.maximum(preference, 1 - preference).clamp(max=CERTAIN))


# --- of the margin h ----------------------------------------------------------------------------------------


def sigmoid(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta h): DPO, arXiv:2305.18290, eq. 7."""
    return -logsigmoid(by.beta * pairs.margin)


def sigmoid_norm(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (log pi/ref(w)/|w| - log pi/ref(l)/|l|)): length-normalised DPO of Tulu 3,
    arXiv:2411.15124, eq. 6.
    """
    return -logsigmoid(by.beta * (pairs.chosen.mean_ratio - pairs.rejected.mean_ratio))


def ipo(pairs: Pairs, by: Fields) -> Tensor:
    """L = (log pi/ref(w)/|w| - log pi/ref(l)/|l| - 1/(2 beta))^2: IPO, by length as its authors do in their
    experiments, arXiv:2310.12036, eq. 17.
    """
    return (pairs.chosen.mean_ratio - pairs.rejected.mean_ratio - 1 / (2 * by.beta)) ** 2


def hinge(pairs: Pairs, by: Fields) -> Tensor:
    """L = max(0, 1 - beta h): SLiC, arXiv:2305.10425, eq. 4, on DPO's margin."""
    return relu(1 - by.beta * pairs.margin)


def exponential(pairs: Pairs, by: Fields) -> Tensor:
    """L = exp(-beta h): GPO's exponential loss, arXiv:2402.05749, table 1."""
    return torch.exp((-by.beta * pairs.margin).clamp(max=LARGEST))


def robust(pairs: Pairs, by: Fields) -> Tensor:
    """L = ((1 - e) (-log s(beta h)) + e log s(-beta h)) / (1 - 2e), e the label smoothing: DPO without the labels'
    flips, arXiv:2403.00409.
    """
    share = by.label_smoothing
    return ((1 - share) * sigmoid(pairs, by) - share * sigmoid(pairs.swapped(), by)) / (1 - 2 * share)


def exo_pair(pairs: Pairs, by: Fields) -> Tensor:
    """L = q log(q/(1 - e)) + (1 - q) log((1 - q)/e), q = s(beta h) and e the label smoothing: KL from the label,
    arXiv:2402.00856, eq. 16.
    """
    h = by.beta * pairs.margin
    right = torch.sigmoid(h) * (logsigmoid(h) - math.log(1 - by.label_smoothing))
    return right + torch.sigmoid(-h) * (logsigmoid(-h) - math.log(by.label_smoothing))


def discopop(pairs: Pairs, by: Fields) -> Tensor:
    """L = (1 - m) (-log s(beta h)) + m exp(-beta h), m = s(beta h / tau): log-ratio modulated loss,
    arXiv:2406.08414, eq. 5.
    """
    h = by.beta * pairs.margin
    share = torch.sigmoid(h / by.tau)
    return (1 - share) * -logsigmoid(h) + share * torch.exp((-h).clamp(max=LARGEST))


def r_dpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta h + a (|w| - |l|)): DPO for a reward that loses a with each token, arXiv:2403.19159,
    eq. 9.
    """
    longer = pairs.chosen.length - pairs.rejected.length
    return -logsigmoid(by.beta * pairs.margin + by.length_weight * longer)


def odpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta h - a log d), d the difference of scores, log p/(1-p) of a label p: DPO with an offset,
    arXiv:2402.10571.
    """
    assert pairs.strength is not None
    return -logsigmoid(by.beta * pairs.margin - by.offset_weight * pairs.strength.log().clamp(min=-LARGEST))


def beta_dpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(b h), b = beta (1 + a (step's mean beta h - running mean)): dynamic beta, without its row filter,
    arXiv:2407.08639.
    """
    beta = (by.beta * (1 + by.sensitivity * torch.as_tensor(pairs.shift))).clamp(min=1e-3)
    return -logsigmoid(beta * pairs.margin)


def wpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -p(w) p(l) log s(beta h), p(y) = exp(log pi(y)/|y|) as a constant: DPO weighted by the policy's
    probabilities, arXiv:2406.11827, eq. 2, its weights not aligned.
    """
    weight = torch.exp(pairs.chosen.mean + pairs.rejected.mean).detach()
    return weight * sigmoid(pairs, by)


def tdpo1(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (h - (D_l - D_w))), D the sum over an answer's tokens of the KL from ref to pi there: token-level
    DPO, arXiv:2404.11999, eq. 15.
    """
    assert pairs.chosen.kl is not None
    assert pairs.rejected.kl is not None
    return -logsigmoid(by.beta * (pairs.margin - (pairs.rejected.kl - pairs.chosen.kl)))


def tdpo2(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (h - a (D_l - D_w))), D_w a constant: TDPO that learns through the KL of the rejected answer
    alone, arXiv:2404.11999, eq. 17.
    """
    assert pairs.chosen.kl is not None
    assert pairs.rejected.kl is not None
    return -logsigmoid(
        by.beta * (pairs.margin - by.kl_weight * (pairs.rejected.kl - pairs.chosen.kl.detach()))
    )


def dpop(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (h - c max(0, log ref(w)/pi(w)))): DPO-positive, against a chosen answer that falls,
    arXiv:2402.13228, eq. 3.
    """
    return -logsigmoid(by.beta * (pairs.margin - by.penalty * relu(-pairs.chosen.ratio)))


def rpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta h) - a log pi(w)/|w|: iterative RPO, arXiv:2404.19733, eq. 1."""
    return sigmoid(pairs, by) - by.nll_weight * pairs.chosen.mean


# --- of another reward than the log-ratio -------------------------------------------------------------------


def f_forward_kl(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (f'(w) - f'(l))), f'(y) = 1 - ref(y)/pi(y): DPO under the forward KL, arXiv:2309.16240."""
    lost = [torch.exp((-one.ratio).clamp(max=LARGEST)) for one in (pairs.chosen, pairs.rejected)]
    return -logsigmoid(by.beta * (lost[1] - lost[0]))


def f_js(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (f'(w) - f'(l))), f'(y) = log 2 pi/(pi + ref): DPO under Jensen and Shannon's divergence,
    arXiv:2309.16240.
    """
    return -logsigmoid(by.beta * (logsigmoid(pairs.chosen.ratio) - logsigmoid(pairs.rejected.ratio)))


def chi_po(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (f(w) - f(l))), f(y) = pi/ref + log pi/ref: chi-squared regularisation, arXiv:2407.13399,
    algorithm 1, without its clip.
    """
    more = [torch.exp(one.ratio.clamp(max=LARGEST)) for one in (pairs.chosen, pairs.rejected)]
    return -logsigmoid(by.beta * (pairs.margin + more[0] - more[1]))


# --- of each answer on its own ------------------------------------------------------------------------------


def nca_pair(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(r_w) - (log s(-r_w) + log s(-r_l)) / 2, r = beta log pi/ref: noise contrastive alignment,
    arXiv:2402.05369, table 1.
    """
    chosen, rejected = by.beta * pairs.chosen.ratio, by.beta * pairs.rejected.ratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def bco_pair(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(r_w) - log s(-r_l), r = beta log pi/ref: a binary classifier of answers, arXiv:2404.04656,
    theorem 1, without the shift.
    """
    return -logsigmoid(by.beta * pairs.chosen.ratio) - logsigmoid(-by.beta * pairs.rejected.ratio)


def sppo_hard(pairs: Pairs, by: Fields) -> Tensor:
    """L = (log pi/ref(w) - 1/(2 beta))^2 + (log pi/ref(l) + 1/(2 beta))^2: self-play, hard preferences,
    arXiv:2405.00675, eq. 4.7 with P = 1 and 0.
    """
    half = 0.5 / by.beta
    return (pairs.chosen.ratio - half) ** 2 + (pairs.rejected.ratio + half) ** 2


def apo_zero(pairs: Pairs, by: Fields) -> Tensor:
    """L = 1 - s(r_w) + s(r_l), r = beta log pi/ref: for chosen answers better than the policy's own,
    arXiv:2408.06266, eq. 7.
    """
    return 1 - torch.sigmoid(by.beta * pairs.chosen.ratio) + torch.sigmoid(by.beta * pairs.rejected.ratio)


def apo_down(pairs: Pairs, by: Fields) -> Tensor:
    """L = s(r_w) + 1 - s(beta h), r = beta log pi/ref: for chosen answers worse than the policy's own,
    arXiv:2408.06266, eq. 8.
    """
    return torch.sigmoid(by.beta * pairs.chosen.ratio) + 1 - torch.sigmoid(by.beta * pairs.margin)


def cal_dpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(h) + (log pi/ref(w) - 1/(2 beta))^2 + (log pi/ref(l) + 1/(2 beta))^2: rewards of a known scale,
    arXiv:2412.14516, eq. 10.
    """
    return -logsigmoid(pairs.margin) + sppo_hard(pairs, by)


# --- of the step's distribution -----------------------------------------------------------------------------


def aot(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (u_(k) - v_(k))), u = log pi(w)/pi(l) and v = log ref(w)/ref(l), the k-th of each in the
    step, arXiv:2406.05882, paired.
    """
    assert pairs.matched is not None
    return -logsigmoid(by.beta * (pairs.chosen.logps - pairs.rejected.logps - pairs.matched))


def aot_unpaired(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (a_(k) - b_(k))), a and b the log-ratios of chosen and rejected, the k-th of each in the
    step, arXiv:2406.05882, unpaired.

    A pair holds an a and a b of other ranks. Each meets the other of its rank as a constant: the sum over the step
    has the gradient of the formula, and half of it has the value.
    """
    assert pairs.chosen.matched is not None
    assert pairs.rejected.matched is not None
    own = softplus(-by.beta * (pairs.chosen.ratio - pairs.chosen.matched))
    other = softplus(-by.beta * (pairs.rejected.matched - pairs.rejected.ratio))
    return own + other - 0.5 * (own + other).detach()


# --- without a reference ------------------------------------------------------------------------------------


def simpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (log pi(w)/|w| - log pi(l)/|l|) - g): the policy's own mean log-probability as reward,
    arXiv:2405.14734, eq. 6.
    """
    return -logsigmoid(by.beta * (pairs.chosen.mean - pairs.rejected.mean) - by.margin)


def alpha_po(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (r_w - r_l) - g), r = (1 - p^-a)/a and p = exp(log pi(y)/|y|): SimPO where a goes to 0,
    arXiv:2501.03884.
    """
    powers = [(-by.exponent * one.mean).clamp(max=LARGEST) for one in (pairs.chosen, pairs.rejected)]
    rewards = [-torch.expm1(power) / by.exponent for power in powers]
    return -logsigmoid(by.beta * (rewards[0] - rewards[1]) - by.margin)


def cpo(pairs: Pairs, by: Fields) -> Tensor:
    """L = -log s(beta (log pi(w) - log pi(l))) + a NLL, the NLL a mean over the step's chosen tokens,
    arXiv:2401.08417, eq. 3.

    `token_nll` adds the NLL.
    """
    return -logsigmoid(by.beta * (pairs.chosen.logps - pairs.rejected.logps))


def slic(pairs: Pairs, by: Fields) -> Tensor:
    """L = max(0, 1 - beta (log pi(w) - log pi(l))) + a NLL, the NLL a mean over the step's chosen tokens,
    arXiv:2305.10425, eq. 4.

    `token_nll` adds the NLL.
    """
    return relu(1 - by.beta * (pairs.chosen.logps - pairs.rejected.logps))


def rrhf(pairs: Pairs, by: Fields) -> Tensor:
    """L = beta max(0, log pi(l)/|l| - log pi(w)/|w|) - a log pi(w)/|w|: a ranking of mean log-probabilities,
    arXiv:2304.05302, eq. 2 and 5, with the NLL as a mean.
    """
    return by.beta * relu(pairs.rejected.mean - pairs.chosen.mean) - by.nll_weight * pairs.chosen.mean


# --- what a loss needs of the whole step --------------------------------------------------------------------


def matched(pairs: Pairs, name: Name) -> Pairs:
    """Return all pairs of a step with the values of equal rank that `aot` and `aot_unpaired` compare with."""
    if name == "aot":
        reference = pairs.chosen.reference - pairs.rejected.reference
        return replace(pairs, matched=_of_rank(pairs.chosen.logps - pairs.rejected.logps, reference))
    chosen, rejected = pairs.chosen.ratio, pairs.rejected.ratio
    return replace(
        pairs,
        chosen=replace(pairs.chosen, matched=_of_rank(chosen, rejected)),
        rejected=replace(pairs.rejected, matched=_of_rank(rejected, chosen)),
    )


def _of_rank(values: Tensor, others: Tensor) -> Tensor:
    """Return for each value the one of the others that has its rank, [N]."""
    ranks = values.argsort(stable=True).argsort(stable=True)
    return others.sort(stable=True).values[ranks].detach()
