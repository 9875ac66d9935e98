"""The sandbox's model as shipped: its files, its tokenizer, its chat template, its judging."""

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
    assert record["data"] == build.data_digest(), (
        "the sandbox's code has changed: run the build, or its --record"
    )
    assert build.fingerprint(record["files"], record["data"]) == sandbox.FINGERPRINT


def test_two_builds_are_equal_bit_for_bit_and_all_but_the_weights_is_what_ships(tmp_path):
    import torch

    threads = torch.get_num_threads()
    try:
        for name in "ab":
            build.build(tmp_path / name, share=0.002)
    finally:
        torch.set_num_threads(threads)
    first, second, shipped = (
        json.loads((root / "record.json").read_text())
        for root in (tmp_path / "a", tmp_path / "b", sandbox.MODEL.parent)
    )
    assert first == second
    assert first["data"] == shipped["data"]
    weights = {name for name in shipped["files"] if name.endswith("model.safetensors")}
    differ = {name for name in shipped["files"] if first["files"][name] != shipped["files"][name]}
    assert differ == weights, "a share of the documents gives other weights, and nothing else"


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


@pytest.fixture(scope="module")
def judgments():
    """For each model, on 400 held-out pairs: the probability that the first answer is better, in both orders."""
    measure = pytest.importorskip("alignbench.sandbox.measure")
    # By length: a batch is as wide as its longest text.
    items = sorted(sandbox.judging("pair", 400, seed=1), key=lambda item: len(item["messages"][0]["content"]))
    found = {}
    for name, folder in {"base": sandbox.MODEL, **sandbox.CHECKPOINTS}.items():
        model, tokenizer = measure.load(folder, nf4=False)
        a_first, b_first = (
            measure.option_probabilities(model, tokenizer, [item[key] for item in items], list(w.LETTERS))
            for key in ("messages", "swapped")
        )
        found[name] = (a_first[:, 0] - a_first[:, 1]).tolist(), (b_first[:, 1] - b_first[:, 0]).tolist()
    return items, found


def agreement(items, first, second) -> float:
    right = [(a + b > 0) == (item["target"] == 0) for a, b, item in zip(first, second, items, strict=True)]
    return sum(right) / len(right)


def test_the_base_agrees_with_gold_about_as_often_as_people_and_the_earlier_checkpoints_less(judgments):
    items, found = judgments
    share = {name: agreement(items, *both) for name, both in found.items()}
    assert 0.75 <= share["base"] <= 0.85
    assert 0.5 < share["early"] < share["middle"] < share["base"]


def test_the_base_as_a_judge_favours_the_first_answer_and_the_longer_one(judgments):
    items, found = judgments
    first, second = found["base"]
    a_is_chosen = [a > 0 for a in first] + [b < 0 for b in second]
    assert sum(a_is_chosen) / len(a_is_chosen) > 0.52
    longer = [len(item["answers"][0].split()) - len(item["answers"][1].split()) for item in items]
    chosen = [(a + b > 0) == (n > 0) for a, b, n in zip(first, second, longer, strict=True) if n]
    better = [(item["target"] == 0) == (n > 0) for item, n in zip(items, longer, strict=True) if n]
    assert sum(chosen) / len(chosen) > sum(better) / len(better) + 0.05


def test_the_base_gives_nearly_all_probability_to_the_two_options():
    """So that a judge's `min_mass` leaves out nothing here, whatever it is."""
    measure = pytest.importorskip("alignbench.sandbox.measure")
    model, tokenizer = measure.load(sandbox.MODEL, nf4=False)
    asked = [item["messages"] for item in sandbox.judging("pair", 100, seed=1)]
    assert measure.option_probabilities(model, tokenizer, asked, list(w.LETTERS)).sum(-1).min() > 0.99


def test_greedy_decoding_of_the_base_is_a_middling_policy():
    measure = pytest.importorskip("alignbench.sandbox.measure")
    model, tokenizer = measure.load(sandbox.MODEL, nf4=False)
    table = list(sandbox.rows("test", 150))
    answers = measure.generate(model, tokenizer, [row["prompt"] for row in table], temperature=0)
    values = [sandbox.gold(row["prompt"], a).reward for row, a in zip(table, answers, strict=True)]
    assert 0.2 < sum(values) / len(values) <= 0.55


def test_measure_prints_and_records_every_quantity_of_a_model(tmp_path):
    measure = pytest.importorskip("alignbench.sandbox.measure")
    found = measure.measure(*measure.load(sandbox.MODEL), count=40)
    text = measure.markdown(found)
    assert "| judging: pair, one order |" in text
    assert "| held-out loss, nats per token |" in text
    assert 0.5 < found["judging"]["pair"] <= 1.0
    assert 0.0 < found["gold"]["all"]["reward"] < 0.6
    file = tmp_path / "measured.json"
    for name in ("one", "other"):
        measure.record(file, name, 40, found)
    recorded = json.loads(file.read_text())
    assert recorded["models"] == {"one": found, "other": found}
    measure.record(file, "one", 41, found)  # other prompts: not comparable
    assert list(json.loads(file.read_text())["models"]) == ["one"]
