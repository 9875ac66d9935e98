"""A judge's questions of every kind of model: what they share once, and the probabilities of separate forwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from alignbench.models import Base
from alignbench.models.trees import choices
from alignbench.models.trees.choices import options_of, read
from alignbench.models.trees.token_tree import TokenTrees
from alignbench.rows import Ids

SMALL = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
ROTARY = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 128}
CONFIGS: dict[str, Any] = {
    "rotary": lambda: LlamaConfig(**ROTARY),
    "shared keys": lambda: LlamaConfig(**ROTARY, num_key_value_heads=2),
    "learned positions": lambda: GPT2Config(**SMALL, n_positions=128, attn_pdrop=0.0),
    "biased by distance": lambda: BloomConfig(**SMALL),
    "short window": lambda: MistralConfig(**ROTARY, num_key_value_heads=4, sliding_window=9),
}
SHARED = ("rotary", "shared keys", "learned positions")
"""Models that compute what questions share once; the others compute whole texts."""


@pytest.fixture(scope="module", params=CONFIGS)
def base(request: pytest.FixtureRequest) -> Base:
    names = ["<pad>", "<unk>", "<end>", *"0123456789AB >abcdefg"]
    core = Tokenizer(models.WordLevel({name: id for id, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    made = Base(AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval(), tokenizer)
    made.shares = request.param in SHARED  # pyright: ignore[reportAttributeAccessIssue]
    return made


ANSWERS = ["", "a", "A", "B", "AB BA", "A>B>", "a", "bcdefg" * 9, "gfe"]
"""Nine answers to a prompt: none, one letter, the options' own letters, an equal one, one far longer than the rest."""


def questions(*answers: str) -> list[Ids]:
    """Every answer against every other, itself too, in both orders; then once more for another prompt."""
    named = [("cab", x, y) for x in answers for y in answers] + [("cabbage", answers[0], answers[-1])]
    texts = [f"0123{p} A {x} B {y}>" for p, x, y in named]
    ids = {letter: id for id, letter in enumerate("0123456789AB >abcdefg", start=3)}
    return [tuple(ids[letter] for letter in text) for text in texts]


def separately(base: Base, asked: list[Ids], found: choices.Options) -> torch.Tensor:
    """The plain way: a forward for each question and way to write an option, nothing shared."""
    rows = []
    for question in asked:
        row = []
        for ways in found.variants:
            total = 0.0
            for way in ways:
                with torch.no_grad():
                    logits = base.model(torch.tensor([[*question, *way]])).logits[0].float()
                logps = logits.log_softmax(-1)[len(question) - 1 : -1]
                total += logps[range(len(way)), list(way)].sum().exp().item()
            row.append(total)
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("answers", [ANSWERS, ["a"], [""]], ids=["nine", "one", "none"])
def test_questions_give_the_probabilities_of_separate_forwards(base: Base, answers: list[str]):
    asked, found = questions(*answers), options_of(base, ">", "AB")
    few = slice(None, None, max(1, len(asked) // 10))
    together = read(base.policy(), asked, found)
    wanted = separately(base, asked[few], found)
    torch.testing.assert_close(together.probabilities[few], wanted, atol=1e-6, rtol=0)


def test_what_questions_share_is_computed_once(base: Base, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choices, "MIN_SHARED", 0)  # one tree
    asked, found = questions(*ANSWERS), options_of(base, ">", "AB")
    together = read(base.policy(), asked, found)
    behind = {way[:cut] for way in found.ways for cut in range(1, len(way))}
    distinct = {text[:cut] for text in asked for cut in range(1, len(text) + 1)}
    once = len(distinct) + len(behind) * len(set(asked))
    if base.shares:  # pyright: ignore[reportAttributeAccessIssue]
        assert together.tokens == once
    else:
        assert together.tokens > once


def test_questions_that_do_not_fit_into_memory_together_are_read_in_halves(
    base: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked, found = questions(*ANSWERS), options_of(base, ">", "AB")
    whole, tried = choices._states, list[int]()
    together = read(base.policy(), asked, found)

    def states(trees: TokenTrees, begins: Ids, batch: Any, texts: Any, prefixes: Any) -> Any:
        made = whole(trees, begins, batch, texts, prefixes)
        tried.append(len(texts))
        if len(texts) > 20:  # after the trees have grown
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made

    monkeypatch.setattr(choices, "_states", states)
    halves = read(base.policy(), asked, found)
    assert max(tried) > 20 >= min(tried)
    assert "are computed in halves: CUDA out of memory" in capsys.readouterr().out
    torch.testing.assert_close(together.probabilities, halves.probabilities, atol=1e-6, rtol=0)
    assert together.likeliest == halves.likeliest


def test_a_row_for_each_tree_and_whole_texts_give_the_same_probabilities(
    base: Base, monkeypatch: pytest.MonkeyPatch
):
    asked = questions(*ANSWERS[:4])
    found = options_of(base, ">", [str(mark) for mark in range(1, 11)])
    best = read(base.policy(), asked, found).probabilities
    init = TokenTrees.__init__

    def whole(self: TokenTrees, policy: Any) -> None:
        init(self, policy)
        self.whole_texts = True

    def rows(self: TokenTrees, policy: Any) -> None:
        init(self, policy)
        self.in_one_row = False

    for slower in (whole, rows):
        monkeypatch.setattr(TokenTrees, "__init__", slower)
        again = read(base.policy(), asked, found).probabilities
        torch.testing.assert_close(best, again, atol=1e-6, rtol=0)
