"""Columns of files to the fields of rows: known names, mappings, and refusals that show the line to write."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alignbench.data import columns, hh
from alignbench.data.fields import read, shape
from alignbench.data.sources import Jsonl
from alignbench.data.turns import RecordError, UselessRecordError
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, Text, UnpairedPreference, derive


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def row(record: dict[str, Any]) -> Any:
    return read(record, shape(record))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, (Pair, (user("q"),), "a", "b")),
        (
            {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            (Pair, (user("q"),), "a", "b"),
        ),
        (
            {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            (Pair, (user("q"),), "a", "b"),
        ),
        (
            {"prompt": "q", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            (Pair, (user("q"),), "a", "b"),
        ),
        ({"prompt": "q", "completion": "a"}, (Demonstration, (user("q"),), "a")),
        ({"prompt": [user("q")], "completion": [assistant("a")]}, (Demonstration, (user("q"),), "a")),
        (
            {"messages": [user("q"), assistant("a"), user("r"), assistant("b")]},
            (Demonstration, (user("q"), assistant("a"), user("r")), "b"),
        ),
        ({"prompt": "q", "completion": "a", "label": False}, (UnpairedPreference, (user("q"),), "a", False)),
        ({"prompt": "q", "ranking": ["a", "b", "c"]}, (Ranking, (user("q"),), ("a", "b", "c"), (1, 2, 3))),
        (
            {"prompt": "q", "answers": ["a", "b", "c"], "ranks": [5, 0, 0]},
            (Ranking, (user("q"),), ("a", "b", "c"), (2, 1, 1)),
        ),
        ({"prompt": "q"}, (Prompt, (user("q"),))),
        ({"text": "plain"}, (Text, "plain")),
    ],
)
def test_the_field_names_of_trl_and_of_rankings_give_the_views(
    record: dict[str, Any], expected: tuple[Any, ...]
):
    kind, *result = expected
    found = row(record)
    assert type(found) is kind
    names = {
        Pair: ("prompt", "chosen", "rejected"),
        Demonstration: ("prompt", "response"),
        UnpairedPreference: ("prompt", "response", "desirable"),
        Ranking: ("prompt", "answers", "ranks"),
        Prompt: ("prompt",),
        Text: ("text",),
    }[kind]
    assert [getattr(found, name) for name in names] == result


def test_all_other_columns_are_kept():
    record = {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "id": 7,
        "user": "u1",
        "annotator": "a3",
        "score": [1, 2],
    }
    found = row(record)
    assert found.id == "7"
    assert found.extra == {"user": "u1", "annotator": "a3", "score": [1, 2]}


@pytest.mark.parametrize(
    ("first", "later", "message"),
    [
        (
            {"prompt": "q", "completion": "a"},
            {"prompt": "q", "completion": "bad", "label": False},
            "after rows",
        ),
        (
            {"prompt": "q", "completion": "a"},
            {"prompt": "q", "completion": "a", "rejected": "b"},
            "is not read by",
        ),
    ],
)
def test_a_later_record_that_says_more_than_the_first_is_no_row(first: Any, later: Any, message: str):
    known = shape(first)
    with pytest.raises(RecordError, match=message):
        read(later, known)


def test_several_columns_of_a_list_are_all_there_and_a_column_may_have_a_dot_in_its_name():
    given = {"answers": ["a", "bb", "c"]}
    with pytest.raises(RecordError, match="there is no column `bb`"):
        columns.rename({"prompt": "q", "a": "A", "b": "B", "c": "C"}, given)
    assert columns.rename({"meta.text": "x"}, {"prompt": "meta.text"})["prompt"] == "x"


def test_a_soft_label_is_kept_with_the_pair():
    assert row({"prompt": "q", "chosen": "a", "rejected": "b", "preference": 0.75}).preference == 0.75
    with pytest.raises(RecordError, match="preference: a number, not a probability"):
        row({"prompt": "q", "chosen": "a", "rejected": "b", "preference": 75})


HH = "\n\nHuman: How do I bake bread?\n\nAssistant: Which kind?\n\nHuman: Rye.\n\nAssistant: {}"


def test_hh_text_is_split_at_its_last_assistant_turn():
    found = row({"chosen": HH.format("Mix and wait."), "rejected": HH.format("No.\n\nBread is bad.")})
    assert type(found) is Pair
    assert found.prompt == (user("How do I bake bread?"), assistant("Which kind?"), user("Rye."))
    assert (found.chosen, found.rejected) == ("Mix and wait.", "No.\n\nBread is bad.")


def test_hh_text_with_its_prompt_apart_gives_the_same_row():
    together = row({"chosen": HH.format("Yes."), "rejected": HH.format("No.")})
    apart = row({"prompt": HH.format("").rstrip(), "chosen": " Yes.", "rejected": " No."})
    assert apart == together


def test_hh_text_in_japanese_is_read():
    text = "\n\n人間: パンの焼き方は?\n\nアシスタント：どの種類ですか?\n\n人間：ライ麦。\n\nアシスタント: {}"  # noqa: RUF001
    found = row({"chosen": text.format("混ぜて待ちます。"), "rejected": text.format("いいえ。")})
    assert found.prompt == (user("パンの焼き方は?"), assistant("どの種類ですか?"), user("ライ麦。"))
    assert (found.chosen, found.rejected) == ("混ぜて待ちます。", "いいえ。")


def test_the_japanese_translation_of_hh_by_llm_jp_is_read():
    record = {
        "ID": "hh-1",
        "conversations": [
            {"from": "human", "value": "質問"},
            {"from": "gpt", "value": "答え"},
            {"from": "human", "value": "次"},
        ],
        "chosen": "良い",
        "rejected": "悪い",
    }
    found = row(record)
    assert type(found) is Pair
    assert found.prompt == (user("質問"), assistant("答え"), user("次"))
    assert (found.chosen, found.rejected, found.extra) == ("良い", "悪い", {"ID": "hh-1"})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            {"chosen": HH.format("a"), "rejected": "\n\nHuman: Else?\n\nAssistant: b"},
            "differ before their last answer",
        ),
        ({"messages": [user("q")]}, "does not end with the assistant's turn"),
        ({"prompt": [user("q"), assistant("a")], "completion": "b"}, "prompt ends with the assistant's turn"),
        ({"prompt": "q", "ranking": ["a"]}, "fewer than two answers"),
    ],
)
def test_well_formed_records_without_use_are_told_from_bad_ones(record: dict[str, Any], reason: str):
    with pytest.raises(UselessRecordError, match=reason):
        row(record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "q", "answers": ["a", "b"], "ranks": [1]}, "ranks: 1 ranks for 2 answers"),
        ({"prompt": "q", "answers": ["a", "b"], "ranks": ["1", "2"]}, "ranks: not a list of numbers"),
        (
            {"prompt": "q", "answers": ["a", "b", "c"], "ranks": [1, 2, 3], "preferences": [0.9, 0.8]},
            "preferences: not a list of 3 probabilities",
        ),
        (
            {"prompt": "q", "answers": ["a", "b"], "ranks": [1, 2], "preferences": [1.5]},
            "preferences: not a list of 1 probabilities",
        ),
        ({"prompt": "q", "ranking": "a"}, "ranking: a text, not a list of answers"),
        ({"prompt": "q", "completion": "a", "label": "good"}, "label: a text, not true or false"),
        (
            {"chosen": "a", "rejected": "b"},
            "chosen: a text that does not begin with 'Human:' is not a conversation",
        ),
        ({"messages": [assistant("a")]}, "messages: there is no turn before the answer"),
        (
            {"prompt": "q", "completion": [user("a")]},
            "completion: not one turn of the assistant after the prompt",
        ),
        ({"prompt": "q", "rejected": "a"}, "would leave out rejected"),
        (
            {"prompt": [user("q"), user("r")], "completion": "a"},
            r"prompt\[1\]: two turns of the user in a row; join them into one",
        ),
        (
            {"messages": [user("q"), assistant("a"), assistant("b")]},
            r"messages\[2\]: two turns of the assistant in a row",
        ),
        (
            {"chosen": [user("q"), assistant("a"), user("r")], "rejected": [user("q"), assistant("b")]},
            "chosen: the answer is a turn of the user, not of the assistant; end it with the assistant's turn",
        ),
    ],
)
def test_bad_records_name_their_field(record: dict[str, Any], message: str):
    with pytest.raises(RecordError, match=message.replace("(", r"\(")):
        row(record)


def test_a_text_that_mentions_a_human_is_no_conversation():
    assert not hh.is_hh("What does 'Human: hello' mean?")
    assert row({"prompt": "Is a Human: here?"}).prompt == (user("Is a Human: here?"),)


def test_real_hh_rows_are_read(shared: Path):
    source = Jsonl(Jsonl.Config(path="data/hh/validation.jsonl"), root=shared)
    rows = [one for one in source.rows("train", None, 0) if isinstance(one, Pair)]
    raw = [
        json.loads(line)
        for line in (shared / "data/hh/validation.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == len(raw) == 485
    for one, record in zip(rows, raw, strict=True):
        assert one.prompt[-1]["role"] == "user"
        assert one.prompt[0]["content"] in record["prompt"]
        assert (
            len(one.prompt)
            == record["prompt"].count("\n\nHuman:") + record["prompt"].count("\n\nAssistant:") - 1
        )
        assert (one.chosen, one.rejected) == (record["chosen"].strip(), record["rejected"].strip())
        whole = {name: record["prompt"] + record[name] for name in ("chosen", "rejected")}
        assert row(whole) == Pair(
            **{name: getattr(one, name) for name in Pair.__dataclass_fields__} | {"extra": {}}
        )


def test_real_rankings_give_as_many_pairs_as_people_ranked(shared: Path, tmp_path: Path):
    records, expected = [], Counter[str]()

    def walk(node: dict[str, Any], talk: list[dict[str, str]]) -> None:
        talk = [*talk, {"role": node["role"], "content": node["text"]}]
        ranked = [reply for reply in node.get("replies", []) if reply.get("rank") is not None]
        if node["role"] == "prompter" and len(ranked) > 1:
            ranks = [reply["rank"] for reply in ranked]
            records.append({"prompt": talk, "answers": [reply["text"] for reply in ranked], "ranks": ranks})
            expected["pairs"] += sum(a < b for a in ranks for b in ranks)
            expected["four or more"] += len(ranked) >= 4
        for reply in node.get("replies", []):
            walk(reply, talk)

    for line in (shared / "data/rankings/oasst_en_100_trees.jsonl").read_text(encoding="utf-8").splitlines():
        walk(json.loads(line)["prompt"], [])
    (tmp_path / "trees.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    rows: list[Row] = list(Jsonl(Jsonl.Config(path="trees.jsonl"), root=tmp_path).rows("train", None, 0))
    assert len(rows) == 212
    assert (
        sum(len(one.answers) >= 4 for one in rows if isinstance(one, Ranking))
        == expected["four or more"]
        == 38
    )
    drawn = [pair for one in rows for pair in derive(one, Pair, seed=0, draw="all")]
    assert len(drawn) == expected["pairs"] == 754


@pytest.mark.parametrize("name", ["System", "SYSTEM_PROMPT", "system_message"])
def test_a_system_column_may_have_other_names(name: str):
    found = row({name: "Be brief.", "prompt": "q", "completion": "a"})
    assert isinstance(found, Prompt)
    assert [turn["role"] for turn in found.prompt] == ["system", "user"]


@pytest.mark.parametrize("name", ["Tools", "available_tools", "rejected_images"])
def test_a_column_that_changes_the_meaning_is_refused_under_its_other_names(name: str):
    with pytest.raises(RecordError, match="is not read, and changes the meaning of a row"):
        row({name: ["x"], "messages": [user("q"), assistant("a")]})


@pytest.mark.parametrize(
    "answer", [{"completion": "a", "prompt": "q"}, {"messages": [user("q"), assistant("a")]}]
)
@pytest.mark.parametrize("name", ["desirable", "is_desirable", "thumbs_up"])
def test_a_label_under_another_name_is_never_left_out(name: str, answer: dict[str, Any]):
    with pytest.raises(RecordError, match=rf"likeliest row is a UnpairedPreference.*label: {name}"):
        row({**answer, name: False})


@pytest.mark.parametrize("field", ["trainable", "loss_mask", "training"])
def test_an_answer_that_another_trainer_leaves_out_of_the_loss_is_refused(field: str):
    with pytest.raises(RecordError, match="leaves the answer out of the loss"):
        row({"messages": [user("q"), {**assistant("a"), field: 0}]})


def test_a_passage_beside_the_question_is_in_the_row_or_refused():
    record = {"context": "Rye needs water.", "prompt": "Why?", "completion": "It is dry."}
    with pytest.raises(
        RecordError, match=r"context: .*part of the question; read it with .*\[context, prompt\]"
    ):
        row(record)
    joined = row(columns.rename(record, {"prompt": ["context", "prompt"]}))
    assert isinstance(joined, Prompt)
    assert joined.prompt == (user("Rye needs water.\n\nWhy?"),)
    assert row({**record, "context": "Why"}).extra == {"context": "Why"}
    with pytest.raises(
        RecordError, match=r"write columns: \{prompt: \[context, question\], completion: answer\}"
    ):
        shape({"question": "Why?", "context": "Rye.", "answer": "It is dry."})


def test_messages_that_a_table_holds_as_json_are_read_and_as_python_text_refused():
    talk = [user("q"), assistant("a")]
    assert row({"messages": json.dumps(talk)}) == row({"messages": talk})
    pair = {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
    assert row({name: json.dumps(value) for name, value in pair.items()}) == row(pair)
    with pytest.raises(RecordError, match="messages written as a text, and not as JSON"):
        row({"messages": str(talk)})
    with pytest.raises(RecordError, match="messages written as a text, and not as JSON"):
        row({"prompt": str(pair["prompt"]), "chosen": "a", "rejected": "b"})


def test_a_message_without_content_is_named_with_what_it_has():
    with pytest.raises(RecordError, match="there is no `content`; the message has role, text"):
        row({"messages": [{"role": "user", "text": "q"}, assistant("a")]})


def test_several_answers_where_one_is_needed_are_named():
    with pytest.raises(
        RecordError, match=r"chosen: a list of texts, not one answer; .* `answers` with `ranks`"
    ):
        row({"prompt": "q", "chosen": ["a", "b"], "rejected": ["c"]})


@pytest.mark.parametrize("role", ["gpt", "model", "chatgpt", "bot", "ai"])
def test_the_assistant_has_other_names(role: str):
    found = row({"conversations": [{"from": "human", "value": "q"}, {"from": role, "value": "a"}]})
    assert type(found).__name__ == "Demonstration"


def test_a_worse_answer_beside_messages_is_proposed_as_what_it_is():
    talk = [user("q"), assistant("a")]
    with pytest.raises(
        RecordError, match=r"likeliest row is a Pair .*write columns: \{rejected_response: rejected\}"
    ):
        shape({"messages": talk, "rejected": "b"})
    whole = {"messages": talk, "rejected": [user("q"), assistant("b")]}
    assert row(columns.rename(whole, {"rejected_response": "rejected"})).rejected == "b"


def test_a_message_without_a_role_is_named_with_what_it_has():
    with pytest.raises(RecordError, match="there is no `role`; the message has speaker, text"):
        row({"messages": [{"speaker": "human", "text": "q"}]})
