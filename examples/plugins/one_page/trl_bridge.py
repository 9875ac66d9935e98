"""A bridge to TRL on one page: its DPO on the run's own token ids, in the run's order, budget and log."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from pydantic import Field

from alignbench import Method, MethodConfig, Pair, Policy, Run
from alignbench.integrations import callback

FIXED = {
    "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "max_length": None,
    "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    "optim": "adamw_torch", "weight_decay": 0.0, "gradient_checkpointing": False, "bf16": False,
}  # fmt: skip
"""What the run does itself: schedule, order, length of rows, log and checkpoints."""


class Bridge(Method):
    """DPO by `trl.DPOTrainer`, a step in one forward.

    Source: https://huggingface.co/docs/trl/dpo_trainer; Rafailov et al. 2023 (arXiv:2305.18290).
    """

    api = 2
    consumes = (Pair,)

    class Config(MethodConfig):
        """How fast, and how far from the start."""

        learning_rate: float = Field(1e-5, gt=0, le=1)
        """Peak learning rate of the adapter."""
        beta: float = Field(0.1, gt=0)
        """Strength of the pull to the start."""

    def align(self, run: Run) -> Policy:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        run.record.departure("trainer", "alignbench's", "TRL's")
        policy, rows = run.adapt(), run.rows(Pair)
        with TemporaryDirectory() as folder, run.borrow(policy) as (model, tokenizer):
            leading = callback(run, rows, leave_out=("num_tokens", "step_time"))
            of_run = {"max_grad_norm": run.training.max_grad_norm, "seed": run.seed % 2**31}
            of_run |= {"max_steps": leading.steps, "per_device_train_batch_size": run.batch}
            args = DPOConfig(folder, **self.config.model_dump(), **FIXED, **of_run)
            # TRL tokenises what it is given when it is made; the run's rows are tokenised already.
            nothing = Dataset.from_dict({"prompt": ["a"], "chosen": ["a"], "rejected": ["a"]})
            made = {"train_dataset": nothing, "processing_class": tokenizer, "callbacks": [leading]}
            trainer = DPOTrainer(model, args=args, **made)
            leading.lead(trainer, columns)
            trainer.train()
        return policy


def columns(row: Pair) -> dict[str, list[int]]:
    """Return a pair as TRL's batches have it: token ids of the prompt and of both answers."""
    return {f"{name}_ids": list(getattr(row, f"{name}_ids")) for name in ("prompt", "chosen", "rejected")}
