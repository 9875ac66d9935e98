"""TRL's own trainers as methods, on the same base, rows, token ids and budget as every other method."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from alignbench import Demonstration, Method, MethodConfig, Pair, Policy, Run


class TRLConfig(MethodConfig):
    """What is given to TRL's trainer."""

    learning_rate: float = Field(1e-5, gt=0, le=1)
    """Peak learning rate of the adapter."""
    args: dict[str, Any] = {}
    """Further fields of TRL's config, such as `{loss_type: [ipo]}`; those that the recipe sets for all are refused."""


class TRLSFT(Method):
    """Supervised fine-tuning by `trl.SFTTrainer` on the shared token ids.

    Source: https://huggingface.co/docs/trl/sft_trainer
    """

    api = 2
    consumes = (Demonstration,)

    class Config(TRLConfig):
        """What is given to TRL's trainer."""

    def align(self, run: Run) -> Policy:
        from alignbench_trl.trainers import train_sft

        return train_sft(run, self.config)


class TRLDPO(Method):
    """Direct preference optimisation by `trl.DPOTrainer` on the shared token ids.

    Source: https://huggingface.co/docs/trl/dpo_trainer
    """

    api = 2
    consumes = (Pair,)

    class Config(TRLConfig):
        """What is given to TRL's trainer."""

        beta: float = Field(0.1, gt=0)
        """Strength of the pull to the start."""

    def align(self, run: Run) -> Policy:
        from alignbench_trl.trainers import train_dpo

        return train_dpo(run, self.config)
