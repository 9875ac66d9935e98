"""Pairs per second and tokens of the judge `self`, against the plain way: one pair, one order, one forward.

Same model in NF4, same questions, same threads; the soft labels of both arms are compared. The answers of a
prompt are compared with each other, all of them in both orders, as AI preferences are. There are three plain
arms: a forward of the base as alignbench holds it (dequantised once), a forward of the model as transformers
and bitsandbytes load it, and that model's `generate` of one token with its scores. `--rubric` puts the built-in
constitution in front of every question, as judges of real data have it.

Times are the processor's. Each repeat measures the judge before and after the other arms, and compares each of
these with the mean of both; a ratio is the median of the repeats'.

    python benchmarks/judge.py --prompts 25 --answers 4 [--rubric] [--wording plain]

`proofs/judge.json` and, with `--rubric`, `proofs/judge_rubric.json` hold what it printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from alignbench.data.tokens import encode, render
from alignbench.feedback.labelling import principles
from alignbench.judges.language_model import Self
from alignbench.judges.wording import asked, filled, wording
from alignbench.models import Base, load_base
from alignbench.recipe import schema
from alignbench.rows import Prompt
from alignbench.sandbox import FINGERPRINT, MODEL, rows

Pair = tuple[Prompt, str, str]


class Models:
    """What the judge reads with."""

    def __init__(self, base: Base):
        self.base = self.start = base.policy()
        self.root = self.store = None


def questions(prompts: int, answers: int) -> list[Pair]:
    """All pairs of the first `answers` answers of some of the sandbox's prompts."""
    found = []
    for row in rows("train", prompts * 3, 7):
        texts = row["answers"][:answers]
        if len(texts) == answers:
            prompt = Prompt(id=row["id"], prompt=tuple(row["prompt"]))
            found.append([(prompt, a, b) for a, b in combinations(texts, 2)])
    return [pair for pairs in found[:prompts] for pair in pairs]


def as_loaded() -> Any:
    """The sandbox's model in NF4, as transformers and bitsandbytes load it."""
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    model = AutoModelForCausalLM.from_pretrained(MODEL, quantization_config=settings, dtype=torch.float32)
    return model.eval()


Last = Callable[[torch.Tensor], torch.Tensor]
"""Logits [vocabulary] of the token after ids [1, length]."""


def forward(model: Any) -> Last:
    """One forward."""
    return lambda ids: model(ids).logits[0, -1]


def generation(model: Any) -> Last:
    """One token of `generate`, with its scores."""
    how = {"max_new_tokens": 1, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}

    def last(ids: torch.Tensor) -> torch.Tensor:
        return model.generate(ids, attention_mask=torch.ones_like(ids), **how).scores[0][0]

    return last


@torch.no_grad()
def plainly(
    last: Last, base: Base, pairs: list[Pair], template: str, inline: bool
) -> tuple[list[float], int]:
    """Each pair in each order in a forward of its own, with transformers alone."""
    letters = [ids[0] for ids in encode(base.tokenizer, ["A", "B"])]
    labels, tokens = [], 0
    for prompt, a, b in pairs:
        orders = []
        for first, second in ((a, b), (b, a)):
            text = filled(template, asked(prompt.prompt, inline=inline), a=first, b=second, principle="")
            (ids,) = encode(
                base.tokenizer, [render(base.tokenizer, [{"role": "user", "content": text}], answer=True)]
            )
            logits = last(torch.tensor([ids]))[letters].float()
            orders.append(logits.softmax(-1)[0].item())
            tokens += len(ids)
        labels.append((orders[0] + 1 - orders[1]) / 2)
    return labels, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--wording", choices=["sandbox", "plain"], default="sandbox")
    parser.add_argument("--rubric", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    base = load_base(schema.Model(id="sandbox"))
    words = wording(given.wording)
    rubric = " ".join(principles("built-in", Path())) + " " if given.rubric else ""
    template = rubric + words.compare
    loaded = as_loaded()
    models = {
        "forward": forward(base.model),
        "forward as loaded": forward(loaded),
        "generate": generation(loaded),
    }
    pairs = questions(given.prompts, given.answers)
    prompts, a, b = (list(column) for column in zip(*pairs, strict=True))

    spent: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ("judge", *models)}
    labels: dict[str, list[float]] = {}
    tokens = 0

    def judged() -> tuple[list[float | None], float]:
        judge = Self(Self.Config(wording=given.wording, compare=template, min_mass=0, think_tokens=256))
        judge.open(Models(base))  # pyright: ignore[reportArgumentType]
        judge.record_cost = lambda **preferences: spent.update(preferences)
        began = time.process_time()
        preferences = [one.preference for one in judge.judge_pairs(prompts, a, b)]
        return preferences, time.process_time() - began

    judged()  # warms up
    for model in models.values():
        plainly(model, base, pairs[:8], template, words.inline)
    ours: list[float | None] = []
    for _ in range(given.repeats):
        _, before = judged()
        for name, model in models.items():
            began = time.process_time()
            labels[name], tokens = plainly(model, base, pairs, template, words.inline)
            seconds[name].append(time.process_time() - began)
        ours, after = judged()
        seconds["judge"].append((before + after) / 2)

    def speedup(name: str) -> float:
        return median(x / y for x, y in zip(seconds[name], seconds["judge"], strict=True))

    apart = [abs(x - y) for x, y in zip(ours, labels["forward"], strict=True) if x is not None]
    preferences = {
        "sandbox": FINGERPRINT,
        **vars(given),
        "pairs": len(pairs),
        "pairs_per_second": {name: round(len(pairs) / median(times), 1) for name, times in seconds.items()},
        "speedup": {name: round(speedup(name), 2) for name in models},
        "tokens": {"judge": spent["judge_tokens"], "plain": tokens},
        "tokens_share": round(spent["judge_tokens"] / tokens, 3),
        "largest_difference_of_labels": max(apart),
    }
    print(json.dumps(preferences, indent=1))


if __name__ == "__main__":
    main()
