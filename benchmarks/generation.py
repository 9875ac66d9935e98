"""What decoding and training cost on a CPU: values kept or computed again, keyed noise, answers per second.

    python benchmarks/generation.py [--pairs 5]

Every ratio is paired in one process in ABBA order; above 1 means that alignbench's way is the faster one.
Times are CPU seconds of one thread. The model is a random one of the sandbox's shape.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignbench.api.config import Sampling
from alignbench.models import Base, ModelPolicy, load_base
from alignbench.models.generation import gumbel, noise_key
from alignbench.recipe import schema
from alignbench.rows import Prompt

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% if m.role == 'assistant' %}<end> {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def build(folder: Path) -> Path:
    """Write a random model of 1.9 million parameters: hidden 192, 4 layers, 600 words."""
    names = ["<pad>", "<unk>", "<end>", "user", "assistant", *(f"w{i}" for i in range(595))]
    core = Tokenizer(models.WordLevel({name: id for id, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(names), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=6, tie_word_embeddings=True, initializer_range=0.05,
        eos_token_id=2, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def paired(ours: Callable[[], object], other: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Return the median of other / ours over `pairs` ABBA pairs, and both medians in CPU seconds."""
    ours(), other()
    ratios, times = [], ([], [])
    for _ in range(pairs):
        a1, b1, b2, a2 = (cpu_seconds(run) for run in (ours, other, other, ours))
        ratios.append((b1 + b2) / (a1 + a2))
        times[0].append((a1 + a2) / 2)
        times[1].append((b1 + b2) / 2)
    return statistics.median(ratios), statistics.median(times[0]), statistics.median(times[1])


def cpu_seconds(run: Callable[[], object]) -> float:
    begun = time.thread_time()
    run()
    return time.thread_time() - begun


def train_step(policy: ModelPolicy, ids: torch.Tensor) -> Callable[[], object]:
    base = policy.base
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        logits = base.logits(policy.hidden(ids)[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = schema.Model(id=str(build(Path(folder))))
        kept: Base = load_base(model, resident=True)
        nonresident: Base = load_base(model, resident=False)
    mine, theirs = (base.add_adapter("policy", seed=0) for base in (kept, nonresident))

    draw = random.Random(0)
    prompts = [
        Prompt(id=str(i), prompt=(), prompt_ids=tuple(draw.choices(range(5, 600), k=draw.randint(8, 20))))
        for i in range(200)
    ]
    sampling = Sampling(max_new_tokens=40)
    answers = mine.answer(prompts, sampling, 0)
    if [one.ids for one in answers] != [one.ids for one in theirs.answer(prompts, sampling, 0)]:
        raise SystemExit("the two ways of holding the weights give different answers")
    ids = torch.randint(5, 600, (32, 32), generator=torch.Generator().manual_seed(0))
    keys = torch.tensor([noise_key(0, str(row), 0) for row in range(200)])
    logits = torch.randn(200, 600)

    measured = {
        "train_step_resident_vs_anew": paired(train_step(mine, ids), train_step(theirs, ids), 4 * pairs),
        "decode_resident_vs_anew": paired(
            lambda: mine.answer(prompts, sampling, 0), lambda: theirs.answer(prompts, sampling, 0), pairs
        ),
        "keyed_noise_vs_multinomial": paired(
            lambda: (logits + gumbel(keys, 3, 600)).argmax(-1),
            lambda: torch.multinomial(logits.softmax(-1), 1),
            20 * pairs,
        ),
    }
    print(f"{'':32}{'ratio':>8}{'ours, s':>12}{'other, s':>12}")
    for name, (ratio, ours, other) in measured.items():
        print(f"{name:32}{ratio:8.2f}{ours:12.5f}{other:12.5f}")
    linear = sum(p.numel() for name, p in kept.model.named_parameters() if "base_layer" in name)
    counts = {
        "answers": len(answers),
        "answer_tokens": sum(len(one.ids) for one in answers),
        "ties_decided_alone": sum(one.forwards - len(one.ids) for one in answers),
        "resident_bytes": 4 * linear,
        "nf4_bytes": round(0.516 * linear),
    }
    print(*(f"{name:32}{count:>8}" for name, count in counts.items()), sep="\n")
    ratios = {name: round(ratio, 3) for name, (ratio, _, _) in measured.items()}
    print(json.dumps({"benchmark": "generation", "ratios": ratios, "counts": counts}))


if __name__ == "__main__":
    main()
