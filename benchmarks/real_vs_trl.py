"""A real model on real preferences against TRL's command line: tokens a second of the processor, and peak memory.

    python benchmarks/real_vs_trl.py MODEL ROWS [--only dpo] [--compute defaults] [--steps 8] [--batch 8]

MODEL is a local folder or GGUF file, ROWS a file of pairs (`prompt`, `chosen`, `rejected`). The methods are those of
`trl sft`, `trl dpo` and `trl reward`, and ORPO, whose trainer TRL keeps in `trl.experimental`, without a command. Each
arm is a process of its own on one thread: the weights in NF4, a LoRA adapter of rank 16 on all linear layers, the same
rows in the same order and batches, AdamW, a constant rate. TRL's process is its script with the options of its command
line, on the safetensors that the model is unpacked to. DPO's references are computed inside the measured time in both
arms.

`float32` and `bfloat16` are equal settings: weights and products of both arms in that type, and no recomputed
activations. `defaults` leaves precision and recomputation to each side: ours takes `compute: auto`, and TRL gets no
`--dtype`, no `--bf16` and no `--gradient_checkpointing`. It does get `--use_cpu`, without which it refuses to train on
a CPU. What each arm then did stands in `settings`, read from its model and its trainer.

`tokens` are those of the rows, prompt and answer of each sequence, so that both arms have equally many: the ratio of
tokens a second is that of the times. Times are processor times of the training alone, set-up left out; the peak is
that of the whole process, with what loading takes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import alignbench_orpo

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

METHODS = ("sft", "dpo", "orpo", "reward")
COMPUTES = ("float32", "bfloat16", "defaults")
RATE, BETA = 1e-4, 0.1
LENGTH = 192


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("rows", type=Path)
    options.add_argument("--only", choices=METHODS)
    options.add_argument("--compute", choices=COMPUTES, action="append")
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--batch", type=int, default=8, help="rows of a step")
    options.add_argument(
        "--arm", choices=("alignbench", "trl"), help="one arm in this process, for the benchmark"
    )
    options.add_argument("--table", type=Path)
    given = options.parse_args()
    if given.arm is not None:
        measured = {"alignbench": ours, "trl": theirs}[given.arm](given)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**measured, "peak_bytes": peak, "process_seconds": time.process_time()}))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(given, Path(scratch))
        for compute in given.compute or COMPUTES:
            for method in [given.only] if given.only else METHODS:
                arms = {arm: run(given, Path(scratch), method, compute, arm) for arm in ("alignbench", "trl")}
                found[f"{method}.{compute}"] = compared(arms)
                print(f"{method} in {compute}: {found[f'{method}.{compute}']}", flush=True)
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")}
    print(json.dumps({"benchmark": "real_vs_trl", "versions": versions, **found}))


def compared(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    mine, trl = arms["alignbench"], arms["trl"]
    assert mine["tokens"] == trl["tokens"]
    return {
        "tokens": mine["tokens"],
        "tokens_per_second": {name: round(arm["tokens"] / arm["seconds"], 1) for name, arm in arms.items()},
        "ratio": round(trl["seconds"] / mine["seconds"], 2),
        "peak_gigabytes": {name: round(arm["peak_bytes"] / 1e9, 2) for name, arm in arms.items()},
        "memory": round(mine["peak_bytes"] / trl["peak_bytes"], 3),
        "process_seconds": {name: round(arm["process_seconds"], 1) for name, arm in arms.items()},
        "loss": {name: arm["loss"] for name, arm in arms.items()},
        "settings": {name: arm["settings"] for name, arm in arms.items()},
    }


def run(given: argparse.Namespace, scratch: Path, method: str, compute: str, arm: str) -> dict[str, Any]:
    how = ["--only", method, "--compute", compute, "--steps", str(given.steps), "--batch", str(given.batch)]
    how += ["--arm", arm, "--table", str(scratch)]
    command = [sys.executable, __file__, given.model, str(given.rows), *how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method} by {arm} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(given: argparse.Namespace, scratch: Path) -> None:
    """Write the rows of all steps once: as our table, and as TRL reads them."""
    from alignbench.data import prepare as data

    data.prepare(recipe(given, "float32"), scratch / "table", root=Path())
    for method in METHODS:
        (scratch / method).mkdir()
        lines = [json.dumps(as_trl(row, method)) for row in rows_of(given, scratch)]
        (scratch / method / "train.jsonl").write_text("\n".join(lines) + "\n")


def recipe(given: argparse.Namespace, compute: str) -> Any:
    from alignbench.recipe import schema

    return schema.Recipe.model_validate(
        {
            "model": {"id": given.model, "compute": "auto" if compute == "defaults" else compute},
            "data": {"train": str(given.rows), "limit": 400, "max_length": LENGTH, "allowed_drop": 1.0},
            "methods": {"sft": {}},
            "evaluation": {"prompts": 2, "metrics": ["length"]},
        }
    )


def rows_of(given: argparse.Namespace, scratch: Path) -> list[Any]:
    from alignbench.data.table import open_table
    from alignbench.rows import Pair
    from alignbench.training.batches import epoch

    table = open_table(scratch / "table").rows(Pair, "train", seed=0)
    rows = [row for step in epoch(table, 0, given.batch, 0) for row in step]
    return rows[: given.steps * given.batch]


def as_trl(row: Any, method: str) -> dict[str, Any]:
    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    prompt = [dict(turn) for turn in row.prompt]
    if method == "sft":
        return {"prompt": prompt, "completion": answer(row.chosen)}
    return {"prompt": prompt, "chosen": answer(row.chosen), "rejected": answer(row.rejected)}


def tokens(rows: list[Any], method: str) -> int:
    both = [one for row in rows for one in row.sequences()[: 1 if method == "sft" else 2]]
    return sum(len(one.prompt) + len(one.response) for one in both)


# --- the arms -----------------------------------------------------------------------------------------------


def ours(given: argparse.Namespace) -> dict[str, Any]:
    import torch

    from alignbench.api.config import Budget
    from alignbench.models import load_base
    from alignbench.recipe import schema
    from alignbench.store import Store, default_root
    from alignbench.training import reference, reward_model
    from alignbench.training.trainer import Trainer

    torch.set_num_threads(1)
    rows = rows_of(given, given.table)
    base = load_base(recipe(given, given.compute[0]).model, cache=Store(default_root()))
    policy = base.add_adapter("policy", seed=0)
    modules: dict[str, Any] = {}
    begun = time.process_time()
    if given.only == "sft":
        sequences: Any = lambda rows: {"": [row.sequences()[0] for row in rows]}  # noqa: E731
        loss: Any = lambda scores, rows: (-scores[""].logps, {})  # noqa: E731
    elif given.only == "dpo":
        folder = given.table / "reference"
        reference.compute(policy, [one for row in rows for one in row.sequences()], folder)
        known = reference.lookup([folder], "cpu")

        def preference(scores: Any, rows: list[Any]) -> Any:
            items = both_answers(rows)
            chosen, rejected = (scores[name].sums() - known(items[name]) for name in ("chosen", "rejected"))
            return -torch.nn.functional.logsigmoid(BETA * (chosen - rejected)), {}

        sequences, loss = both_answers, preference
    elif given.only == "orpo":
        sequences, loss = alignbench_orpo.sequences, alignbench_orpo.loss_of(BETA)
    else:
        head = reward_model.new_head(base, seed=0)
        modules = {"head": head}
        sequences, loss = reward_model.sequences_of(base, head), reward_model.ranking_loss
    losses: list[float] = []
    at = iter(range(0, len(rows) + given.batch, given.batch))
    record = Trainer(
        policy,
        lambda step: rows[(start := next(at)) : start + given.batch],
        sequences,
        loss,
        learning_rate=RATE,
        training=schema.Training(batch=given.batch, schedule="constant", warmup=0.0),
        budget=Budget(steps=given.steps),
        seed=0,
        modules=modules,
        log=lambda step, numbers: losses.append(numbers["loss"]),
    ).run()
    seconds = time.process_time() - begun
    return {
        "seconds": seconds,
        "tokens": tokens(rows, given.only),
        "loss": losses[-1],
        "micro_batch": record.micro_batch,
        "settings": {"weights": str(base.dtype), "recomputes": record.checkpointing},
    }


def both_answers(rows: list[Any]) -> dict[str, Any]:
    both = [row.sequences() for row in rows]
    return {"chosen": [one for one, _ in both], "rejected": [one for _, one in both]}


def theirs(given: argparse.Namespace) -> dict[str, Any]:
    import transformers

    from alignbench.models.weights.hub import model_folder

    method, compute = given.only, given.compute[0]
    folder = model_folder(recipe(given, compute).model, Path())
    options = {
        "model_name_or_path": folder,
        "dataset_name": given.table / method,
        "output_dir": given.table / f"trl-{method}-{compute}",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "use_bnb_nested_quant": True,
        "use_peft": True,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_modules": "all-linear",
        "per_device_train_batch_size": given.batch,
        "max_steps": given.steps,
        "max_length": LENGTH,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": given.steps,
        **({} if compute == "defaults" else equal_settings(compute)),
        **({"beta": BETA} if method in ("dpo", "orpo") else {}),
        **({"lora_task_type": "SEQ_CLS"} if method == "reward" else {}),
    }
    script: Any = ORPOScript if method == "orpo" else import_module(f"trl.scripts.{method}")
    spent: list[float] = []
    settings: dict[str, Any] = {}
    logged: list[dict[str, float]] = []
    train = transformers.Trainer.train

    def timed(trainer: Any, *args: Any, **how: Any) -> Any:
        begun = time.process_time()
        done = train(trainer, *args, **how)
        spent.append(time.process_time() - begun)
        logged.extend(trainer.state.log_history)
        settings["weights"] = str(trainer.model.get_input_embeddings().weight.dtype)
        settings["autocast"] = "bfloat16" if trainer.args.bf16 else "none"
        settings["recomputes"] = trainer.args.gradient_checkpointing
        return done

    transformers.Trainer.train = timed  # pyright: ignore[reportAttributeAccessIssue]
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    script.main(*script.make_parser().parse_args_and_config(arguments, fail_with_unknown_args=True))
    losses = [one["loss"] for one in logged if "loss" in one]
    return {
        "seconds": spent[0],
        "tokens": tokens(rows_of(given, given.table), method),
        "loss": losses[-1],
        "settings": settings,
    }


class ORPOScript:
    """What `trl.scripts.dpo` does, with TRL's trainer of ORPO."""

    @staticmethod
    def make_parser() -> Any:
        from trl import ModelConfig, ScriptArguments, TrlParser
        from trl.experimental.orpo import ORPOConfig

        return TrlParser((ScriptArguments, ORPOConfig, ModelConfig))

    @staticmethod
    def main(script: Any, training: Any, model: Any) -> None:
        from datasets import load_dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import get_peft_config, get_quantization_config
        from trl.experimental.orpo import ORPOTrainer

        weights = {"dtype": model.dtype, "quantization_config": get_quantization_config(model)}
        ORPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model.model_name_or_path, **weights),
            args=training,
            train_dataset=load_dataset(script.dataset_name)[script.dataset_train_split],
            processing_class=AutoTokenizer.from_pretrained(model.model_name_or_path),
            peft_config=get_peft_config(model),
        ).train()


def equal_settings(compute: str) -> dict[str, Any]:
    return {"dtype": compute, "bf16": compute == "bfloat16", "gradient_checkpointing": False}


if __name__ == "__main__":
    main()
