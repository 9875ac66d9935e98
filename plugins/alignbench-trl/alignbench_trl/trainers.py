"""Runs a TRL trainer on a borrowed network: the recipe's rows in the shared order, its settings, and its budget."""

from __future__ import annotations

import importlib
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from trl import (
    DPOConfig,  # pyright: ignore[reportPrivateImportUsage]
    DPOTrainer,  # pyright: ignore[reportPrivateImportUsage]
    KTOConfig,  # pyright: ignore[reportPrivateImportUsage]
    KTOTrainer,  # pyright: ignore[reportPrivateImportUsage]
    SFTConfig,  # pyright: ignore[reportPrivateImportUsage]
    SFTTrainer,  # pyright: ignore[reportPrivateImportUsage]
)

from alignbench import (
    AlignbenchError,
    Demonstration,
    Pair,
    PluginError,
    Policy,
    Prompt,
    Ranking,
    Row,
    Rows,
    Run,
    TrainablePolicy,
    UnpairedPreference,
)
from alignbench.integrations import callback
from alignbench_trl.source import taken_by

OPTIMIZERS = {"adamw": "adamw_torch", "adamw-8bit": "adamw_bnb_8bit"}
NOT_OF_THE_STEP = (
    "entropy",
    "logits/chosen",
    "logits/rejected",
    "max_reward",
    "mean_token_accuracy",
    "min_reward",
    "num_tokens",
    "step_time",
)
"""Numbers that TRL averages over micro-batches, whatever their tokens, or counts from the start of its process."""
UNCUT = 2**20
"""More tokens than a row has: the recipe has dropped those that are too long."""
Columns = Callable[[Any], Mapping[str, Any]]
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

    return train(run, config, run.rows(Demonstration), columns, make)


def train_dpo(run: Run, config: Any) -> Policy:
    """Train the start's copy with `trl.DPOTrainer`; the reference is the start, as an adapter that TRL copies."""

    def columns(row: Pair) -> dict[str, list[int]]:
        return {
            "prompt_ids": list(row.prompt_ids),
            "chosen_ids": list(row.chosen_ids),
            "rejected_ids": list(row.rejected_ids),
        }

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> DPOTrainer:
        settings = DPOConfig(**args, max_length=None)
        nothing = Dataset.from_dict({"prompt": ["a"], "chosen": ["a"], "rejected": ["a"]})
        return DPOTrainer(model, args=settings, train_dataset=nothing, processing_class=tokenizer, **more)

    return train(run, config, run.rows(Pair), columns, make)


def train_kto(run: Run, config: Any) -> Policy:
    """Train the start's copy with `trl.KTOTrainer`, a step in one forward: the rows of a forward give its KL."""

    def columns(row: UnpairedPreference) -> dict[str, Any]:
        return {
            "prompt_ids": list(row.prompt_ids),
            "completion_ids": list(row.response_ids),
            "label": row.desirable,
        }

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> KTOTrainer:
        settings = KTOConfig(**args, max_length=None)
        nothing = Dataset.from_dict({"prompt": ["a", "a"], "completion": ["a", "b"], "label": [True, False]})
        trainer = KTOTrainer(model, args=settings, train_dataset=nothing, processing_class=tokenizer, **more)
        if trainer.calculate_KL:
            trainer.data_collator = _mismatched(trainer.data_collator, map(columns, rows))
        return trainer

    rows = run.rows(UnpairedPreference)
    return train(run, config, rows, columns, make, together=True)


