"""How fast a real model answers on a CPU: answer tokens per second of the processor, by precision.

    python benchmarks/real_decoding.py MODEL ROWS [--prompts 40] [--tokens 24] [--repeats 3]

MODEL is a local folder or GGUF file, loaded in NF4; ROWS is a file of pairs whose prompts are answered at temperature 1
by a fresh adapter, as a policy in training answers. One thread; arms alternate, and the medians are given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "1"}

COMPUTES = ("float32", "bfloat16")
LENGTH = 192


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("model")
    options.add_argument("rows")
    options.add_argument("--prompts", type=int, default=40)
    options.add_argument("--tokens", type=int, default=24)
    options.add_argument("--repeats", type=int, default=3)
    print(json.dumps(measure(options.parse_args())))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Return the rate of each precision, and how many tokens were read and written."""
    import torch

    from alignbench.api.config import Sampling
    from alignbench.data import prepare
    from alignbench.data.table import open_table
    from alignbench.models import arithmetic, load_base
    from alignbench.recipe import schema
    from alignbench.rows import Prompt
    from alignbench.store import Store, default_root

    torch.set_num_threads(1)
    recipe = schema.Recipe.model_validate(
        {
            "model": {"id": given.model},
            "data": {"train": given.rows, "limit": 400, "max_length": LENGTH, "allowed_drop": 1.0},
            "methods": {"sft": {}},
            "evaluation": {"prompts": 2, "metrics": ["length"]},
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        prepare.prepare(recipe, Path(scratch), root=Path())
        prompts = list(open_table(Path(scratch)).rows(Prompt, "train", seed=0))[: given.prompts]
    sampling = Sampling(max_new_tokens=given.tokens)
    bases = {
        name: load_base(recipe.model.model_copy(update={"compute": name}), cache=Store(default_root()))
        for name in COMPUTES
    }
    policies = {name: base.add_adapter("policy", seed=0) for name, base in bases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in COMPUTES}
    written: dict[str, int] = {}
    for repeat in range(given.repeats + 1):  # the first one warms up
        for name in COMPUTES if repeat % 2 else reversed(COMPUTES):
            begun = time.process_time()
            answers = policies[name].answer(prompts, sampling, repeat)
            if repeat:
                seconds[name].append((time.process_time() - begun) / sum(len(one.ids) for one in answers))
            written[name] = sum(len(one.ids) for one in answers)
    rates = {name: 1 / statistics.median(each) for name, each in seconds.items()}
    return {
        "benchmark": "real_decoding",
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
        "prompts": len(prompts),
        "prompt_tokens": sum(len(one.prompt_ids) for one in prompts),
        "answer_tokens": written,
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "bfloat16_against_float32": round(rates["bfloat16"] / rates["float32"], 2),
        "products_bfloat16_against_float32": round(arithmetic.gain(), 2),
    }


if __name__ == "__main__":
    main()
