"""What beginning a judge's turn does: the probability of its options, its agreement with people, its position bias.

    python benchmarks/judge_lead.py MODEL.gguf PAIRS.jsonl [--pairs 40]

Prints one JSON object for each lead. Counts and probabilities are exact; no time is taken.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from alignbench.data.tokens import begun, encode
from alignbench.judges.wording import OPTIONS, PLAIN, filled
from alignbench.models import load_base
from alignbench.models.trees.choices import options_of, read
from alignbench.recipe.schema import Model
from alignbench.store import Store, default_root

LONGEST = 500
"""Characters of prompt and both answers: short pairs, so that a whole measurement takes minutes on one core."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--pairs", type=int, default=40)
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.rows.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if sum(len(row[name]) for name in ("prompt", "chosen", "rejected")) < LONGEST]
    base = load_base(Model(id=given.model), cache=Store(default_root()))
    for lead in ("", "The better reply is", PLAIN.lead, "Answer:"):
        texts = [
            begun(base.tokenizer, ({"role": "user", "content": question},), lead)
            for row in rows[: given.pairs]
            for question in asked(row)
        ]
        found = read(base.policy(), encode(base.tokenizer, texts), options_of(base, texts[0], OPTIONS))
        mass = found.probabilities.sum(1)
        first = found.probabilities[:, 0] / mass
        chosen = (first[0::2] + 1 - first[1::2]) / 2
        print(
            json.dumps(
                {
                    "lead": lead,
                    "pairs": len(chosen),
                    "mass": {"least": round(mass.min().item(), 3), "median": round(mass.median().item(), 3)},
                    "accuracy": round((chosen > 0.5).float().mean().item(), 3),
                    "first": round((first > 0.5).float().mean().item(), 3),
                }
            ),
            flush=True,
        )


def asked(row: dict[str, str]) -> tuple[str, str]:
    """Return the question about a pair, with the chosen answer first and second."""
    prompt = row["prompt"].replace("\n\nHuman: ", "").replace("\n\nAssistant:", "").strip()
    chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
    return (
        filled(PLAIN.compare, prompt, a=chosen, b=rejected, principle=""),
        filled(PLAIN.compare, prompt, a=rejected, b=chosen, principle=""),
    )


if __name__ == "__main__":
    main()
