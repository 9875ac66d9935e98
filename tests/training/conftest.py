"""Fixtures of the tests of training: a base, rows and a run."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alignbench.models import Base, ModelPolicy, load_base
from alignbench.recipe import schema
from alignbench.rows import Pair, Row, derive
from alignbench.rows import Sequence as Scorable

WORDS = 91


class Table:
    """Rows in one view, as a method gets them."""

    def __init__(self, rows: list[Pair], view: type[Row]):
        self.rows, self.view = rows, view

    def __len__(self) -> int:
        return len(self.epoch(0))

    def __iter__(self) -> Iterator[Row]:
        return iter(self.epoch(0))

    def epoch(self, number: int) -> list[Row]:
        return [seen for row in self.rows for seen in derive(row, self.view, seed=0, epoch=number)]


def make_pairs(count: int, seed: int = 0, answers: tuple[int, int] = (1, 9)) -> list[Pair]:
    """Pairs of random tokens: prompts of 3 to 12, answers of 1 to 9, or so many, and an end."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, WORDS) for _ in range(draw.randint(low, high)))

    rows = []
    for number in range(count):
        prompt, chosen, rejected = ids(3, 12), (*ids(*answers), 2), (*ids(*answers), 2)
        rows.append(
            Pair(
                id=f"row-{number}",
                length=len(prompt) + max(len(chosen), len(rejected)),
                prompt=({"role": "user", "content": ""},),
                prompt_ids=prompt,
                chosen="",
                chosen_ids=chosen,
                rejected="",
                rejected_ids=rejected,
            )
        )
    return rows


def save_model(folder: Path, kind: str = "llama", **shape) -> Path:
    """Write a small random model of a kind, and a tokenizer for it."""
    import transformers
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    names = ["<pad>", "<unk>", "<end>", *(f"w{i}" for i in range(WORDS - 3))]
    core = Tokenizer(models.WordLevel({name: id for id, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
    )
    common = {"vocab_size": WORDS, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    size = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    if kind == "gpt2":
        size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    config = AutoConfig.for_model(kind, **(common | size | shape))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.logging.disable_progress_bar()
    return folder


def disturb(policy: ModelPolicy, seed: int = 1, size: float = 0.05) -> ModelPolicy:
    """Give an adapter weights that change what it says."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in policy.tensors().values():
            tensor.add_(size * torch.randn(tensor.shape, generator=noise))
    return policy


def scorables(count: int, seed: int = 0) -> list[Scorable]:
    """Sequences of which some share their prompt."""
    return [one for row in make_pairs(count, seed) for one in row.sequences()]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def base(folder) -> Base:
    """A fresh NF4 base: what a test does to it is gone with it."""
    return load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
