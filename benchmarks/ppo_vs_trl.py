"""PPO against TRL's, the last PPOTrainer it had: samples per second, forwards, tokens, memory.

    python -m venv /tmp/trl && /tmp/trl/bin/pip install trl==1.12.0 peft bitsandbytes
    python benchmarks/ppo_vs_trl.py --trl /tmp/trl/bin/python [--pairs 3]

Each arm runs in a process and, TRL's, in an environment of its own, on one thread: the sandbox's base,
the same prompts, a LoRA adapter for the policy and one for the critic, rounds of 128 answers of at most
32 tokens, four passes over each in steps of 32. Arms alternate; times are CPU times of the training
alone, without loading and, for alignbench, without training the reward model. `positions` counts tokens
that go through the network, padding included; `generated` those that belong to answers.

TRL's arm cannot share a base: its policy, critic and reward model are three copies of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
ROUND, STEP, PASSES, NEW, ROUNDS = 128, 32, 4, 32, 2
RANK, ALPHA, RATE = 16, 32, 5e-4


class Counter:
    """Counts the forwards of a network and the positions that go through it."""

    def __init__(self) -> None:
        self.forwards = self.positions = 0

    def watch(self, body: Any) -> None:
        body.register_forward_pre_hook(self._seen, with_kwargs=True)

    def _seen(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        ids = args[0] if ids is None else ids
        self.forwards += 1
        self.positions += ids.numel()


def measured(work: Any, counter: Counter) -> dict[str, float]:
    """Run `work` and return what it cost."""
    begun, cpu = time.perf_counter(), time.process_time()
    before = counter.forwards, counter.positions
    counts = work()
    return {
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.perf_counter() - begun,
        "forwards": counter.forwards - before[0],
        "positions": counter.positions - before[1],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        **counts,
    }


def alignbench(scratch: Path) -> dict[str, float]:
    """One training with this package; leaves the prompts behind for the other arm."""
    import torch
    from alignbench_rlhf.ppo import PPO

    from alignbench.api.launcher import Task
    from alignbench.recipe.resolve import resolve
    from alignbench.recipe.schema import Recipe
    from alignbench.rows import Prompt
    from alignbench.worker.run.context import CellContext
    from alignbench.worker.run.policy_io import load_method
    from alignbench.worker.run.session import Session
    from alignbench.worker.tasks import prepare

    torch.set_num_threads(1)
    own = {
        "rollout_batch_size": ROUND,
        "ppo_epochs": PASSES,
        "max_new_tokens": NEW,
        "learning_rate": RATE,
        "critic_learning_rate": RATE,
        "head_learning_rate": RATE,
    }
    recipe = Recipe.model_validate(
        {
            "model": {"id": "sandbox", "quantization": "none", "adapter": {"rank": RANK, "alpha": ALPHA}},
            "data": {"train": "sandbox", "limit": ROUND * ROUNDS, "max_length": 128},
            "training": {"batch": STEP, "micro_batch": STEP, "checkpointing": False},
            "budget": {"rows": ROUND * ROUNDS},
            "methods": {"rlhf": own},
        }
    )
    paths = {"run": scratch / "run", "root": scratch, "home": scratch / "home", "log": scratch / "log.txt"}
    task = Task("prepare", **paths, plan=resolve(recipe).model_dump_json(), threads=1, what={"key": "ppo"})
    if not (scratch / "run").exists():
        prepare.main(task, lambda event: None)
    session = Session(task)
    prompts = [list(row.prompt_ids) for row in session.table.rows(Prompt, seed=0)]
    (scratch / "prompts.json").write_text(json.dumps(prompts))
    cell = scratch / f"cell-{os.getpid()}"
    cell.mkdir()
    run = CellContext(session, label="rlhf", seed=0, method="rlhf", start="base", folder=cell)
    ppo = PPO(run, load_method("rlhf", own).config)
    counter = Counter()
    counter.watch(session.base.model.base_model)

    def work() -> dict[str, float]:
        with run.meter.charging():
            ppo.train()
        return {"generated": run.ledger.cost.generated_tokens, "samples": ROUND * ppo.state["round"]}

    return measured(work, counter)


def trl(scratch: Path) -> dict[str, float]:
    """The same training with TRL."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(1)
    folder = os.environ["SANDBOX_MODEL"]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    readers = [
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
        for _ in range(2)
    ]
    shape = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    for reader in readers:
        reader.config.pad_token_id = tokenizer.pad_token_id
    reward = readers[0].requires_grad_(False)
    critic = get_peft_model(
        readers[1], LoraConfig(task_type=TaskType.SEQ_CLS, modules_to_save=["score"], **shape)
    ).base_model.model
    counter = Counter()
    for network in (policy, reward, critic):
        counter.watch(network.base_model)
    rows = Dataset.from_list(
        [{"input_ids": ids} for ids in json.loads((scratch / "prompts.json").read_text())]
    )
    answers = {"generated": 0}
    draw = policy.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        made = draw(*args, **kwargs)
        width = kwargs["input_ids"].shape[1]
        answers["generated"] += int((made.sequences[:, width:] != tokenizer.pad_token_id).sum())
        return made

    policy.generate = generate
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(scratch / "trl"),
            per_device_train_batch_size=STEP,
            gradient_accumulation_steps=ROUND // STEP,
            num_mini_batches=ROUND // STEP,
            num_ppo_epochs=PASSES,
            local_rollout_forward_batch_size=ROUND,
            total_episodes=ROUND * ROUNDS,
            response_length=NEW,
            stop_token="eos",
            temperature=1.0,
            kl_coef=0.05,
            learning_rate=RATE,
            missing_eos_penalty=1.0,
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=critic,
        train_dataset=rows,
        eval_dataset=rows.select(range(STEP)),
        peft_config=LoraConfig(task_type=TaskType.CAUSAL_LM, **shape),
    )

    def work() -> dict[str, float]:
        trainer.train()
        return {**answers, "samples": ROUND * ROUNDS}

    return measured(work, counter)


