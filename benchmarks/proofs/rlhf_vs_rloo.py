"""PPO against TRL's RLOOTrainer on the sandbox: same start, reward model, number of answers, and score.

    alignbench run benchmarks/proofs/rlhf_vs_rloo.yaml --out runs/rloo
    python benchmarks/proofs/rlhf_vs_rloo.py runs/rloo/sweep --tune
    python benchmarks/proofs/rlhf_vs_rloo.py runs/rloo

Takes `sft` and `rlhf` of that run, seed by seed, and trains RLOO from the same `sft` against the same reward
model: as many answers as `rlhf` drew, of the same prompts, at most as long, in rounds and steps of the same
size, with the same passes, beta, clip, temperature, schedule, clipping of gradients and penalty for an answer
without an end. Both policies answer the same test prompts with the same noise, and gold compares them.

TRL gets a LoRA adapter on a model of full precision that holds the very values of the 4-bit base (on a quantised
one TRL would train adapters in bfloat16), `sft`'s adapter as start and, copied, as reference, normalised advantages and
four answers to a prompt. Both are tuned alike: six settings each, by gold on validation prompts, at a seed that no
claim uses (100); ours by the recipe's `sweep`, RLOO's learning rate by `--tune` on the folder of that sweep.
Writes rlhf_vs_rloo.json next to this file.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}

import numpy as np
import torch

from alignbench import results, stats, store
from alignbench.api.config import Split
from alignbench.api.launcher import Task
from alignbench.api.policy import Answer
from alignbench.metrics.kl import k1
from alignbench.models import load_base
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import MethodBlock, Recipe
from alignbench.rewards import reward_model
from alignbench.rows import Prompt, Sequence
from alignbench.sandbox import FINGERPRINT, MODEL, gold
from alignbench.worker import samples
from alignbench.worker.context import CellContext
from alignbench.worker.session import Session

TRIED = (5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3, 2.8e-3)
"""Learning rates that `--tune` tries."""
ANSWERS = 4
"""To one prompt, of which RLOO's baseline is made."""


def rloo(session: Session, block: MethodBlock, seed: int, rate: float, folder: Path) -> dict[str, int]:
    """Train TRL's RLOO from `sft` and save its adapter in `folder`; return what it generated."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    config, batch = block.config, session.recipe.training.batch
    run = CellContext(session, label="rlhf", seed=seed, method="rlhf", start="sft", folder=folder)
    reward = reward_model(run, **config["reward_model"])
    rows = run.rows(Prompt)
    prompts = run.draw(rows, 0, len(rows) // ANSWERS)
    tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
    network = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    network.load_state_dict(
        load_base(session.recipe.model, root=session.root, cache=session.store).model.state_dict()
    )
    sft = session.run / "cells" / "sft" / f"seed-{seed}" / "policy"
    policy = PeftModel.from_pretrained(network, str(sft), is_trainable=True)
    spent = {"answers": 0, "tokens": 0}

    def judged(
        prompts: list[Any], completion_ids: list[list[int]], ids: list[list[int]], **_: Any
    ) -> list[float]:
        own = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert own == ids, "both have to ask with the same tokens"
        spent["answers"] += len(ids)
        spent["tokens"] += sum(map(len, completion_ids))
        scores = reward.score(
            [Sequence(tuple(p), tuple(c)) for p, c in zip(ids, completion_ids, strict=True)]
        )
        ended = torch.tensor([one[-1] == tokenizer.eos_token_id for one in completion_ids])
        return (scores - config["missing_eos_penalty"] * ~ended).tolist()

    trainer = RLOOTrainer(
        model=policy,
        reward_funcs=[judged],  # pyright: ignore[reportArgumentType]
        train_dataset=Dataset.from_list(
            [{"prompt": [dict(turn) for turn in row.prompt], "ids": list(row.prompt_ids)} for row in prompts]
        ),
        processing_class=tokenizer,
        args=RLOOConfig(
            output_dir=str(folder / "trl"),
            num_generations=ANSWERS,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            steps_per_generation=config["rollout_batch_size"] // batch,
            num_iterations=config["ppo_epochs"],
            num_train_epochs=1,
            max_completion_length=config["max_new_tokens"],
            temperature=config["temperature"],
            beta=config["beta"],
            epsilon=config["clip"],
            normalize_advantages=True,
            learning_rate=rate,
            lr_scheduler_type=session.recipe.training.schedule,
            warmup_steps=session.recipe.training.warmup,
            max_grad_norm=session.recipe.training.max_grad_norm,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            seed=seed,
        ),
    )
    trainer.train()
    policy.save_pretrained(str(folder / "policy"), selected_adapters=["default"])
    return spent


def rewards(session: Session, answers: list[Answer], split: Split = "test") -> np.ndarray:
    """Return gold's reward for each answer: float [answers]."""
    asked = {one.id: one for one in session.table.prompts(split, session.recipe.evaluation.prompts)}
    return np.array(
        [gold([dict(turn) for turn in asked[one.prompt_id].prompt], one.text).reward for one in answers]
    )


