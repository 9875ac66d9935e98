"""C4 and C5 on the sandbox: reward against KL over beta, over-optimisation, and what pretraining text saves.

    alignbench run benchmarks/proofs/rlhf_frontier.yaml --out runs/frontier
    python benchmarks/proofs/rlhf_frontier.py runs/frontier

Measures every policy of that run again: its answers by gold and by the reward model it was trained on, its
tokens' likelihood on held-out pretraining text, and what it still can do when asked in chat form. Writes
rlhf_frontier.json beside this file, and a table to the terminal. Nothing here is tuned until it passes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from alignbench import results, store
from alignbench.engine import samples
from alignbench.engine.bench import Bench
from alignbench.engine.cell_run import CellRun
from alignbench.engine.worker import Task
from alignbench.method import Policy, Sampling
from alignbench.recipe import Recipe, canonical
from alignbench.rows import Prompt, Sequence, Text
from alignbench.sandbox import CAPABILITIES, FINGERPRINT, capability
from alignbench.stats import policies

ITEMS = 150
"""Questions of each capability task."""
GREEDY = Sampling(temperature=0, max_new_tokens=16)


def capabilities(policy: Policy) -> np.ndarray:
    """Return 1 for each question that is answered exactly, else 0: tasks one after the other."""
    asked = [(task, item) for task in CAPABILITIES for item in capability(task, ITEMS)]
    prompts = [
        Prompt(id=f"{task}-{number}", prompt=tuple(item["prompt"]))
        for number, (task, item) in enumerate(asked)
    ]
    answers = policy.answer(prompts, GREEDY, 0)
    right = [answer.text.strip() == item["target"] for answer, (_, item) in zip(answers, asked, strict=True)]
    return np.array(right, dtype=float)


def pretraining_nll(bench: Bench, policy: Policy) -> float:
    """Return the mean negative log-likelihood of a token of held-out pretraining text."""
    texts = bench.table.rows(Text, "test", seed=0)
    scored = policy.logprobs([sequence for text in texts for sequence in text.sequences()][:400])
    return -float(np.concatenate([one.logps for one in scored]).mean())


def measure(run: Path) -> dict[str, Any]:
    """Return what the run's policies are worth, label by label and seed by seed."""
    record = results.read(run)
    recipe = Recipe.model_validate(record.recipe)
    task = Task("evaluate", run, run, canonical(recipe), store.default_root(), run / "log.txt", 1)
    bench = Bench(task)
    block = next(one for one in recipe.methods.values() if one.method == "rlhf")
    found: dict[str, Any] = {}
    for seed in recipe.seeds:
        cell = CellRun(bench, label="proof", seed=seed, method="rlhf", start="sft", folder=run / "proof")
        reward = cell.reward_model(**block.config["reward_model"])
        prompts = {one.id: one for one in bench.table.prompts("test", recipe.evaluation.prompts)}
        for label in ("base", *recipe.methods):
            policy = bench.policy(label, seed)
            answers = samples.read(run / "cells" / label / f"seed-{seed}")
            proxy = reward.score([Sequence(prompts[one.prompt_id].prompt_ids, one.ids) for one in answers])
            found[f"{label}/{seed}"] = {
                "proxy": proxy.mean().item(),
                "pretraining_nll": pretraining_nll(bench, policy),
                "capability": capabilities(policy).tolist(),
            }
            print(label, seed, flush=True)
        found[f"reward model/{seed}"] = dict(reward.quality)
    return found


def interval(values: list[np.ndarray]) -> dict[str, float | list[float]]:
    """Return the mean over seeds and items with its interval: these policies."""
    estimate = policies(np.stack(values))
    return {"value": estimate.value, "ci95": list(estimate.interval())}


def tell(run: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return the claims with their numbers."""
    record = results.read(run)
    seeds = record.recipe["seeds"]
    names = [label.label for label in record.labels]
    skill = {name: [np.array(found[f"{name}/{seed}"]["capability"]) for seed in seeds] for name in names}

    def mean(name: str, what: str) -> float:
        return float(np.mean([found[f"{name}/{seed}"][what] for seed in seeds]))

    def drop(name: str) -> dict[str, Any]:
        return interval([start - own for start, own in zip(skill["sft"], skill[name], strict=True)])

    told: dict[str, Any] = {"sandbox": FINGERPRINT, "seeds": seeds, "labels": {}, "against sft": {}}
    for name in names:
        shown = record.label(name)
        assert shown is not None
        told["labels"][name] = {
            "gold": shown.metrics["reward"].model_dump(include={"value", "ci95", "n"}),
            "kl.base": shown.metrics["kl.base"].value,
            "proxy": mean(name, "proxy"),
            "pretraining_nll": mean(name, "pretraining_nll"),
            "capability": float(np.mean(skill[name])),
            "capability drop from sft": None if name in ("base", "sft") else drop(name),
        }
        versus = record.comparison(name, "sft", "reward")
        if versus is not None:
            told["against sft"][name] = {"difference": versus.difference, "ci95": versus.ci95}
    told["reward model"] = {str(seed): found[f"reward model/{seed}"] for seed in seeds}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run.resolve()
    told = tell(run, measure(run))
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{'label':12} {'gold':>6} {'- sft':>7} {'proxy':>6} {'KL':>6} {'NLL':>6} {'skill':>6}")
    for name, one in told["labels"].items():
        versus = told["against sft"].get(name, {}).get("difference") or 0.0
        numbers = one["proxy"], one["kl.base"], one["pretraining_nll"], one["capability"]
        print(
            f"{name:12} {one['gold']['value']:6.3f} {versus:+7.3f}", *(f"{number:6.2f}" for number in numbers)
        )


if __name__ == "__main__":
    main()
