"""What the two pieces of code that compute token trees cost: the questions of a judge, by either of them.

A judge asks many questions at once, reads each once and keeps nothing: `models/forward/choices.py` computes them as
rows of forwards, as training and log-probabilities do. A search grows its paths a token at a time and asks again:
`models/trees` keeps keys and values of every position. Here both answer the same questions, all pairs of the answers to
some prompts in both orders, on one core; the search's code gets a tree for each prompt, all in one call, and the
prompts' common beginning as a shared prefix. Arms alternate A B B A; times are the processor's, a ratio is the median.

    python benchmarks/token_trees.py [--prompts 25 --answers 4 --rounds 5]

The other way round needs no clock: a search of n tokens that keeps nothing computes its whole path n times. Trees keep
no gradient, so that they cannot take over a training's forward.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import permutations, takewhile
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alignbench.data.tokens import encode, render
from alignbench.feedback.labelling import principles
from alignbench.judges.wording import asked, filled, wording
from alignbench.models import ModelPolicy, Query, TokenTrees, load_base
from alignbench.models.forward.choices import options_of, read
from alignbench.recipe import schema
from alignbench.rows import Ids, Prompt
from alignbench.sandbox import FINGERPRINT, rows


def questions(policy: ModelPolicy, prompts: int, answers: int, rubric: bool) -> list[list[Ids]]:
    """Return by prompt the token ids of the judge's questions, begun answer included."""
    words, base = wording("sandbox"), policy.base
    template = (" ".join(principles("built-in", Path())) + " " if rubric else "") + words.compare
    found: list[list[Ids]] = []
    for row in rows("train", prompts * 3, 7):
        if len(texts := row["answers"][:answers]) < answers:
            continue
        prompt = Prompt(id=row["id"], prompt=tuple(row["prompt"]))
        opened = [
            render(
                base.tokenizer,
                [
                    {
                        "role": "user",
                        "content": filled(
                            template, asked(prompt.prompt, inline=words.inline), a=a, b=b, principle=""
                        ),
                    }
                ],
                answer=True,
            )
            for a, b in permutations(texts, 2)
        ]
        found.append([tuple(ids) for ids in encode(base.tokenizer, opened)])
    return found[:prompts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rubric", action="store_true", help="the built-in constitution before each question"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_base(schema.Model(id="sandbox")).policy()
    groups = questions(policy, given.prompts, given.answers, given.rubric)
    flat = [one for group in groups for one in group]
    options = options_of(
        policy.base, render(policy.tokenizer, [{"role": "user", "content": ""}], answer=True), ("A", "B")
    )
    letters = tuple(ids[0] for (ids, *_) in options.variants)
    common = tuple(ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*flat, strict=False)))
    counts: dict[str, int] = {}

    def forward() -> list[float]:
        reading = read(policy, flat, options)
        counts["a row of a forward"] = reading.tokens
        return [float(one[0] / one.sum()) for one in reading.probabilities]

    def search() -> list[float]:
        trees = TokenTrees(policy)
        made = [trees.new_tree(common) for _ in groups]
        queries = [[Query(one, options=letters) for one in group] for group in groups]
        replies = trees.ask(list(zip(made, queries, strict=True)))
        counts["trees with a cache"] = len(common) + sum(tree.tokens for tree in made)
        return [one.probabilities[0] for group in replies for one in group]

    arms = {"a row of a forward": forward, "trees with a cache": search}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    apart = max(abs(x - y) for x, y in zip(forward(), search(), strict=True))  # warms up
    for _ in range(given.rounds):
        took: dict[str, float] = dict.fromkeys(arms, 0.0)
        for name in (*arms, *reversed(arms)):
            began = time.process_time()
            arms[name]()
            took[name] += time.process_time() - began
        for name, one in took.items():
            seconds[name].append(one / 2)
    ratios = [y / x for x, y in zip(*seconds.values(), strict=True)]
    record: dict[str, Any] = {
        "sandbox": FINGERPRINT,
        **vars(given),
        "questions": len(flat),
        "positions": counts,
        "seconds": {name: round(median(times), 3) for name, times in seconds.items()},
        "a search's code takes": round(median(ratios), 2),
        "each": [round(one, 2) for one in ratios],
        "largest_difference": apart,
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
