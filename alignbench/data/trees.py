"""Ranked reply trees, the format of OpenAssistant's exports: each ranked set of replies is one ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from alignbench.api.config import Settings, Split
from alignbench.api.data import Source
from alignbench.data import jsonl
from alignbench.data.sources import Problems, RawRow, files_of, read
from alignbench.errors import Problem
from alignbench.rows import Ranking, Row

Message = Mapping[str, Any]

ROLES = {"prompter": "user", "assistant": "assistant"}


class ReplyTrees(Source):
    """JSON lines of one message tree each, whose replies people have ranked (arXiv:2304.07327).

    Every message of a prompter with at least two ranked replies gives a row: the conversation down to it is
    the prompt, and its replies are the answers. Replies that nobody ranked, or that were deleted, are left
    out. All rows of a tree have its id as `user`, so that no split parts them.
    """

    api = 2

    class Config(Settings):
        """Where the trees are."""

        path: str
        """A file, or a folder whose files are read in the order of their names."""
        lang: str | None = None
        """Only trees whose first message is in this language, such as `en`."""

    def view(self) -> type[Row]:
        list(files_of(self.root, self.config.path, "jsonl"))  # raises where there is none
        return Ranking

    def rows(self, split: Split, limit: int | None, seed: int) -> Iterator[Row]:
        problems, tolerated = Problems(), Counter[str]()

        def records() -> Iterator[RawRow]:
            for file, name in files_of(self.root, self.config.path, "jsonl"):
                for line in jsonl.read(file, name, problems.add, tolerated):
                    yield from self._tree(line, name, problems)
                self.facts.setdefault("files", {})[name] = jsonl.digest(file)
            self.facts["tolerated"] = dict(sorted(tolerated.items()))

        return read(records(), problems, self, split, limit)

    def _tree(self, line: jsonl.Line, name: str, problems: Problems) -> Iterator[RawRow]:
        root = line.record.get("prompt")
        try:
            if self.config.lang is not None and _message(root).get("lang") != self.config.lang:
                self.dropped["another language"] += 1
                return
            tree = str(line.record.get("message_tree_id", f"{name}:{line.number}"))
            found = list(_rankings(_message(root), (), tree))
        except ValueError as error:
            fix = "write one tree of messages on each line: text, role, replies, and rank where there is one"
            problems.add(Problem(str(error), fix, file=name, line=line.number, field="prompt"))
            return
        if not found:
            self.dropped["no ranked replies"] += 1
        for fields in found:
            yield RawRow(name, line.number, fields, line.column)


def _rankings(message: Message, before: tuple[dict[str, str], ...], tree: str) -> Iterator[dict[str, Any]]:
    """Yield the ranked replies of a message and of all that follow it, depth first."""
    turns = (*before, {"role": ROLES[message["role"]], "content": message["text"]})
    replies = [reply for reply in map(_message, message["replies"]) if not reply.get("deleted")]
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if message["role"] == "prompter" and len(ranked) > 1:
        yield {
            "id": str(message.get("message_id", "")) or None,
            "prompt": [dict(turn) for turn in turns],
            "answers": [reply["text"] for reply in ranked],
            "ranks": [reply["rank"] + 1 for reply in ranked],
            "user": tree,
        }
    for reply in replies:
        yield from _rankings(reply, turns, tree)


def _message(given: Any) -> Message:
    """Return a message whose fields can be relied upon. Raises ValueError for anything else."""
    if not isinstance(given, dict):
        raise ValueError("the tree has no first message")
    if not isinstance(given.get("text"), str) or given.get("role") not in ROLES:
        raise ValueError(f"a message without a text or with the role {given.get('role')!r}")
    if not isinstance(given.setdefault("replies", []), list):
        raise ValueError("the replies of a message are not a list")
    rank = given.get("rank")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 0):
        raise ValueError(f"{rank!r} is not a rank")
    return given