def child(python: str, arm: str, scratch: Path) -> dict[str, float]:
    from alignbench.sandbox import MODEL

    done = subprocess.run(
        [python, __file__, "--arm", arm, "--scratch", str(scratch)],
        env={**os.environ, "SANDBOX_MODEL": str(MODEL)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{arm}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--trl", help="the Python of an environment with trl==1.12.0")
    options.add_argument("--pairs", type=int, default=3, help="runs of each arm")
    options.add_argument("--arm", choices=("alignbench", "trl"), help=argparse.SUPPRESS)
    options.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.arm:
        print(json.dumps({"alignbench": alignbench, "trl": trl}[given.arm](given.scratch)))
        return
    if given.trl is None:
        options.error("--trl is needed: the Python of an environment with trl==1.12.0")
    runs: dict[str, list[dict[str, float]]] = {"alignbench": [], "trl": []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.pairs):
            order = ["alignbench", "trl"] if number % 2 == 0 else ["trl", "alignbench"]
            for arm in order:
                python = sys.executable if arm == "alignbench" else given.trl
                runs[arm].append(child(python, arm, Path(scratch)))
                print(arm, runs[arm][-1], file=sys.stderr, flush=True)
    pace = {arm: [one["samples"] / one["cpu_seconds"] for one in found] for arm, found in runs.items()}
    ratios = [ours / theirs for ours, theirs in zip(pace["alignbench"], pace["trl"], strict=True)]
    counts = {
        f"{arm}.{name}": statistics.median(one[name] for one in found)
        for arm, found in runs.items()
        for name in found[0]
    }
    record = {"benchmark": "ppo_vs_trl", "ratios": {"samples_per_second": statistics.median(ratios)}}
    print(json.dumps({**record, "each": ratios, "counts": counts}))


if __name__ == "__main__":
    main()
