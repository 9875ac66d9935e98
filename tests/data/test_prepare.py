"""From a recipe to the prepared rows on disk: counts, refusals, and nothing half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.prepare import prepare
from alignbench.data.split import split_of
from alignbench.data.table import open_table
from alignbench.errors import DataError, Exit, ModelError, StorageError
from alignbench.recipe.named import open_source
from alignbench.recipe.schema import Named, Where
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Text, UnpairedPreference

from .conftest import MakeRecipe, Prepare, WriteRows, pairs


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ids(table: Any, split: str) -> list[str]:
    return [row.id for row in table.kept(split)]


# F25
def test_nothing_is_written_where_one_row_is_bad(write: WriteRows, table: Prepare, tmp_path: Path):
    write([*pairs(50), '{"prompt": "a"'])
    with pytest.raises(DataError, match=r"^data\.jsonl:51:15: malformed JSON"):
        table("data.jsonl")
    assert not (tmp_path / "table").exists()


# F28
@pytest.mark.parametrize(
    ("count", "message"),
    [
        (
            0,
            "0 rows were read and 0 are left for train; one batch (training.batch) needs at least 4",
        ),
        (1, "1 rows were read and"),
        (4, "one batch (training.batch) needs at least 4, so about 6 rows in all"),
    ],
)
def test_too_few_rows_say_how_many_are_needed(count: int, message: str, write: WriteRows, table: Prepare):
    write(pairs(count))
    with pytest.raises(DataError) as raised:
        table("data.jsonl")
    assert message in str(raised.value)
    assert raised.value.exit_code is Exit.DATA


def test_an_empty_test_split_says_how_many_rows_are_needed(write: WriteRows, table: Prepare):
    write(pairs(50))
    with pytest.raises(
        DataError, match=r"0 are left for test; give data.split.test a share, or name a source"
    ):
        table("data.jsonl", split={"test": 0, "validation": 0})
    with pytest.raises(
        DataError, match=r"left for test; an evaluation needs at least 2, so about 2000 rows in all"
    ):
        table("data.jsonl", split={"test": 0.001, "validation": 0})


def test_filters_that_leave_nothing_are_named_with_their_counts(write: WriteRows, table: Prepare):
    write(pairs(50))
    with pytest.raises(
        DataError, match=r"50 rows were read \(50 length dropped: too short\) and 0 are left for train"
    ):
        table("data.jsonl", filters=[{"length": {"min": 1000}}])


# F29
def test_duplicates_and_contradictions_are_counted(write: WriteRows, table: Prepare):
    rows = pairs(60)
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:3]]
    write([*rows, *rows[:5], *turned])
    record = table("data.jsonl").record
    assert (record["read"], record["duplicate_rows"], record["conflicting_labels"]) == (68, 5, 3)


def test_a_test_prompt_among_the_training_rows_is_an_error_unless_allowed(write: WriteRows, table: Prepare):
    users = [
        {**row, "user": f"user {n % 20}", "prompt": f"question {n % 7}"} for n, row in enumerate(pairs(80))
    ]
    write(users)
    with pytest.raises(
        DataError, match=r"test prompts occur in the training rows too; row \w+ asks what row \w+ asks"
    ):
        table("data.jsonl", split={"by": "user", "test": 0.2})
    split = {"by": "user", "test": 0.2}
    assert table("data.jsonl", split=split, allow_overlap=True).record["overlap"]["test"] > 0
    assert table("data.jsonl", split={"by": "prompt", "test": 0.3}).record["overlap"]["test"] == 0
    assert table("data.jsonl", split={"test": 0.3}).record["overlap"]["test"] == 0


def test_another_source_of_test_rows_is_compared_with_the_training_rows(write: WriteRows, table: Prepare):
    write(pairs(40))
    write(pairs(3), "test.jsonl")
    with pytest.raises(DataError, match="3 of 3 test prompts occur in the training rows"):
        table("data.jsonl", test="test.jsonl", split={"validation": 0})
    write([{**row, "prompt": f"new {row['prompt']}"} for row in pairs(3)], "test.jsonl")
    made = table("data.jsonl", test="test.jsonl", split={"validation": 0})
    assert (len(made.kept("train")), len(made.kept("test"))) == (40, 3)


# F31
def test_long_rows_are_dropped_for_all_methods_alike(write: WriteRows, table: Prepare):
    long = [{**row, "rejected": "x " * 400} for row in pairs(60)[:10]]
    write([*long, *pairs(60)[10:]])
    made = table("data.jsonl")
    dropped = sum(part["dropped"].get("longer than max_length", 0) for part in made.record["splits"].values())
    assert dropped == 10
    seen = {view: made.rows(view, seed=0) for view in (Pair, Demonstration, Prompt, UnpairedPreference)}
    kept = set(ids(made, "train"))
    for rows in seen.values():
        assert {row.id for row in rows} == kept == set(rows.seen)
    longest = {row.id: row.length for row in made.kept("train")}
    assert all(row.length == longest[row.id] for rows in seen.values() for row in rows)
    assert max(longest.values()) <= 64


def test_a_row_of_exactly_max_length_is_kept(write: WriteRows, table: Prepare):
    write(pairs(60))
    length = max(row.length for row in table("data.jsonl").kept("train"))
    assert table("data.jsonl", max_length=length, folder="exact").record["splits"]["train"]["dropped"] == {}
    with pytest.raises(DataError, match="longer than max_length"):
        table("data.jsonl", max_length=length - 1, folder="less")


def test_too_many_long_rows_are_an_error_with_lengths_that_would_do(write: WriteRows, table: Prepare):
    write([{**row, "chosen": "word " * (n + 1)} for n, row in enumerate(pairs(100))])
    with pytest.raises(DataError) as raised:
        table("data.jsonl", max_length=32)
    found = str(raised.value)
    assert "of 100 rows (7" in found
    assert "longer than max_length. Tokens of a row: 50% have at most" in found
    assert "set data.max_length (the model's context is 256): " in found
    assert "112 keeps 100%; or data.allowed_drop: 0.7" in found


def test_a_template_that_drops_what_tells_answers_apart_is_refused(write: WriteRows, table: Prepare):
    thought = {"chosen": "<think>good</think>yes", "rejected": "<think>bad</think>yes"}
    write([{**row, **thought} for row in pairs(40)])
    template = (
        "{% for m in messages %}{{ m.role + ' ' + m.content.split('</think>')[-1] + ' <eos> ' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    found = r"40 of 40 rows \(100%\) cannot be used: 40 the chat template drops part of an answer: its <think> part"
    with pytest.raises(ModelError, match=found + ".*; set model.chat_template to a template that keeps"):
        table("data.jsonl", model={"id": "sandbox", "chat_template": template})


def test_lengths_that_the_model_cannot_hold_are_not_offered(write: WriteRows, table: Prepare):
    write([*pairs(20), *({**row, "prompt": "x " * 300} for row in pairs(20))])
    with pytest.raises(DataError) as raised:
        table("data.jsonl")
    found = str(raised.value)
    assert "no data.max_length keeps more (the model's context is 256)" in found
    assert "data.allowed_drop: 0.5" in found


def test_many_rows_of_one_prompt_say_why_a_split_is_empty(write: WriteRows, table: Prepare):
    write([{**row, "prompt": "always this"} for row in pairs(50)])
    with pytest.raises(DataError, match="rows of one conversation stay together"):
        table("data.jsonl")
    write(pairs(50, user=""))
    with pytest.raises(DataError, match=r"rows of one user stay together.* data.split.by: conversation"):
        table("data.jsonl", split={"by": "user"})


def test_the_models_context_is_a_limit_of_its_own(write: WriteRows, table: Prepare):
    write([*pairs(60), {"prompt": "x " * 300, "chosen": "a", "rejected": "b"}])
    made = table("data.jsonl", max_length=1000)
    dropped = [part["dropped"] for part in made.record["splits"].values() if part["dropped"]]
    assert dropped == [{"longer than the model's context": 1}]


def test_a_test_prompt_leaves_room_for_its_answer(write: WriteRows, table: Prepare):
    write([{**row, "prompt": "x " * 200 + row["prompt"]} for row in pairs(100)])
    made = table("data.jsonl", max_length=250, allowed_drop=0.5, answer_tokens=40)
    assert sum(part["kept"] for part in made.record["splits"].values()) == 100
    with pytest.raises(DataError, match=r"0 are left for test"):
        table("data.jsonl", max_length=250, allowed_drop=0.5, answer_tokens=60)


def test_rows_without_use_are_dropped_with_their_reasons(write: WriteRows, table: Prepare):
    write(
        [
            *pairs(60),
            {"prompt": "a", "chosen": "same", "rejected": "same"},
            {"prompt": "a", "chosen": "", "rejected": ""},
            {"prompt": "b", "chosen": "x", "rejected": " \n"},
            {"prompt": " ", "chosen": "x", "rejected": "y"},
        ]
    )
    record = table("data.jsonl").record
    assert record["dropped"] == {"chosen equals rejected": 1, "empty answer": 2, "empty prompt": 1}


def test_rankings_are_kept_whole_or_not_at_all(write: WriteRows, table: Prepare):
    good = [
        {"prompt": f"q {n}", "answers": [f"a {n}", f"b {n}", f"c {n}"], "ranks": [1, 2, 2]} for n in range(40)
    ]
    bad = [
        {"prompt": "tied", "answers": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "torn", "answers": ["a", "b", "a"], "ranks": [1, 2, 3]},
        {"prompt": "long", "answers": ["a", "b", "c " * 100], "ranks": [1, 2, 3]},
    ]
    write([*good, *bad])
    made = table("data.jsonl")
    assert made.record["dropped"] == {"all answers are tied": 1, "equal answers with different ranks": 1}
    assert sum(part["kept"] for part in made.record["splits"].values()) == 40
    assert made.view is Ranking


# one table
def test_the_same_recipe_gives_the_same_bytes(write: WriteRows, recipe: MakeRecipe, tmp_path: Path):
    write(pairs(60, user="u", when="now"))
    write([{"text": f"plain text {n}"} for n in range(30)], "text.jsonl")
    for name in ("one", "two"):
        made = recipe(
            "data.jsonl",
            pretraining="text.jsonl",
            filters=["dedupe", "pii"],
            split={"by": "prompt", "test": 0.2},
        )
        prepare(made, tmp_path / name, root=tmp_path)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two
    assert set(one) == {
        "record.json", "train.parquet", "validation.parquet", "test.parquet",
        "pretraining-train.parquet", "pretraining-test.parquet",
    }  # fmt: skip


def test_what_comes_back_is_what_was_read(write: WriteRows, table: Prepare):
    rows = [
        {**row, "user": f"u{n}", "note": {"deep": [1, None, "\u3042", "\ud83d", "\x00"]}}
        for n, row in enumerate(pairs(60))
    ]
    write(rows)
    made = table("data.jsonl")
    back = {row.extra["user"]: row for split in ("train", "validation", "test") for row in made.kept(split)}
    assert len(back) == 60
    for given in rows:
        row = back[given["user"]]
        assert isinstance(row, Pair)
        assert (row.prompt[0]["content"], row.chosen, row.rejected) == (
            given["prompt"],
            given["chosen"],
            given["rejected"],
        )
        assert row.extra["note"] == given["note"]
        assert row.prompt_ids
        assert row.chosen_ids != row.rejected_ids


def test_fingerprints_tell_rows_tokens_and_template_apart(write: WriteRows, table: Prepare):
    write(pairs(60))
    first = table("data.jsonl").record["fingerprints"]
    write([{**row, "chosen": row["chosen"] + " ."} for row in pairs(60)])
    second = table("data.jsonl").record["fingerprints"]
    assert first["tokens"]["train"] != second["tokens"]["train"]
    assert first["template"] == second["template"]
    assert first["tokenizer"] == second["tokenizer"]


def test_a_limit_keeps_a_part_that_grows_without_moving(write: WriteRows, table: Prepare):
    write(pairs(300))
    few, more = (table("data.jsonl", limit=limit, folder=f"{limit}") for limit in (20, 60))
    assert (len(ids(few, "train")), len(ids(more, "train"))) == (20, 60)
    assert ids(more, "train")[:20] == ids(few, "train")
    assert ids(few, "train") != sorted(ids(few, "train"))
    asked = [
        int(str(row.prompt[0]["content"]).split()[1]) for row in few.kept("train") if isinstance(row, Prompt)
    ]
    assert max(asked) > 150  # a sample of the file, not its beginning


def test_a_limit_counts_rows_that_are_kept(write: WriteRows, table: Prepare):
    write([{**row, "chosen": "x " * (100 if n % 5 == 0 else 1)} for n, row in enumerate(pairs(300))])
    made = table("data.jsonl", limit=100, prompts=30)
    assert len(ids(made, "train")) == 100
    assert len(made.prompts("test")) >= 30


def test_the_users_rows_stay_together(write: WriteRows, table: Prepare):
    write([{**row, "user": f"user {n % 25}"} for n, row in enumerate(pairs(200))])
    made = table("data.jsonl", split={"by": "user", "test": 0.2})
    users = [{row.extra["user"] for row in made.kept(split)} for split in ("train", "validation", "test")]
    assert all(users)
    assert sum(map(len, users)) == len(set.union(*users)) == 25


def test_a_column_that_no_row_has_divides_nothing(write: WriteRows, table: Prepare):
    write(pairs(40, user="u"))
    with pytest.raises(DataError, match=r"data\.split\.by: no row has the column 'usr'"):
        table("data.jsonl", split={"by": "usr"})


def test_sources_of_different_kinds_are_refused(write: WriteRows, table: Prepare):
    write(pairs(40))
    write([{"prompt": "a", "completion": "b"}], "test.jsonl")
    with pytest.raises(DataError, match="Demonstration rows for test, but Pair rows before them"):
        table("data.jsonl", test="test.jsonl")


def test_a_folder_without_a_table_is_told_from_one(tmp_path: Path):
    with pytest.raises(StorageError, match="holds no prepared table"):
        open_table(tmp_path)


# the sandbox
def test_the_sandbox_is_prepared_whole(recipe: MakeRecipe, tmp_path: Path):
    found = []
    made = recipe("sandbox", limit=100, max_length=96, prompts=50, pretraining="sandbox", split={})
    prepare(made, tmp_path / "table", root=tmp_path, progress=lambda what, count: found.append(what))
    table = open_table(tmp_path / "table")
    assert table.view is Ranking
    assert len(table.kept("train")) == 100
    prompts = table.prompts("test", 50)
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 50
    assert all(prompt.prompt_ids and {"topic", "family", "unseen"} <= set(prompt.extra) for prompt in prompts)
    assert any(prompt.extra["unseen"] for prompt in prompts)
    assert not any(row.extra["unseen"] for row in table.kept("train"))
    assert table.record["overlap"] == {"test": 0, "validation": 0}
    texts = table.texts()
    assert texts
    assert all(isinstance(text, Text) and 2 <= len(text.ids) <= 96 for text in texts)
    assert {"tokenising rows", "tokenising pretraining text"} <= set(found)


# real data
@pytest.mark.parametrize(("by", "leaks"), [("prompt", True), ("conversation", False)])
def test_real_conversations_are_not_parted(by: str, leaks: bool, shared: Path):
    where = Where(by=by)
    rows = list(open_source(Named(name="data/hh/train.jsonl"), shared).rows("train", None, 0))
    texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        assert isinstance(row, Prompt)
        texts[split_of(row, where)].append(json.dumps(row.prompt)[:-1])
    seen = set(texts["train"])
    begun = {text[:place] for text in seen for place in range(len(text)) if text.startswith(", {", place)}
    assert (
        any(text in begun or any(text.startswith(one + ", {") for one in seen) for text in texts["test"])
        is leaks
    )


def test_real_hh_rows_make_a_table(shared: Path, table: Prepare, tmp_path: Path):
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '\\n' + m.role + ': ' + m.content }}"
        "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\nassistant: ' }}{% endif %}"
    )
    small = {"id": "models/stories260K", "chat_template": template}
    options: dict[str, Any] = {"model": small, "max_length": 512, "limit": 64, "batch": 8}
    with pytest.raises(
        DataError, match=r"set data.max_length \(the model's context is 512\): .*data.allowed_drop: 0.\d+"
    ):
        table("data/hh/train.jsonl", root=shared, **{**options, "allowed_drop": 0.05})
    made = table("data/hh/train.jsonl", root=shared, **{**options, "allowed_drop": 0.6})
    assert len(made.kept("train")) == 64
    assert made.record["read"] == 3674
    assert max(row.length for row in made.kept("train")) <= 512
    record = json.loads((tmp_path / "table/record.json").read_text(encoding="utf-8"))
    assert record["sources"]["train"]["name"] == "data/hh/train.jsonl"
    assert record["end_of_turn"] == {"token": "</s>", "id": 2}
