"""Runs a TRL trainer on a lent network: the recipe's rows in the shared order, its settings, and its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from alignbench import Demonstration, Pair, PluginError, Policy, Rows, Run
from alignbench.integrations import callback

SHARED = (
    "gradient_accumulation_steps",
    "learning_rate",
    "logging_steps",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_length",
    "max_steps",
    "num_train_epochs",
    "optim",
    "output_dir",
    "per_device_train_batch_size",
    "seed",
    "train_sampling_strategy",
    "warmup_steps",
)
"""Fields that the recipe, the method's own or the contract sets."""
OPTIMIZERS = {"adamw": "adamw_torch", "adamw-8bit": "adamw_bnb_8bit"}
NOT_OF_THE_STEP = ("entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy", "num_tokens")
"""Numbers that TRL averages over micro-batches, whatever their tokens, or counts from the start of its process."""
Make = Callable[..., Any]


def train_sft(run: Run, config: Any) -> Policy:
    """Train the start's copy with `trl.SFTTrainer`."""

    def columns(row: Demonstration) -> dict[str, list[int]]:
        return {
            "input_ids": [*row.prompt_ids, *row.response_ids],
            "labels": [-100] * len(row.prompt_ids) + list(row.response_ids),
        }

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> SFTTrainer:
        settings = SFTConfig(**args, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
        nothing = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        return SFTTrainer(model, settings, train_dataset=nothing, processing_class=tokenizer, **more)

    return _train(run, config, run.rows(Demonstration), columns, make)


def train_dpo(run: Run, config: Any) -> Policy:
    """Train the start's copy with `trl.DPOTrainer`; the reference is the start, as an adapter that TRL copies."""

    def columns(row: Pair) -> dict[str, list[int]]:
        return {
            "prompt_ids": list(row.prompt_ids),
            "chosen_ids": list(row.chosen_ids),
            "rejected_ids": list(row.rejected_ids),
        }

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> DPOTrainer:
        settings = DPOConfig(**args, beta=config.beta, max_length=None)
        nothing = Dataset.from_dict({"prompt": ["a"], "chosen": ["a"], "rejected": ["a"]})
        return DPOTrainer(model, args=settings, train_dataset=nothing, processing_class=tokenizer, **more)

    return _train(run, config, run.rows(Pair), columns, make)


def _train(
    run: Run, config: Any, rows: Rows[Any], columns: Callable[[Any], Mapping[str, Any]], make: Make
) -> Policy:
    """Train a copy of the start, and return it."""
    if taken := [name for name in config.args if name in SHARED]:
        raise PluginError(
            f"args sets {', '.join(taken)}, which the recipe sets for all methods", "set it there"
        )
    run.record.departure("trainer", "alignbench's", "TRL's")
    policy = run.adapt()
    with TemporaryDirectory() as folder, run.borrow(policy) as (model, tokenizer):
        leading = callback(run, rows, leave_out=NOT_OF_THE_STEP)
        args = {
            **_settings(run),
            "learning_rate": config.learning_rate,
            "max_steps": leading.steps,
            "output_dir": folder,
            **config.args,
        }
        trainer = make(model, tokenizer, args, callbacks=[leading])
        # TRL tokenises what it is given when it is made; these rows are tokenised already.
        trainer.train_dataset = leading.dataset(columns)
        trainer.train()
    return policy


def _settings(run: Run) -> dict[str, Any]:
    """Return the recipe's settings as TRL names them."""
    shared: Any = run.training
    most = run.batch if shared.micro_batch == "auto" else min(shared.micro_batch, run.batch)
    forward = next(size for size in range(most, 0, -1) if run.batch % size == 0)
    return {
        "per_device_train_batch_size": forward,
        "gradient_accumulation_steps": run.batch // forward,
        "lr_scheduler_type": "constant",
        "max_grad_norm": shared.max_grad_norm,
        "optim": OPTIMIZERS[shared.optimizer],
        "weight_decay": 0.0,
        "seed": run.seed % 2**31,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": shared.checkpointing is True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
    }
