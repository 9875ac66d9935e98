"""Direct preference optimisation and its family: a preference loss on the policy itself, without a reward model."""

from __future__ import annotations

from collections.abc import Sequence as Many

from pydantic import Field, ValidationInfo, field_validator, model_validator

from alignbench import DataError, Method, MethodConfig, Pair, Policy, Row, Run
from alignbench_dpo.catalogue import LOSSES, Name


class DPO(Method):
    """A loss of each pair's log-probabilities, most of them against those of the frozen start.

    Source: Rafailov et al. 2023 (arXiv:2305.18290); `alignbench_dpo.catalogue` names that of each loss. Soft labels
    enter as the expectation of the loss; in `odpo` they are how much better the chosen answer is.
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """Which loss, and its constants."""

        loss: Name = "sigmoid"
        """Which loss of the family; the README of the plugin lists them."""
        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        beta: float | None = Field(None, gt=0, validate_default=True)
        """Scale of the margin: the larger, the closer the policy stays to its reference. Default: 0.1, 1 for `rrhf`,
        2 for `simpo` and `alpha_po`, 5 for `sigmoid_norm`."""
        label_smoothing: float = Field(0.0, ge=0, lt=0.5)
        """Assumed share of wrong labels: smoothed over, corrected for by `robust`, in the target of `exo_pair`."""
        margin: float | None = Field(None, ge=0, validate_default=True)
        """Margin by which the chosen answer should win. Only `simpo` and `alpha_po`: 1."""
        exponent: float | None = Field(None, gt=0, validate_default=True)
        """Alpha of the reward (1 - p^-alpha)/alpha. Only `alpha_po`: 0.25."""
        nll_weight: float | None = Field(None, ge=0, validate_default=True)
        """Weight of the chosen answers' negative log-likelihood per token, a mean of each answer's tokens (`rpo`,
        `rrhf`) or of all tokens of the step's chosen answers (`cpo`, `slic`). Only these four: 1."""
        length_weight: float | None = Field(None, validate_default=True)
        """Reward lost for each token. Only `r_dpo`: 0.01."""
        offset_weight: float | None = Field(None, ge=0, validate_default=True)
        """Weight of the log of the difference of scores that a soft label means. Only `odpo`: 1."""
        penalty: float | None = Field(None, ge=0, validate_default=True)
        """Weight of what a chosen answer falls below its reference. Only `dpop`: 50."""
        tau: float | None = Field(None, gt=0, validate_default=True)
        """Temperature of the mixture. Only `discopop`: 0.05."""
        kl_weight: float | None = Field(None, ge=0, validate_default=True)
        """Weight of the difference of the two answers' sequential KL. Only `tdpo2`: 0.5."""
        sensitivity: float | None = Field(None, ge=0, lt=1, validate_default=True)
        """How much beta follows the step's mean margin. Only `beta_dpo`: 0.6."""

        @field_validator("beta")
        @classmethod
        def _beta(cls, value: float | None, info: ValidationInfo) -> float | None:
            loss = LOSSES.get(info.data.get("loss", "sigmoid"))
            return loss.beta if value is None and loss is not None else value

        @field_validator(
            "margin",
            "exponent",
            "nll_weight",
            "length_weight",
            "offset_weight",
            "penalty",
            "tau",
            "kl_weight",
            "sensitivity",
            mode="after",
        )
        @classmethod
        def _own(cls, value: float | None, info: ValidationInfo) -> float | None:
            """Give a field its value for this loss, or refuse it where the loss does not read it."""
            name = info.data.get("loss", "sigmoid")
            default = LOSSES[name].reads.get(info.field_name or "")
            if default is None and value is not None:
                readers = [other for other, loss in LOSSES.items() if info.field_name in loss.reads]
                raise ValueError(
                    f"the loss '{name}' does not read it; leave it out, or use {' or '.join(readers)}"
                )
            return default if value is None else value

        @field_validator("label_smoothing")
        @classmethod
        def _smoothing(cls, value: float, info: ValidationInfo) -> float:
            name = info.data.get("loss", "sigmoid")
            if value and not LOSSES[name].smoothing:
                raise ValueError(
                    f"the loss '{name}' has no form for wrong labels; leave it out, or use robust"
                )
            return value

        @model_validator(mode="after")
        def _target(self) -> DPO.Config:
            if self.loss in ("exo_pair", "robust") and not self.label_smoothing:
                raise ValueError(
                    f"{self.loss} needs a share of wrong labels above 0; set label_smoothing: 0.1"
                )
            return self

    def check_rows(self, rows: Many[Row]) -> None:
        loss = self.config.loss
        if LOSSES[loss].strength and all(row.preference in (0, 1) for row in rows if isinstance(row, Pair)):
            raise DataError(
                f"the loss '{loss}' reads from `preference` how much better an answer is, and no row has one between "
                "0 and 1",
                "take rows with soft labels, or use the loss sigmoid",
            )

    def align(self, run: Run) -> Policy:
        from alignbench_dpo.objective import Objective

        policy = run.adapt()
        rows = run.rows(Pair)
        self.check_rows(list(rows))
        objective = Objective(run, rows, policy, self.config)
        run.train(
            policy,
            rows,
            objective.sequences,
            objective.loss,
            learning_rate=self.config.learning_rate,
            state=objective.state,
            before_step=objective.before_step if objective.whole_step else None,
        )
        return policy
