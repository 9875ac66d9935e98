"""Direct preference optimisation: a preference loss on the policy itself, without a reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from alignbench import GroupScores, Method, MethodConfig, Pair, PluginError, Policy, Run, Sequence
from alignbench.reference import logprobs

if TYPE_CHECKING:
    from torch import Tensor


class DPO(Method):
    """Direct preference optimisation against the frozen start.

    Sources: Rafailov et al. 2023 (arXiv:2305.18290); `ipo`: Azar et al. 2023 (arXiv:2310.12036, eq. 17);
    `hinge`: SLiC-HF, Zhao et al. 2023 (arXiv:2305.10425), on DPO's margin; `robust`: Ray Chowdhury et al.
    2024 (arXiv:2403.00409). Soft labels enter as the expectation of the loss.
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """How far the policy may go, and by which loss."""

        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        beta: float = Field(0.1, gt=0)
        """Strength of the pull to the reference: the larger, the closer the policy stays."""
        loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
        """Of the margin. `ipo` takes log-ratios per token, as its authors do in their experiments."""
        label_smoothing: float = Field(0.0, ge=0, lt=0.5)
        """Assumed share of wrong labels: smoothed over, or corrected for by `robust`."""

    def align(self, run: Run) -> Policy:
        rows = run.rows(Pair)
        policy = run.adapt()
        state: dict[str, Any] = {"checked": False}
        loss = _loss(self.config, logprobs(run, rows), state)
        run.train(policy, rows, _sequences, loss, learning_rate=self.config.learning_rate, state=state)
        return policy


def _sequences(rows: list[Pair]) -> Mapping[str, list[Sequence]]:
    chosen, rejected = zip(*(row.sequences() for row in rows), strict=True)
    return {"chosen": list(chosen), "rejected": list(rejected)}


def _loss(
    config: Any, reference: Callable[[list[Sequence]], Tensor], state: dict[str, Any]
) -> Callable[..., Any]:
    import torch

    from alignbench_dpo.losses import pair_loss, unmoved

    def loss(scores: Mapping[str, GroupScores], rows: list[Pair]) -> tuple[Tensor, Mapping[str, Tensor]]:
        ratios, logps = {}, {}
        for name, sequences in _sequences(rows).items():
            group = scores[name]
            logps[name] = group.sums()
            ratios[name] = logps[name] - reference(sequences)
            if config.loss == "ipo":
                ratios[name] = ratios[name] / group.mask.sum(-1)
        margin = ratios["chosen"] - ratios["rejected"]
        preference = torch.tensor([row.preference for row in rows], device=margin.device)
        losses = pair_loss(
            margin, preference, loss=config.loss, beta=config.beta, label_smoothing=config.label_smoothing
        )
        if not state["checked"]:
            state["checked"] = True
            _check(losses, unmoved(config.loss, config.beta), scores["chosen"].tolerance)
        return losses, {
            "rewards/chosen": config.beta * ratios["chosen"].detach(),
            "rewards/rejected": config.beta * ratios["rejected"].detach(),
            "rewards/margins": config.beta * margin.detach(),
            "rewards/accuracies": margin > 0,
            "logps/chosen": logps["chosen"],
            "logps/rejected": logps["rejected"],
        }

    return loss


def _check(losses: Tensor, expected: float, tolerance: float | None) -> None:
    """Raise PluginError where the first step does not find the policy at its reference."""
    if tolerance is None:
        return
    found = losses.detach().mean().item()
    if not abs(found / expected - 1) <= tolerance:
        raise PluginError(
            f"the first loss is {found:.6f}, not {expected:.6f}: policy and reference differ before training",
            "the reference log-probabilities do not belong to this start, data or precision",
        )
