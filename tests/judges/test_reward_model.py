"""A reward model as a judge, on small random classifiers: it reads the last real token, whatever pads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignbench.errors import ModelError, SecurityError
from alignbench.judges.reward_model import RewardModel
from alignbench.rows import Prompt

WORDS = ("<pad>", "<unk>", "<end>", "[CLS]", "[SEP]", "user", "assistant", *(f"w{i}" for i in range(60)))
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} "
    "{% if m.role == 'assistant' %}<end> {% endif %}{% endfor %}"
)


def tokenizer(*, pad: str = "<pad>", template: str | None = TEMPLATE, pair: bool = False):
    """A word-level tokenizer; `pair` joins two texts as BERT does, with token types."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if pair:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 3), ("[SEP]", 4)],
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        eos_token="<end>",
        unk_token="<unk>",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    made.chat_template = template
    return made


def build(folder, kind: str = "Llama", *, labels: int = 1, **tokens):
    """Save a random classifier whose head is large enough that another position gives another score."""
    import transformers

    shape = {
        "Llama": {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
        "Bert": {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "type_vocab_size": 2,
        },
    }[kind]
    words = tokenizer(**tokens)
    config = getattr(transformers, f"{kind}Config")(
        **shape,
        vocab_size=len(WORDS),
        max_position_embeddings=48,
        num_labels=labels,
        pad_token_id=words.pad_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def opened(folder, **config) -> RewardModel:
    judge = RewardModel(RewardModel.Config(**{"id": str(folder), "quantization": "none", **config}))
    judge.open(SimpleNamespace(root=Path()))
    return judge


def talk(*turns: str, id: str = "p") -> Prompt:
    roles = ("user", "assistant")
    return Prompt(
        id=id, prompt=tuple({"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns))
    )


PROMPTS = [
    talk("w1 w2 w3"),
    talk("w4"),
    talk("w5 w6", "w7", "w8 w9 w10 w11"),
    talk("w4"),
    talk("w12 w13 w14 w15 w16 w17"),
]
ANSWERS = ["w20 w21", "w22", "w23 w24 w25", "w26 w27 w28 w29 w30 w31", ""]


def values(judge: RewardModel, prompts=PROMPTS, answers=ANSWERS) -> list[float | None]:
    return [score.value for score in judge.score(prompts, answers)]


def one_by_one(judge: RewardModel) -> list[float]:
    """The head on the hidden state of the last token of each text, alone and unpadded."""
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        messages = [*prompt.prompt, {"role": "assistant", "content": answer}]
        text = "".join(
            f"{m['role']} {m['content']} " + ("<end> " if m["role"] == "assistant" else "") for m in messages
        )
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        body = getattr(judge.network, judge.network.base_model_prefix)
        with torch.inference_mode():
            hidden = body(input_ids=ids).last_hidden_state[0, -1]
            expected.append(judge.network.score(hidden).item())
    return expected


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])  # rotary and learned positions
@pytest.mark.parametrize("pad", ["<pad>", "<end>"])  # <end> also ends every text
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_score_is_read_at_the_last_real_token(tmp_path, kind, pad, side):
    judge = opened(build(tmp_path, kind, pad=pad))
    judge.tokenizer.padding_side = side
    expected = one_by_one(judge)
    assert len({round(value, 3) for value in expected}) == len(expected)
    assert values(judge) == pytest.approx(expected, abs=1e-5)


def test_every_text_that_is_read_is_charged_once(llama):
    judge, spent = opened(llama), []
    judge.record_cost = lambda **one: spent.append(one)
    values(judge)
    values(judge)
    read = {tuple(judge._encode(p, a)["input_ids"]) for p, a in zip(PROMPTS, ANSWERS, strict=True)}
    (once,) = spent
    assert (once["judge_calls"], once["judge_tokens"]) == (len(read), sum(map(len, read)))


def test_a_score_does_not_depend_on_what_it_is_batched_with(llama):
    together, alone = values(opened(llama, batch=5)), values(opened(llama, batch=1))
    assert together == pytest.approx(alone, abs=1e-5)


def test_equal_answers_tie_and_are_read_once(llama):
    judge = opened(llama, batch=2)
    forwards = []
    judge.network.register_forward_hook(lambda *_: forwards.append(1))
    assert judge.compare(PROMPTS, ANSWERS, ANSWERS) == [0.5] * 5
    values(judge, PROMPTS * 3, ANSWERS * 3)
    assert len(forwards) == 3


def test_texts_of_one_forward_have_similar_lengths(llama):
    judge = opened(llama, batch=2)
    shapes = []
    judge.network.register_forward_pre_hook(
        lambda _module, _args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    lengths = (1, 30, 2, 29)
    values(judge, [talk("w1")] * 4, [" ".join(["w2"] * length) for length in lengths])
    assert shapes == [(2, 6), (2, 34)]


def test_without_a_chat_template_the_text_is_the_pair_of_prompt_and_answer(tmp_path):
    judge = opened(build(tmp_path, "Bert", template=None, pair=True), batch=2)
    expected = []
    for prompt, answer in (("w1 w2 w3", "w20 w21"), ("w4", "w22 w23 w24 w25")):
        first, second = ([WORDS.index(word) for word in text.split()] for text in (prompt, answer))
        ids = torch.tensor([[3, *first, 4, *second, 4]])
        types = torch.tensor([[0] * (len(first) + 2) + [1] * (len(second) + 1)])
        with torch.inference_mode():
            expected.append(judge.network(input_ids=ids, token_type_ids=types).logits.item())
    assert values(judge, PROMPTS[:2], ["w20 w21", "w22 w23 w24 w25"]) == pytest.approx(expected, abs=1e-5)


def test_several_turns_without_a_template_name_their_speakers(tmp_path):
    judge = opened(build(tmp_path, "Bert", template=None, pair=True))
    found = judge.tokenizer("User: w5 w6\nAssistant: w7\nUser: w8", "w20")["input_ids"]
    judge.score([talk("w5 w6", "w7", "w8")], ["w20"])
    assert list(judge._known) == [tuple(found)]


@pytest.mark.parametrize(("limit", "words"), [(20, 20), (2048, 48)])
def test_a_text_too_long_to_be_read_whole_gets_no_score(llama, limit, words):
    judge = opened(llama, max_length=limit)
    fits, too_long = " ".join(["w2"] * (words - 4)), " ".join(["w2"] * (words - 3))
    scores = values(judge, [talk("w1")] * 2, [fits, too_long])
    assert isinstance(scores[0], float)
    assert scores[1] is None
    assert judge.compare([talk("w1")], [fits], [too_long]) == [None]


def test_in_four_bit_the_head_keeps_its_precision(llama):
    full, quantised = (opened(llama, quantization=kind) for kind in ("none", "nf4"))
    assert torch.equal(full.network.score.weight, quantised.network.score.weight)
    assert values(quantised) == pytest.approx(one_by_one(quantised), abs=1e-5)
    assert values(quantised) != pytest.approx(values(full), abs=1e-3)


def test_a_classifier_with_several_classes_is_no_reward_model(tmp_path):
    with pytest.raises(ModelError) as caught:
        opened(build(tmp_path, labels=3))
    assert str(caught.value) == (
        f"{tmp_path} has 3 classes; a reward model has one output; "
        "name a sequence classifier with num_labels 1"
    )


def test_a_chat_template_that_refuses_a_conversation_is_named_with_the_row(tmp_path):
    template = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + TEMPLATE
    judge = opened(build(tmp_path, template=template))
    with pytest.raises(ModelError) as caught:
        judge.score([talk("w1", "w2", "w3", id="row-7")], ["w4"])
    assert str(caught.value) == (
        f"the chat template of {tmp_path} rejects row row-7: one turn only; "
        "name a reward model for such conversations"
    )


def test_a_model_that_brings_code_is_refused(tmp_path):
    import json

    build(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(SecurityError):
        opened(tmp_path)
    assert not (tmp_path / "canary").exists()
