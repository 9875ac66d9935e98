"""The one trainer against TRL's SFTTrainer, DPOTrainer and experimental ORPOTrainer: speed and losses.

    python benchmarks/trainer_vs_trl.py [--pairs 5] [--steps 24] [--only dpo]

Both arms train in one process, on one thread, on equal weights: the sandbox's base in NF4, one LoRA adapter
in float32 drawn once and copied, equal batches in equal order, one AdamW, no recomputed activations. DPO's
references are computed beforehand in both arms. Arms alternate A B B A, and times are CPU times.

`ratio` compares tokens per second, each arm on the tokens it really computes, padding not counted. An arm
that computes a shared prompt once has fewer of them, so `steps` compares the time of a step as well: rows,
their tokens and the loss are the same. `trl_default` is TRL in its own random order, which pads more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}

import alignbench_dpo
import alignbench_orpo
import alignbench_sft
import numpy as np
import torch
from alignbench_dpo import objective
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from alignbench.api.config import Budget
from alignbench.data.prepare import prepare
from alignbench.data.table import open_table
from alignbench.models import ModelPolicy, load_base
from alignbench.recipe import schema
from alignbench.rows import Demonstration, Pair, Row, derive
from alignbench.training import reference
from alignbench.training import trainer as ours
from alignbench.training.batches import epoch

BATCH = 16
RATE = 1e-3
BETA = 0.1
AGREE = 1e-4
"""The largest difference of losses that passes."""
ARMS = ("alignbench", "trl", "trl_default")
WAITS = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy")
"""Ways in which the host reads a number from the device, and waits for it."""


@dataclass
class Arm:
    """One trainer, ready to run again and again: `run` trains, the counts are of its last run."""

    run: Callable[[int, bool], list[dict[str, float]]]
    model: torch.nn.Module


class Fixed:
    """Rows in an order that is given: both arms get the same batches."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def epoch(self, number: int) -> list[Row]:
        return self.rows


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pairs", type=int, default=5, help="A B B A blocks for each method")
    options.add_argument("--steps", type=int, default=24, help="steps of one run")
    options.add_argument("--only", choices=("sft", "dpo", "orpo"), help="one method")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        rows = sandbox_pairs(Path(scratch), given.steps * BATCH)
        for method in [given.only] if given.only else ["sft", "dpo", "orpo"]:
            results[method] = compare(method, rows, Path(scratch), given)
    print(table(results))
    ratios, counts, differences = {}, {}, {}
    for name, found in results.items():
        for arm, suffix in (("trl", ""), ("trl_default", "_default_order")):
            ratios[f"{name}{suffix}"] = round(found["ratio"][arm], 3)
            ratios[f"{name}_steps{suffix}"] = round(found["steps"][arm], 3)
        for arm in ARMS:
            counts |= {f"{name}.{arm}.{what}": value for what, value in found[arm].items()}
        differences |= {f"{name}.{what}": value for what, value in found["agree"].items()}
    record = {"benchmark": "trainer_vs_trl", "ratios": ratios, "counts": counts, "differences": differences}
    print(json.dumps(record))
    slow = [name for name in results if ratios[name] < 1]
    sys.exit(bool(slow) or any(value > AGREE for value in differences.values()))


def sandbox_pairs(folder: Path, count: int) -> list[Pair]:
    """The sandbox's training rows as pairs, tokenised once, in the order of the first epoch."""
    recipe = schema.Recipe.model_validate(
        {
            "model": {"id": "sandbox"},
            "data": {"train": "sandbox", "limit": count, "max_length": 128},
            "methods": {"sft": {}},
            "evaluation": {"prompts": 8, "judges": ["gold"]},
        }
    )
    prepare(recipe, folder / "table", root=Path())
    rows = open_table(folder / "table").rows(Pair, "train", seed=0)
    return [row for step in epoch(rows, 0, BATCH, 0) for row in step]


