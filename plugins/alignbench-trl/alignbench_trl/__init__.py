"""TRL's own trainers as methods, on the same base, rows, token ids and budget as every other method."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from alignbench import (
    Demonstration,
    Method,
    MethodConfig,
    NamedJudge,
    NamedReward,
    Pair,
    Policy,
    Prompt,
    Row,
    Run,
    UnpairedPreference,
)
from alignbench.rewards import trains_reward_model
from alignbench_trl.source import READS, check_fields, refuse, taken_by

SAME = frozenset({"chat_template_path", "dataset_kwargs", "eos_token", "generation_kwargs"})
"""Fields by which a trainer would make other token ids, or end and draw answers otherwise."""

SHARED = frozenset(
    {
        "activation_checkpointing",
        "bf16",
        "disable_tqdm",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
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
        "report_to",
        "save_strategy",
        "seed",
        "train_sampling_strategy",
        "use_cpu",
        "warmup_steps",
        "weight_decay",
    }
)
"""Fields that the recipe or the contract sets for all methods."""
DRAWN = frozenset(
    {
        "dataloader_multiprocessing_context",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "generation_batch_size",
        "num_iterations",
        "packing",
        "precompute_ref_log_probs",
        "shuffle_dataset",
        "steps_per_generation",
    }
)
"""Fields that say which rows a step has, or read them ahead."""
OF_TRANSFORMERS = frozenset({"adam_beta1", "adam_beta2", "adam_epsilon", "neftune_noise_alpha"})
"""Fields of transformers' trainer that change an update: how it logs, saves and evaluates is the run's."""
OF_PROMPTS = frozenset({"answers", "judge", "max_new_tokens", "rewards", "temperature"})
"""Fields of a trainer that draws answers itself."""
ONCE = frozenset(
    {
        "delta",
        "epsilon",
        "epsilon_high",
        "importance_sampling_level",
        "off_policy_mask_threshold",
        "sapo_temperature_neg",
        "sapo_temperature_pos",
        "vespo_k_neg",
        "vespo_k_pos",
        "vespo_lambda_neg",
        "vespo_lambda_pos",
    }
)
"""Fields that weigh answers by how far the policy is from the one that drew them."""
ELSEWHERE = frozenset({"use_transformers_continuous_batching", "use_transformers_paged", "use_vllm"})
"""Fields that let another engine draw the answers, where nothing is counted and the base is another."""
ROWS: dict[str, type[Row]] = {
    "demonstrations": Demonstration,
    "pairs": Pair,
    "unpaired": UnpairedPreference,
    "prompts": Prompt,
}
"""Views by their names in a recipe."""


class TRLConfig(MethodConfig):
    """What is given to TRL's trainer."""

    trained_by: ClassVar[str] = ""
    """The trainer, where it is not a field."""
    learning_rate: float = Field(1e-5, gt=0, le=1)
    """Peak learning rate of the adapter."""
    args: dict[str, Any] = {}
    """Further fields of TRL's config, such as `{loss_type: [ipo]}`; those that the recipe sets for all are refused."""

    @model_validator(mode="after")
    def _known_settings(self) -> Self:
        trainer = getattr(self, "trainer", self.trained_by)
        for names, reason in (
            (SHARED, "which the recipe sets for all methods; set it there"),
            (DRAWN, "but the rows of a step are those of all methods, drawn as they are needed"),
            (
                ONCE,
                "but each answer is learnt from once, by the policy that drew it: the ratio of the two is 1",
            ),
            (ELSEWHERE, "but the run counts what its own base draws"),
            (SAME, "but token ids, the end of an answer and its sampling are those of all methods"),
            (self.given().keys(), "which is a field of the method; set it there"),
        ):
            if taken := sorted(names & self.args.keys()):
                raise ValueError(f"args sets {', '.join(taken)}, {reason}")
        check_fields(trainer, {name: one for name, one in self.args.items() if name not in OF_TRANSFORMERS})
        return self

    def given(self) -> dict[str, Any]:
        """Return the fields of TRL's config that fields of the method set."""
        beta = getattr(self, "beta", None)
        return {} if beta is None else {"beta": beta}


class Rewarded(TRLConfig):
    """What is rewarded, and how the answers are drawn."""

    judge: NamedJudge | None = None
    """Whose scores are the reward. With no `rewards` either: a reward model of the training rows."""
    rewards: list[NamedReward] = []
    """Reward functions, added to the judge's score where one is named: `length`, `{regex: {pattern: ...}}`."""
    answers: int = Field(8, ge=2)
    """Answers to each prompt, its group; the recipe's batch counts prompts."""
    temperature: float = Field(1.0, gt=0)
    """Of the answers, and of every log-probability taken of them."""
    max_new_tokens: int = Field(256, ge=1)
    """Tokens after which an answer is cut."""

    def given(self) -> dict[str, Any]:
        return super().given() | {
            "num_generations": self.answers,
            "temperature": self.temperature,
            "max_completion_length": self.max_new_tokens,
        }


class TRLSFT(Method):
    """Supervised fine-tuning by `trl.SFTTrainer` on the shared token ids.

    Source: https://huggingface.co/docs/trl/sft_trainer
    """

    api = 2
    consumes = (Demonstration,)

    class Config(TRLConfig):
        """What is given to TRL's trainer."""

        trained_by = "SFTTrainer"

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

        trained_by = "DPOTrainer"
        beta: float = Field(0.1, gt=0)
        """Strength of the pull to the start."""

    def align(self, run: Run) -> Policy:
        from alignbench_trl.trainers import train_dpo

        return train_dpo(run, self.config)