class _Mismatched:
    """Gives each prompt the answer to another one of the step, as TRL does where it prepares the rows.

    The rows of a prompt are put side by side, and each takes the answer as many places before it as the prompt with
    most answers has. A prompt that meets itself so takes an answer to another one of the step or, where that is the
    only one, of `others`, which are two prompts with their answers.
    """

    def __init__(
        self, collate: Callable[[list[dict[str, Any]]], Any], others: Mapping[tuple[int, ...], list[int]]
    ):
        self.collate, self.others = collate, others

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        prompts = [tuple(row["prompt_ids"]) for row in rows]
        answers = [row["completion_ids"] for row in rows]
        past = max(Counter(prompts).values())
        order = sorted(range(len(rows)), key=lambda place: prompts.index(prompts[place]))
        met = dict(zip(order, order[-past:] + order[:-past], strict=True))
        known = [*zip(prompts, answers, strict=True), *self.others.items()]

        def other(place: int) -> list[int]:
            if prompts[met[place]] != prompts[place]:
                return answers[met[place]]
            return next((answer for prompt, answer in known if prompt != prompts[place]), answers[place])

        return self.collate([{**row, "KL_completion_ids": other(at)} for at, row in enumerate(rows)])


def _mismatched(
    collate: Callable[[list[dict[str, Any]]], Any], rows: Iterable[Mapping[str, Any]]
) -> _Mismatched:
    """Return what mismatches the rows of a step; two prompts of `rows` are there for a step with a single one."""
    first = {tuple(row["prompt_ids"]): list(row["completion_ids"]) for row in rows}
    return _Mismatched(collate, dict(list(first.items())[:2]))


# --- any trainer --------------------------------------------------------------------------------------------


def train_any(run: Run, config: Any, view: type[Row]) -> Policy:
    """Train the start's copy with a trainer named by the recipe, which tokenises the rows itself."""
    rows = run.rows(view)
    known = dict(_possible(run, rows, view))
    prepared: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def columns(row: Any) -> Mapping[str, Any]:
        made = prepared[_key(row)]
        if not _as_shared(made, row):
            run.record.departure("token ids", "the shared ones", "as TRL makes them")
        return made

    def make(model: Any, tokenizer: Any, args: dict[str, Any], **more: Any) -> Any:
        kind, settings = named(config.trainer)
        records = Dataset.from_list(list(known.values()))
        if "max_length" in taken_by(config.trainer).fields:
            args = {**args, "max_length": UNCUT}
        trainer = kind(
            model=model, args=settings(**args), train_dataset=records, processing_class=tokenizer, **more
        )
        made: Any = trainer.train_dataset
        if len(made) != len(known):
            raise PluginError(
                f"{config.trainer} made {len(made)} rows of {len(known)}: the order of all methods is lost",
                "switch off in args whatever drops, splits or packs rows",
            )
        prepared.update(zip(known, made, strict=True))
        if "KL_completion_ids" in made.column_names:
            # TRL has paired each prompt with its neighbour's answer, which here is the other answer to the same one.
            trainer.data_collator = _mismatched(trainer.data_collator, prepared.values())
        return trainer

    # What a trainer takes the mean of is not known here: a step is one forward.
    return train(run, config, rows, columns, make, together=True)