def compare(method: str, rows: list[Pair], scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Everything about one method: agreement, counts, and the paired times."""
    mine, policy = our_arm(method, rows, scratch)
    arms = {
        "alignbench": mine,
        "trl": trl_arm(method, rows, scratch, policy, "sequential"),
        "trl_default": trl_arm(method, rows, scratch, policy, "random"),
    }
    found: dict[str, Any] = {"agree": agreement(method, mine, arms["trl"], policy)}
    found |= {name: counts(arm, given.steps) for name, arm in arms.items()}
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(given.pairs):
        for name in (*ARMS, *reversed(ARMS)):
            begun = time.process_time()
            arms[name].run(given.steps, False)
            times[name].append((time.process_time() - begun) / given.steps)
    tokens = {name: found[name]["tokens_per_step"] for name in ARMS}
    found["speed"] = {name: tokens[name] / statistics.median(times[name]) for name in ARMS}
    for key in ("steps", "ratio", "range"):
        found[key] = {}
    for other in ARMS[1:]:
        steps = [theirs / ours for ours, theirs in zip(times["alignbench"], times[other], strict=True)]
        ratios = [ratio * tokens["alignbench"] / tokens[other] for ratio in steps]
        found["steps"][other], found["ratio"][other] = statistics.median(steps), statistics.median(ratios)
        found["range"][other] = min(ratios), max(ratios)
    return found


def our_arm(method: str, rows: list[Pair], scratch: Path) -> tuple[Arm, ModelPolicy]:
    base = load_base(schema.Model(id="sandbox"))
    policy = base.add_adapter("policy", seed=0)
    if method == "sft":
        view: Any = [demonstration(row) for row in rows]
        sequences, loss = alignbench_sft.sequences, alignbench_sft.loss
    elif method == "dpo":
        reference.compute(policy, [one for row in rows for one in row.sequences()], scratch / "reference")
        known = reference.lookup([scratch / "reference"], "cpu")
        # There is no run here whose shared reference it could ask for.
        objective.logprobs = lambda run, rows: known
        made: Any = objective.Objective
        view, dpo = rows, made(None, rows, policy, alignbench_dpo.DPO.Config(beta=BETA))
        sequences, loss = dpo.sequences, dpo.loss
    else:
        view, sequences = rows, alignbench_orpo.sequences
        loss = alignbench_orpo.loss_of(BETA)

    def run(steps: int, every_step: bool) -> list[dict[str, float]]:
        logged: list[dict[str, float]] = []
        ours.LOG_STEPS = 1 if every_step else 10
        at = iter(range(0, 10**9, BATCH))
        ours.Trainer(
            policy,
            lambda step: view[(start := next(at)) : start + BATCH],
            sequences,
            loss,
            learning_rate=RATE,
            training=schema.Training(batch=BATCH, schedule="constant", warmup=0.0),
            budget=Budget(steps=steps),
            seed=0,
            log=lambda step, numbers: logged.append(dict(numbers)),
        ).run()
        return logged

    return Arm(run, base.model.base_model), policy


def trl_arm(method: str, rows: list[Pair], scratch: Path, policy: ModelPolicy, order: str) -> Arm:
    base = load_base(schema.Model(id="sandbox"))
    shape = policy.base.adapter
    lora = LoraConfig(
        r=shape.rank, lora_alpha=shape.alpha, target_modules=list(base.targets.layers), task_type="CAUSAL_LM"
    )
    common: dict[str, Any] = {
        "output_dir": str(scratch / f"trl-{method}-{order}"),
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "logging_steps": 10,
        "max_length": None if method != "orpo" else 128,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "train_sampling_strategy": order,
    }
    made = {"model": base.model, "processing_class": base.tokenizer, "peft_config": lora}
    with quiet():
        if method == "sft":
            trainer = SFTTrainer(
                args=SFTConfig(**common, completion_only_loss=True), train_dataset=sft_data(rows), **made
            )
        elif method == "dpo":
            trainer = DPOTrainer(
                args=DPOConfig(**common, beta=BETA, precompute_ref_log_probs=True),
                train_dataset=pair_data(rows),
                **made,
            )
            check_ids(trainer.train_dataset, rows)
        else:
            trainer = GivenORPO(args=ORPOConfig(**common, beta=BETA), train_dataset=orpo_data(rows), **made)
    equalise(trainer.model, policy)

    def run(steps: int, every_step: bool) -> list[dict[str, float]]:
        logged: list[dict[str, float]] = []
        trainer.args.max_steps, trainer.args.logging_steps = steps, 1 if every_step else 10
        listener = Listener(logged)
        trainer.add_callback(listener)
        with quiet():
            trainer.train()
        trainer.remove_callback(listener)
        return logged

    return Arm(run, base.model.base_model)


class GivenORPO(ORPOTrainer):
    """TRL's, on rows that are tokenised already; `alike` masks the prompt of its NLL as ours is masked."""

    alike = False

    def tokenize_row(self, feature, model=None):
        return feature

    def concatenated_forward(self, model, batch):
        found = list(super().concatenated_forward(model, batch))
        if self.alike:
            width = found[2].shape[1]
            labels = torch.nn.functional.pad(
                batch["chosen_labels"], (0, width + 1 - batch["chosen_labels"].shape[1]), value=-100
            )
            found[4] = torch.nn.functional.cross_entropy(found[2].flatten(0, 1), labels[:, 1:].flatten())
        return tuple(found)


class Listener(TrainerCallback):
    """Keeps what a trainer logs."""

    def __init__(self, logged: list[dict[str, float]]):
        self.logged = logged

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in (logs or {}):
            self.logged.append(dict(logs))


def agreement(method: str, mine: Arm, theirs: Arm, policy: ModelPolicy) -> dict[str, float]:
    """The largest differences of what both arms log in eight steps from equal weights."""
    kept = {name: tensor.detach().clone() for name, tensor in policy.tensors().items()}
    GivenORPO.alike = True
    ours_said, trl_said = mine.run(8, True), theirs.run(8, True)
    GivenORPO.alike = False
    with torch.no_grad():
        for name, tensor in policy.tensors().items():
            tensor.copy_(kept[name])
    names = {"loss": "loss"}
    if method == "orpo":
        names |= {name: name for name in ("log_odds_chosen", "log_odds_ratio", "nll_loss")}
    return {
        here: max(abs(a[here] - float(b[there])) for a, b in zip(ours_said, trl_said, strict=True))
        for here, there in names.items()
    }


def real_tokens(ids: torch.Tensor, mask: torch.Tensor | None) -> int:
    """Positions that are not padding, without a read that would be counted."""
    return int(np.count_nonzero(np.from_dlpack(ids if mask is None else mask)))


def counts(arm: Arm, steps: int) -> dict[str, float]:
    """Forwards, real tokens, padded positions and host syncs of one run, per step."""
    seen: Counter[str] = Counter()

    def look(module, args, kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        mask = None if "pattern" in kwargs else kwargs.get("attention_mask")  # without padding: all are real
        seen["forwards"] += 1
        seen["positions"] += ids.numel()
        seen["tokens"] += real_tokens(ids, mask)

    hook = arm.model.register_forward_pre_hook(look, with_kwargs=True)
    with count_waits(seen):
        arm.run(steps, False)
    hook.remove()
    return {
        "forwards_per_step": round(seen["forwards"] / steps, 2),
        "tokens_per_step": round(seen["tokens"] / steps, 1),
        "positions_per_step": round(seen["positions"] / steps, 1),
        "host_syncs_per_step": round(seen["waits"] / steps, 2),
    }


@contextlib.contextmanager
def count_waits(seen: Counter[str]) -> Iterator[None]:
    """Count every read of a tensor's value by the host, but for those while rows are made into a batch."""
    loading = False
    kept = {name: getattr(torch.Tensor, name) for name in WAITS}
    get_batch = Trainer.get_batch_samples

    def counted(read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(*args: Any, **kwargs: Any) -> Any:
            seen["waits"] += not loading
            return read(*args, **kwargs)

        return reading

    def get_batch_samples(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        nonlocal loading
        loading = True
        try:
            return get_batch(self, *args, **kwargs)
        finally:
            loading = False

    for name, read in kept.items():
        setattr(torch.Tensor, name, counted(read))
    Trainer.get_batch_samples = get_batch_samples
    try:
        yield
    finally:
        Trainer.get_batch_samples = get_batch
        for name, read in kept.items():
            setattr(torch.Tensor, name, read)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def equalise(model: torch.nn.Module, policy: ModelPolicy) -> None:
    """Give TRL's adapter the weights and the precision of ours."""
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in policy.tensors().items():
            found = theirs[name.replace(".weight", ".default.weight")]
            found.data = tensor.detach().clone()


def demonstration(row: Pair) -> Demonstration:
    return derive(row, Demonstration, seed=0)[0]


def sft_data(rows: list[Pair]) -> Dataset:
    ids = [list(row.prompt_ids + row.chosen_ids) for row in rows]
    masks = [[0] * len(row.prompt_ids) + [1] * len(row.chosen_ids) for row in rows]
    return Dataset.from_dict({"input_ids": ids, "completion_mask": masks})


def pair_data(rows: list[Pair]) -> Dataset:
    def answers(name: str) -> list[Any]:
        return [[{"role": "assistant", "content": getattr(row, name)}] for row in rows]

    prompts = [[dict(turn) for turn in row.prompt] for row in rows]
    return Dataset.from_dict(
        {"prompt": prompts, "chosen": answers("chosen"), "rejected": answers("rejected")}
    )


def check_ids(dataset: Any, rows: list[Pair]) -> None:
    """Raise ValueError where TRL tokenised a row in another way."""
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        if dataset[name] != [list(getattr(row, name)) for row in rows]:
            raise ValueError(f"TRL's {name} are not ours")


def orpo_data(rows: list[Pair]) -> Dataset:
    columns: dict[str, list[list[int]]] = {}
    for row in rows:
        prompt = list(row.prompt_ids)
        for name, ids in (
            ("", prompt),
            ("chosen_", [*prompt, *row.chosen_ids]),
            ("rejected_", [*prompt, *row.rejected_ids]),
        ):
            stem = name or "prompt_"
            columns.setdefault(f"{stem}input_ids", []).append(ids)
            columns.setdefault(f"{stem}attention_mask", []).append([1] * len(ids))
            if name:
                labels = [-100] * len(prompt) + ids[len(prompt) :]
                columns.setdefault(f"{stem}labels", []).append(labels)
    texts = {name: [""] * len(rows) for name in ("prompt", "chosen", "rejected")}
    return Dataset.from_dict(columns | texts)


def table(results: dict[str, Any]) -> str:
    """What people read: a line for each arm."""
    names = ("method", "arm", "tokens/CPU-s", "ratio", "steps", "forwards", "tokens", "positions", "syncs")
    widths = (6, 12, 12, 20, 6, 8, 7, 9, 6)
    lines = ["  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for method, found in results.items():
        for arm in ARMS:
            count, ratio, steps = found[arm], "", ""
            if arm != "alignbench":
                low, high = found["range"][arm]
                ratio = f"{found['ratio'][arm]:.2f} ({low:.2f}..{high:.2f})"
                steps = f"{found['steps'][arm]:.2f}"
            cells = (
                method,
                arm,
                f"{found['speed'][arm]:.0f}",
                ratio,
                steps,
                f"{count['forwards_per_step']:.2f}",
                f"{count['tokens_per_step']:.0f}",
                f"{count['positions_per_step']:.0f}",
                f"{count['host_syncs_per_step']:.2f}",
            )
            lines.append("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
        differences = ", ".join(f"{name} {value:.1e}" for name, value in found["agree"].items())
        lines.append(f"        largest difference in 8 equal steps: {differences}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