class TRLKTO(Method):
    """KTO by `trl.KTOTrainer` on the shared token ids; its KL is that of the rows of a step.

    Source: https://huggingface.co/docs/trl/kto_trainer
    """

    api = 2
    consumes = (UnpairedPreference,)

    class Config(TRLConfig):
        """What is given to TRL's trainer."""

        trained_by = "KTOTrainer"
        beta: float = Field(0.1, gt=0)
        """Strength of the pull to the start."""

    def align(self, run: Run) -> Policy:
        from alignbench_trl.trainers import train_kto

        return train_kto(run, self.config)


class TRLReward(Method):
    """The best of n answers by a reward model that `trl.RewardTrainer` trains on the shared token ids.

    Sources: https://huggingface.co/docs/trl/reward_trainer; Stiennon et al. 2020 (arXiv:2009.01325), appendix G.
    """

    api = 2
    consumes = (Pair,)
    on_decoders = False

    class Config(TRLConfig):
        """What is given to TRL's trainer, and how many answers are drawn."""

        trained_by = "RewardTrainer"
        learning_rate: float = Field(1e-4, gt=0, le=1)
        """Peak learning rate of the reward model's adapter and head."""
        n: int = Field(4, ge=1)
        """Answers drawn for each that is given."""

    def align(self, run: Run) -> Policy:
        from alignbench_trl.best import train_reward

        return train_reward(run, self.config)

    def restore(self, folder: Path, run: Run) -> Policy:
        from alignbench_trl.best import restored

        return restored(run, folder, self.config.n)


class OfGroups(Method):
    """What TRL's methods of groups share: they read prompts, and comparisons where a reward model is trained."""

    api = 2
    consumes = (Prompt,)

    def reads(self) -> tuple[type[Row], ...]:
        trained = trains_reward_model(self.config.judge, self.config.rewards)
        return (Prompt, Pair) if trained else (Prompt,)

    def align(self, run: Run) -> Policy:
        from alignbench_trl.groups import train_groups

        return train_groups(run, self.config, self.config.trained_by)


class TRLGRPO(OfGroups):
    """GRPO by `trl.GRPOTrainer`, which draws its answers itself; rewards are those of `grpo`.

    Source: https://huggingface.co/docs/trl/grpo_trainer
    """

    api = 2

    class Config(Rewarded):
        """What is given to TRL's trainer."""

        trained_by = "GRPOTrainer"
        beta: float = Field(0.04, ge=0)
        """Weight of the KL from the start; 0 computes none."""


class TRLRLOO(OfGroups):
    """RLOO by `trl.RLOOTrainer`, which draws its answers itself; rewards are those of `rloo`.

    Source: https://huggingface.co/docs/trl/rloo_trainer
    """

    api = 2

    class Config(Rewarded):
        """What is given to TRL's trainer."""

        trained_by = "RLOOTrainer"
        answers: int = Field(4, ge=2)
        """Answers to each prompt, its group; the recipe's batch counts prompts."""
        beta: float = Field(0.05, ge=0)
        """Reward lost for each nat of KL from the start; 0 computes none."""


class TRLTrainer(Method):
    """A trainer of TRL by its name, on rows that it tokenises itself: one of the eight that docs/methods/trl.md lists.

    Source: https://huggingface.co/docs/trl
    """

    api = 2
    consumes = (Pair,)

    class Config(Rewarded):
        """Which trainer, and what it is given."""

        trainer: str = "DPOTrainer"
        """Its name in TRL: `DPOTrainer`, `experimental.orpo.ORPOTrainer`."""
        rows: Literal["demonstrations", "pairs", "unpaired", "prompts"] = "pairs"
        """What it learns from; `prompts`: its own answers, with the rewards of `judge` and `rewards`."""

        @model_validator(mode="after")
        def _rows_it_reads(self) -> Self:
            refuse(self.trainer)
            draws = taken_by(self.trainer).rewards
            reads = "prompts" if draws else READS.get(self.trainer.rpartition(".")[2])
            if reads is None and self.rows == "prompts":
                raise ValueError(
                    f"{self.trainer} learns from answers, and no prompts alone; rows is 'prompts'"
                )
            if reads not in (None, self.rows):
                raise ValueError(
                    f"{self.trainer} learns from {reads}; write rows: {reads} instead of {self.rows}"
                )
            fields = type(self).model_fields
            # By its value: a config that is written out and read again has all its fields set.
            unread = [name for name in sorted(OF_PROMPTS) if getattr(self, name) != fields[name].default]
            if unread and self.rows != "prompts":
                raise ValueError(
                    f"{', '.join(unread)}: only read with rows: prompts, where the trainer draws answers; leave it out"
                )
            return self

        def given(self) -> dict[str, Any]:
            return super().given() if self.rows == "prompts" else {}

    def reads(self) -> tuple[type[Row], ...]:
        config = self.config
        if config.rows == "prompts" and trains_reward_model(config.judge, config.rewards):
            return (Prompt, Pair)
        return (ROWS[self.config.rows],)

    def align(self, run: Run) -> Policy:
        if self.config.rows == "prompts":
            from alignbench_trl.groups import train_groups

            return train_groups(run, self.config, self.config.trainer)
        from alignbench_trl.trainers import train_any

        return train_any(run, self.config, ROWS[self.config.rows])