def answered(session: Session, adapter: Path, seed: int, split: Split = "test") -> list[Answer]:
    """Return the answers of an adapter in a folder, drawn as the evaluation draws."""
    policy = session.base.load_adapter(adapter, f"measured-{seed}-{time.monotonic_ns()}")
    prompts = session.table.prompts(split, session.recipe.evaluation.prompts)
    found = policy.answer(prompts, session.recipe.evaluation.sampling.unscaled, seed)
    session.base.drop(policy)
    return found


def reached(
    session: Session, block: MethodBlock, seed: int, adapter: Path, scratch: Path
) -> dict[str, float]:
    """Return what a policy made of its objective on test prompts: mean score of the reward model, nats from `sft`."""
    run = CellContext(session, label="rlhf", seed=seed, method="rlhf", start="sft", folder=scratch)
    reward = reward_model(run, **block.config["reward_model"])
    policy = session.base.load_adapter(adapter, f"reached-{seed}-{time.monotonic_ns()}")
    prompts = session.table.prompts("test", session.recipe.evaluation.prompts)
    answers = policy.answer(prompts, session.recipe.evaluation.sampling.unscaled, seed)
    items = [Sequence(p.prompt_ids, one.ids) for p, one in zip(prompts, answers, strict=True)]
    apart = k1(policy.logprobs(items), run.start.logprobs(items))
    session.base.drop(policy)
    return {"reward model": float(reward.score(items).mean()), "kl": float(np.mean(apart))}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path)
    options.add_argument(
        "--tune", action="store_true", help="try the settings, each seed of the run, and stop"
    )
    given = options.parse_args()
    torch.set_num_threads(1)
    run = given.run.resolve()
    recipe = Recipe.model_validate(results.read(run).recipe)
    plan = resolve(recipe).model_dump_json()
    session = Session(Task("evaluate", run, run, plan, store.default_root(), run / "log.txt", 1))
    out = Path(__file__).with_suffix(".json")
    summary: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    summary |= {"sandbox": FINGERPRINT}
    with tempfile.TemporaryDirectory() as scratch:
        if given.tune:
            summary["tuning"] = tune(session, recipe, Path(scratch))
        else:
            best = max(summary["tuning"], key=lambda one: np.mean([one[key] for key in one if "seed" in key]))
            summary |= compare(session, recipe, best["learning_rate"], Path(scratch))
    out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=1))


def tune(session: Session, recipe: Recipe, scratch: Path) -> list[dict[str, float]]:
    """Return what gold says of each setting on validation prompts, for choosing one."""
    found = []
    for rate in TRIED:
        summary = {"learning_rate": rate}
        for seed in recipe.seeds:
            folder = scratch / f"{rate}-{seed}"
            folder.mkdir()
            rloo(session, recipe.methods["rlhf"], seed, rate, folder)
            scores = rewards(session, answered(session, folder / "policy", seed, "validation"), "validation")
            summary[f"seed {seed}"] = float(scores.mean())
        print(summary, flush=True)
        found.append(summary)
    return found


def compare(session: Session, recipe: Recipe, rate: float, scratch: Path) -> dict[str, Any]:
    """Return ours minus RLOO at its chosen rate under both estimands, and each seed's numbers."""
    ours, theirs, summary = [], [], {}
    for seed in recipe.seeds:
        folder = scratch / f"seed-{seed}"
        folder.mkdir()
        begun = time.process_time()
        spent = rloo(session, recipe.methods["rlhf"], seed, rate, folder)
        seconds = time.process_time() - begun
        ours.append(rewards(session, samples.read_all(session.run / "cells" / "rlhf" / f"seed-{seed}")))
        theirs.append(rewards(session, answered(session, folder / "policy", seed)))
        summary[f"seed {seed}"] = {
            "rlhf": float(ours[-1].mean()),
            "rloo": float(theirs[-1].mean()),
            "rloo spent": {**spent, "cpu_seconds": seconds},
            "rlhf reached": reached(
                session,
                recipe.methods["rlhf"],
                seed,
                session.run / "cells" / "rlhf" / f"seed-{seed}" / "policy",
                folder,
            ),
            "rloo reached": reached(session, recipe.methods["rlhf"], seed, folder / "policy", folder),
        }
        print(seed, summary[f"seed {seed}"], flush=True)
    table = np.stack(ours) - np.stack(theirs)
    for name, estimate in {"these policies": stats.policies, "the method": stats.method}.items():
        found = estimate(table)
        summary[f"rlhf - rloo, {name}"] = {"difference": found.value, "ci95": list(found.interval())}
    return {"rlhf": recipe.methods["rlhf"].config, "rloo": {"learning_rate": rate}, **summary}


if __name__ == "__main__":
    main()
