"""Alignment from unpaired preferences: each answer is desirable or not, and no two are compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignbench import Method, MethodConfig, Policy, Run, UnpairedPreference


class KTO(Method):
    """A loss of single answers, labelled desirable or undesirable, against the frozen start.

    Sources: `kto`: Ethayarajh et al. 2024 (arXiv:2402.01306, eq. 7 and 8); `bco`: Jung et al. 2024 (arXiv:2404.04656),
    without its weights for shifted prompts; `apo_zero`: D'Oosterlinck et al. 2024 (arXiv:2408.06266, eq. 7), unpaired.
    """

    api = 2
    consumes = (UnpairedPreference,)

    class Config(MethodConfig):
        """Which loss, and how much each kind of answer weighs."""

        loss: Literal["kto", "bco", "apo_zero"] = "kto"
        """How an answer's reward becomes its loss."""
        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        beta: float = Field(0.1, gt=0)
        """Scale of the log-ratio to the reference: the larger, the closer the policy stays."""
        desirable_weight: float = Field(1.0, ge=0)
        """Weight of a desirable answer's loss."""
        undesirable_weight: float = Field(1.0, ge=0)
        """Weight of an undesirable answer's loss."""

        @model_validator(mode="after")
        def _something_weighs(self) -> KTO.Config:
            if not self.desirable_weight and not self.undesirable_weight:
                raise ValueError(
                    "desirable_weight and undesirable_weight are both 0: nothing would be learnt"
                )
            return self

    def align(self, run: Run) -> Policy:
        from alignbench_kto.objective import Objective

        policy = run.adapt()
        rows = run.rows(UnpairedPreference)
        objective = Objective(run, rows, policy, self.config)
        run.train(
            policy,
            rows,
            objective.sequences,
            objective.loss,
            learning_rate=self.config.learning_rate,
            state=objective.state,
            before_step=objective.before_step,
        )
        return policy
