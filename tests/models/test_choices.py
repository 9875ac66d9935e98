"""The probabilities of options: as the tokenizer splits them, with shared text computed once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignbench.errors import ModelError
from alignbench.models import Base, load_base
from alignbench.models.meter import Tally, metered
from alignbench.models.paths import Paths
from alignbench.models.trees import choices
from alignbench.models.trees.choices import options_of, read
from alignbench.models.trees.token_tree import TokenTrees
from alignbench.recipe import schema

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture(scope="module")
def letters() -> Base:
    """A random model that reads letter by letter, so that `10` is two tokens and ` A` is another than `A`."""
    names = ["<pad>", "<unk>", "<end>", *"0123456789AB >abcdefghij"]
    core = Tokenizer(models.WordLevel({name: id for id, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Base(LlamaForCausalLM(config).eval(), tokenizer)


def ids(base: Base, text: str) -> tuple[int, ...]:
    return tuple(base.tokenizer(text, add_special_tokens=False)["input_ids"])


def chance(base: Base, question: str, continuation: str) -> float:
    """The plain way: one forward over the whole text, the product of the tokens' probabilities."""
    before, after = ids(base, question), ids(base, continuation)
    with torch.no_grad():
        logits = base.model(torch.tensor([[*before, *after]])).logits[0].float()
    logps = logits.log_softmax(-1)[len(before) - 1 : -1]
    return logps[range(len(after)), list(after)].sum().exp().item()


def test_an_option_is_all_the_ways_in_which_it_can_be_written(letters: Base):
    found = read(letters.policy(), [ids(letters, "abc>")], options_of(letters, "abc>", "AB"))
    wanted = [chance(letters, "abc>", option) + chance(letters, "abc>", f" {option}") for option in "AB"]
    assert found.probabilities[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_number_that_begins_another_one_does_not_get_its_probability(letters: Base):
    marks = [str(mark) for mark in range(1, 11)]
    found = read(letters.policy(), [ids(letters, "abc>")], options_of(letters, "abc>", marks))

    def alone(mark: str) -> float:
        return sum(chance(letters, "abc>", way) for way in (mark, f" {mark}"))

    wanted = [alone("1") - alone("10"), *map(alone, marks[1:])]
    assert found.probabilities[0].tolist() == pytest.approx(wanted, abs=1e-6)
    assert found.probabilities[0, 9] > 0


def test_options_that_cannot_be_told_apart_are_refused(letters: Base):
    with pytest.raises(ModelError, match="cannot tell the options X, Y apart"):
        options_of(letters, "abc>", "XY")


QUESTIONS = [
    f"abcdefgh{prompt} {first} {second}>"
    for prompt in ("cab", "dad", "aaaaaaaaaaaaaaaa")
    for first in ("jij", "bbbbbbbb", "f")
    for second in ("a", "gegege")
]


def test_shared_text_read_once_gives_what_separate_forwards_give(letters: Base):
    options = options_of(letters, ">", [str(mark) for mark in range(1, 11)])
    questions = [ids(letters, text) for text in QUESTIONS]
    together = read(letters.policy(), questions, options)
    apart = torch.cat([read(letters.policy(), [one], options).probabilities for one in questions])
    torch.testing.assert_close(together.probabilities, apart, atol=1e-6, rtol=0)


def test_the_likeliest_token_after_each_question_is_known(letters: Base):
    texts = ["abc", "abd", "jihg", "a"]
    found = read(
        letters.policy(), [ids(letters, text) for text in texts], options_of(letters, "abc>", ["A", "10"])
    )
    for text, token in zip(texts, found.likeliest, strict=True):
        with torch.no_grad():
            logits = letters.model(input_ids=torch.tensor([ids(letters, text)])).logits
        assert token == logits[0, -1].argmax()


def test_shared_text_is_counted_once(letters: Base):
    options = options_of(letters, ">", "AB")
    questions = [ids(letters, text) for text in QUESTIONS]
    together = read(letters.policy(), questions, options)
    prefixes = {question[:cut] for question in questions for cut in range(1, len(question) + 1)}
    assert together.tokens < 0.7 * sum(map(len, questions))
    assert together.tokens >= len(prefixes)  # nothing can be read less often than once


def test_what_is_read_together_does_not_change_what_is_read(letters: Base, monkeypatch: pytest.MonkeyPatch):
    options = options_of(letters, ">", [str(mark) for mark in range(1, 11)])
    questions = [ids(letters, text) for text in QUESTIONS] + [ids(letters, "ja>")] * 2
    whole = read(letters.policy(), questions, options)
    pools: list[tuple[int, int]] = []
    states = choices._states

    def watched(trees: TokenTrees, *given: Any) -> Any:
        before = len(trees._pool.column)
        found = states(trees, *given)
        pools.append((before, len(trees._pool.column)))
        return found

    monkeypatch.setattr(choices, "_states", watched)
    monkeypatch.setattr(choices, "QUESTIONS", {"cpu": 0})
    for floor, width in ((60, 20), (120, 1000), (1, 1)):
        pools.clear()
        monkeypatch.setattr(choices, "FLOOR", floor)
        monkeypatch.setattr(choices, "WIDTH", {"cpu": width})
        pieces = read(letters.policy(), questions, options)
        torch.testing.assert_close(whole.probabilities, pieces.probabilities, atol=1e-6, rtol=0)
        assert pieces.likeliest == whole.likeliest
        assert len(pools) > 1, "they are in memory batch by batch"
        assert len({size for pair in pools for size in pair}) == 1, "what was reserved suffices"


def test_the_questions_of_a_model_without_trees_share_forwards(
    letters: Base, monkeypatch: pytest.MonkeyPatch
):
    options = options_of(letters, ">", "AB")
    questions = [ids(letters, text) for text in QUESTIONS]
    shared = read(letters.policy(), questions, options)
    monkeypatch.setattr(TokenTrees, "_gives_the_plain_states", lambda self, in_one_row: False)
    monkeypatch.setattr(letters, "paths", Paths("padded"))
    with metered(Tally()) as tally:
        apart = read(letters.policy(), questions, options)
    torch.testing.assert_close(shared.probabilities, apart.probabilities, atol=1e-6, rtol=0)
    assert apart.tokens > shared.tokens
    assert tally.work.forwards <= 2


def test_the_sandbox_model_reads_its_letters_as_single_words():
    base = load_base(schema.Model(id="sandbox", quantization="none"))
    options = options_of(base, "<bos> <user> which answer is better ? <bot>", ("A", "B"))
    assert [len(ways) for ways in options.variants] == [1, 1]
    assert options.longest == 1
