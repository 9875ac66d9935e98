"""Ranked reply trees: what becomes a row, what does not, and the problem of a tree that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.trees import ReplyTrees
from alignbench.errors import DataError
from alignbench.rows import Ranking


def message(text: str, *replies: Any, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **more}


def asked(text: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return message(text, *replies, role="prompter", **more)


def rows(tmp_path: Path, *trees: Any, **config: Any) -> tuple[list[Any], ReplyTrees]:
    file = tmp_path / "trees.jsonl"
    lines = [json.dumps({"message_tree_id": f"tree {n}", "prompt": tree}) for n, tree in enumerate(trees)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = ReplyTrees(ReplyTrees.Config(path="trees.jsonl", **config), root=tmp_path)
    return list(source.rows("train", None, 0)), source


def test_every_ranked_set_of_replies_is_a_ranking_under_its_conversation(tmp_path: Path):
    deeper = asked("again?", message("b1", rank=1), message("b0", rank=0), message("b2", rank=2))
    found, _ = rows(tmp_path, asked("why?", message("a1", deeper, rank=1), message("a0", rank=0)))
    first, second = found
    assert (first.answers, first.ranks) == (("a1", "a0"), (2, 1))
    assert [turn["content"] for turn in first.prompt] == ["why?"]
    assert (second.answers, second.ranks) == (("b1", "b0", "b2"), (2, 1, 3))
    assert [(turn["role"], turn["content"]) for turn in second.prompt] == [
        ("user", "why?"),
        ("assistant", "a1"),
        ("user", "again?"),
    ]
    assert first.extra["user"] == second.extra["user"] == "tree 0"


def test_unranked_and_deleted_replies_are_left_out(tmp_path: Path):
    tree = asked(
        "why?",
        message("a", rank=0),
        message("no", rank=1, deleted=True),
        message("new"),
        message("b", rank=2),
    )
    ((row,), _) = rows(tmp_path, tree)
    assert (row.answers, row.ranks) == (("a", "b"), (1, 2))


def test_a_tree_without_ranks_is_counted_and_gives_nothing(tmp_path: Path):
    found, source = rows(tmp_path, asked("why?", message("a"), message("b", rank=0)))
    assert found == []
    assert source.dropped == {"no ranked replies": 1}


def test_only_trees_of_one_language(tmp_path: Path):
    replies = message("a", rank=0), message("b", rank=1)
    found, source = rows(
        tmp_path, asked("why?", *replies, lang="en"), asked("warum?", *replies, lang="de"), lang="de"
    )
    assert [row.prompt[0]["content"] for row in found] == ["warum?"]
    assert source.dropped == {"another language": 1}


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        (None, "no first message"),
        (asked("why?", {"text": 3, "role": "assistant"}), "without a text"),
        (message("hi", role="robot"), "robot"),
        (asked("why?", message("a", rank="best")), "'best' is not a rank"),
        (asked("why?") | {"replies": "none"}, "not a list"),
    ],
)
def test_a_tree_that_is_none_is_named_with_its_line(tmp_path: Path, tree: Any, what: str):
    with pytest.raises(DataError, match=what) as raised:
        rows(tmp_path, asked("fine", message("a", rank=0), message("b", rank=1)), tree)
    (problem,) = raised.value.problems
    assert (problem.file, problem.line) == ("trees.jsonl", 2)


def test_real_trees(shared: Path):
    source = ReplyTrees(ReplyTrees.Config(path="data/rankings"), root=shared)
    found = list(source.rows("train", None, 0))
    assert source.view() is Ranking
    assert len(found) == 212
    assert len({row.id for row in found}) == 212
    assert all(len(row.answers) == len(row.ranks) >= 2 and min(row.ranks) == 1 for row in found)
    assert len({row.extra["user"] for row in found}) <= 100
