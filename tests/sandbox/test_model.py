"""The sandbox's model as shipped: its files, its tokenizer, its chat template, its judgement."""

from __future__ import annotations

import json

import pytest

from alignbench import sandbox
from alignbench.sandbox import build, chats, documents
from alignbench.sandbox import words as w

FOLDERS = [sandbox.MODEL, *sandbox.CHECKPOINTS.values()]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(sandbox.MODEL)


def test_the_fingerprint_is_that_of_the_files_and_the_world():
    record = json.loads(sandbox.RECORD.read_text())
    root = sandbox.MODEL.parent
    assert record["files"] == build.files_digest(root)
    assert record["world"] == build.world_digest(), (
        "the world's code has changed: run the build, or its --record"
    )
    assert build.fingerprint(record["files"], record["world"]) == sandbox.FINGERPRINT


def test_all_checkpoints_together_weigh_at_most_12_megabytes():
    files = [path for folder in FOLDERS for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert not [path for path in files if path.suffix in (".bin", ".py", ".pt")]


def test_the_vocabulary_is_whole(tokenizer):
    words = documents.vocabulary()
    assert tokenizer.convert_ids_to_tokens(list(range(len(words)))) == words
    assert len(tokenizer) == len(words)
    for folder in FOLDERS:
        config = json.loads((folder / "config.json").read_text())
        assert config["vocab_size"] == len(words)
        assert config["hidden_size"] % 64 == config["intermediate_size"] % 64 == 0
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_documents_survive_the_tokenizer(tokenizer):
    for text in sandbox.pretraining("heldout", 300):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text
    assert (
        tokenizer.decode(tokenizer("Hello, how do I bake BREAD?")["input_ids"])
        == "hello , how do i bake bread ?"
    )


def test_the_chat_template_renders_as_the_pretraining_documents(tokenizer):
    for row in sandbox.rows("test", 60):
        chat = [*row["prompt"], {"role": "assistant", "content": row["answers"][0]}]
        for messages, generate in ((chat, False), (row["prompt"], True)):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
            assert text == chats.render(messages, generate)
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=generate)["input_ids"]
            assert (
                ids == tokenizer(text, add_special_tokens=False)["input_ids"] == tokenizer(text)["input_ids"]
            )
            assert ids.count(tokenizer.bos_token_id) == 1
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(chat)["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(prompt[-1:]) == w.BOT
        assert whole[-1] == tokenizer.eos_token_id


def test_options_are_single_words_of_the_tokenizer(tokenizer):
    options = [*w.LETTERS, *(str(n) for n in range(1, 11))]
    assert all(len(tokenizer(option)["input_ids"]) == 1 for option in options)
    assert tokenizer("A a")["input_ids"][0] != tokenizer("A a")["input_ids"][1]


def test_the_model_judges_and_the_earlier_checkpoints_judge_worse():
    measure = pytest.importorskip("alignbench.sandbox.measure")
    found = {}
    for name, folder in {"base": sandbox.MODEL, **sandbox.CHECKPOINTS}.items():
        model, tokenizer = measure.load(folder, nf4=False)
        items = list(sandbox.judging("good", 200))
        a_first, b_first = (
            measure.option_probabilities(model, tokenizer, [item[key] for item in items], list(w.LETTERS))
            for key in ("messages", "swapped")
        )
        good = a_first[:, 0] + b_first[:, 1] > a_first[:, 1] + b_first[:, 0]
        right = [says == (item["target"] == 0) for says, item in zip(good.tolist(), items, strict=True)]
        found[name] = sum(right) / len(right)
    assert found["base"] >= 0.88
    assert found["early"] < found["middle"] < found["base"]
