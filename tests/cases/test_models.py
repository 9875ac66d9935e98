"""Models that people really have, in `shared/cases`: each computes as transformers does, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignbench.api.config import Sampling
from alignbench.models import Base, load_base
from alignbench.recipe import schema
from alignbench.rows import Prompt

PROMPTS = [
    Prompt(id=str(size), prompt=(), prompt_ids=tuple(range(20, 20 + size)))
    for size in (3, 8, 5, 11, 9, 4, 7, 6)
]


@pytest.fixture
def model(shared: Path):
    def model(name: str) -> Path:
        path = shared / "cases" / "models" / name
        if not path.is_dir():
            pytest.skip(f"needs shared/cases/models/{name}")
        return path

    return model


def load(folder: Path, **settings) -> Base:
    template = str(folder.parents[1] / "plain.jinja")
    return load_base(
        schema.Model(id=str(folder), chat_template=template, **{"quantization": "none", **settings})
    )


def test_mamba_gives_transformers_greedy_tokens(model):
    folder = model("arch-mamba")
    base, plain = load(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = base.policy().answer(PROMPTS, Sampling(temperature=0, max_new_tokens=12), 0)
    assert len({answer.ids for answer in answers}) > 1
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([prompt.prompt_ids])
        how = {
            "use_cache": False,
            "do_sample": False,
            "max_new_tokens": 12,
            "attention_mask": torch.ones_like(ids),
        }
        assert list(answer.ids) == plain.generate(ids, **how)[0, len(prompt.prompt_ids) :].tolist()


def test_a_hybrid_goes_on_once_part_of_a_batch_has_ended(model, monkeypatch):
    base = load(model("vlm-qwen3_5"))
    monkeypatch.setattr(base.model.generation_config, "eos_token_id", list(range(2, 60)))
    policy, sampling = base.policy(), Sampling(max_new_tokens=40)
    together = policy.answer(PROMPTS, sampling, 0)
    assert len({len(answer.ids) for answer in together}) > 2
    assert [one.ids for one in together] == [
        policy.answer([prompt], sampling, 0)[0].ids for prompt in PROMPTS
    ]