def named(trainer: str) -> tuple[Any, Any]:
    """Return a trainer of TRL and its config by the trainer's name."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    folder, _, name = trainer.rpartition(".")
    module = importlib.import_module(f"trl.{folder}" if folder else "trl")
    return getattr(module, name), getattr(module, name.removesuffix("Trainer") + "Config")


def messages(row: Prompt) -> list[dict[str, str]]:
    """Return a prompt as TRL reads it."""
    return [dict(turn) for turn in row.prompt]


def _possible(run: Run, rows: Rows[Any], view: type[Row]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every row that an epoch may have, as TRL reads it, by its key: a ranking draws a pair for each epoch."""

    def turn(answer: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": answer}]

    def of_pair(row: Prompt, chosen: str, rejected: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        prompt = {"prompt": messages(row)}
        if view is Pair:
            yield (row.id, chosen, rejected), prompt | {"chosen": turn(chosen), "rejected": turn(rejected)}
        elif view is Demonstration:
            yield (row.id, chosen), prompt | {"completion": turn(chosen)}
        else:
            yield (row.id, chosen, "good"), prompt | {"completion": turn(chosen), "label": True}
            yield (row.id, rejected, "bad"), prompt | {"completion": turn(rejected), "label": False}

    if {_key(row) for row in rows.epoch(1)} != {_key(row) for row in rows}:
        for row in run.rows(Ranking):
            for better, worse, _ in row.comparisons():
                yield from of_pair(row, row.answers[better], row.answers[worse])
        return
    for row in rows:
        if isinstance(row, Pair):
            yield from of_pair(row, row.chosen, row.rejected)
        else:
            label = {"label": row.desirable} if isinstance(row, UnpairedPreference) else {}
            yield _key(row), {"prompt": messages(row), "completion": turn(row.response), **label}


def _as_shared(made: Mapping[str, Any], row: Any) -> bool:
    """Return whether the token ids that a trainer has made of a row are the shared ones of its prompt and answers."""
    shared = {tuple(row.prompt_ids)}
    for one in row.sequences():
        shared |= {one.response, one.prompt + one.response}
    mine = [
        name for name in made if name.endswith("_ids") and not name.startswith("KL_") and "type" not in name
    ]
    return all(tuple(made[name]) in shared for name in mine)


def _key(row: Any) -> tuple[str, ...]:
    if isinstance(row, Pair):
        return (row.id, row.chosen, row.rejected)
    kind = ("good" if row.desirable else "bad",) if isinstance(row, UnpairedPreference) else ()
    return (row.id, row.response, *kind)


# --- what all share -----------------------------------------------------------------------------------------


def train(
    run: Run,
    config: Any,
    rows: Rows[Any],
    columns: Columns,
    make: Make,
    *,
    together: bool = False,
    answers: int = 1,
) -> TrainablePolicy:
    """Train a copy of the start, and return it.

    `together`: a step is one forward, whatever the micro-batch is. `answers`: how many the trainer draws to each
    prompt, of which its batches consist then.
    """
    run.record.departure("trainer", "alignbench's", "TRL's")
    policy = run.adapt(dropout=answers == 1)
    with TemporaryDirectory() as folder, run.borrow(policy) as (model, tokenizer):
        leading = callback(run, rows, leave_out=NOT_OF_THE_STEP)
        settings = _settings(run, together=together)
        settings["per_device_train_batch_size"] *= answers * leading.views
        # Of a budget in epochs, rows or steps a step of groups is whole: TRL deals them out by their number.
        steps = leading.steps if answers == 1 else leading.whole_steps
        args = {
            **settings,
            "learning_rate": config.learning_rate,
            "max_steps": steps,
            "output_dir": folder,
            **config.given(),
            **config.args,
        }
        if not steps:
            raise PluginError(
                f"a step answers {run.batch} prompts, and a budget of {run.budget} has fewer",
                "raise the budget, or lower training.batch",
            )
        with _told_by_trl(config):
            trainer = make(model, tokenizer, args, callbacks=[leading])
            # TRL tokenises what it is given when it is made; these rows are tokenised already.
            leading.lead(trainer, columns)
            trainer.train()
    return policy


@contextmanager
def _told_by_trl(config: Any) -> Iterator[None]:
    """Tell what TRL itself raises with `args` as a fault of these: only who wrote them can mend it."""
    try:
        yield
    except AlignbenchError:
        raise
    except Exception as error:
        frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
        where = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if not config.args or where not in ("trl", "transformers"):
            raise
        name = getattr(config, "trainer", config.trained_by).rpartition(".")[2]
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(
            f"{name} of TRL failed with args {config.args}: {said}", "change args, or leave them out"
        ) from error


def _settings(run: Run, *, together: bool) -> dict[str, Any]:
    """Return the recipe's settings as TRL names them."""
    shared = run.training
    most = run.batch if shared.micro_batch == "auto" or together else min(shared.micro_batch, run.batch)
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
