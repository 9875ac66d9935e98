"""Fixtures of the tests of models: the sandbox model in several precisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignbench.models import Base, load_base
from alignbench.recipe import schema

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} "
    "{% if m.role == 'assistant' %}<end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_tokenizer(words: int = 90):
    """A word-level tokenizer of `words` words, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<unk>", "<end>", "user", "assistant", *(f"w{i}" for i in range(words))]
    core = Tokenizer(models.WordLevel({name: id for id, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(folder: Path, *, seed: int = 0, words: int = 90, **shape) -> Path:
    """Write a small random Llama and its tokenizer; `shape` overrides its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(words)
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        | shape
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_gpt2(folder: Path) -> Path:
    """Write a small random GPT-2: learned positions, transposed weights, biases."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2,
        bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def disturb(policy, seed: int = 1, size: float = 0.05) -> None:
    """Give an adapter weights that change what it says."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in policy.tensors().values():
            tensor.add_(size * torch.randn(tensor.shape, generator=generator))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def base(folder) -> Base:
    """A fresh NF4 base: what a test does to it is gone with it."""
    return load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
