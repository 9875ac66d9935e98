"""Conversations as well-known data sets write them, read into turns of a role and a text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from collections.abc import Sequence as Many
from itertools import pairwise
from typing import Any

from alignbench.data import hh
from alignbench.errors import Problem
from alignbench.rows import Message, Messages

ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "model", "chatgpt", "bot", "ai"), "assistant"),
}
"""Other names that well-known data sets give a role."""

UNREAD = (
    "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking",
    "images", "image", "videos", "video", "audios", "audio",
)  # fmt: skip
"""Fields of a message that change its meaning, and that a turn of text cannot hold."""

UNTRAINED = ("train", "training", "trainable", "loss", "loss_mask", "weight")
"""Fields of a message that can leave an answer out of the loss (Axolotl, ms-swift, OpenAI, verl)."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


class RecordError(ValueError):
    """A record that is not a row; `problems` name its fields."""

    def __init__(self, *problems: Problem):
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class UselessRecordError(ValueError):
    """A well-formed record that gives no row; its message is the reason that is counted."""


def prompt_of(value: Any) -> Messages:
    """Return the turns of a prompt: a text is the user's, HH's format holds several."""
    value = _decoded("prompt", value)
    if not isinstance(value, str):
        turns = _messages("prompt", value)
    elif hh.is_hh(text("prompt", value)):
        turns = hh.messages(value)
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns = turns[:-1]
    else:
        return ({"role": "user", "content": value},)
    if turns[-1]["role"] == "assistant":
        raise UselessRecordError("the prompt ends with the assistant's turn")
    return turns


def conversation(name: str, value: Any) -> tuple[Messages, str]:
    """Return a whole conversation, split at its last turn, which is the assistant's."""
    value = _decoded(name, value)
    if isinstance(value, str):
        if not hh.is_hh(text(name, value)):
            what = "a text that does not begin with 'Human:' is not a conversation"
            raise RecordError(Problem(what, "add the field `prompt`", field=name))
        turns = hh.messages(value)
    else:
        turns = _messages(name, value)
        if name != "messages" and turns[-1]["role"] != "assistant":
            what = f"the answer is a turn of the {turns[-1]['role']}, not of the assistant"
            raise RecordError(Problem(what, "end it with the assistant's turn", field=name))
    if turns[-1]["role"] != "assistant":
        raise UselessRecordError("the conversation does not end with the assistant's turn")
    if len(turns) == 1:
        raise RecordError(Problem("there is no turn before the answer", "begin with the user's", field=name))
    if isinstance(value, str):
        return turns[:-1], turns[-1]["content"]
    _check_trained(name, value)
    return turns[:-1], turns[-1]["content"]


def answer_of(name: str, value: Any, prompt: Messages, written: Any = None) -> str:
    """Return the answer to a known prompt: a text, a message, or messages that may repeat the prompt first.

    HH separates turns by blanks, which are not part of the answer.
    """
    value = _decoded(name, value)
    if isinstance(value, str):
        content = text(name, value)
        return content.strip() if isinstance(written, str) and hh.is_hh(written) else content
    if isinstance(value, Mapping):
        value = [value]
    if is_list(value) and len(value) and all(isinstance(one, str) for one in value):
        fix = "give one; several answers are a ranking: `answers` with `ranks`"
        raise RecordError(Problem("a list of texts, not one answer", fix, field=name))
    turns = _messages(name, value)
    if turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        what = "not one turn of the assistant after the prompt"
        raise RecordError(Problem(what, "put all earlier turns into `prompt`", field=name))
    _check_trained(name, value)
    return turns[0]["content"]


def before(prompt: Messages, system: Any, history: Any) -> Messages:
    """Return the prompt after the turns of the columns `system` and `history`, where a record has them.

    `history` is a list of (question, answer), as LLaMA-Factory and ms-swift write it.
    """
    first, rest = prompt[:1], prompt[1:]
    opening, rest = (first, rest) if first[0]["role"] in ("system", "developer") else ((), prompt)
    if not is_empty(system):
        given = text("system", system)
        if opening and opening[0]["content"] != given:
            what = "another system turn than the one that the messages begin with"
            raise RecordError(Problem(what, "keep one of them", field="system"))
        opening = opening or ({"role": "system", "content": given},)
    if is_empty(history):
        return (*opening, *rest)
    if not is_list(history) or not all(is_list(pair) and len(pair) == 2 for pair in history):
        raise RecordError(wrong("history", history, "a list of [question, answer]"))
    earlier = [
        {"role": role, "content": text(f"history[{place}]", content)}
        for place, pair in enumerate(history)
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    return (*opening, *earlier, *rest)


def _decoded(name: str, value: Any) -> Any:
    """Return the messages that a text holds as JSON, as tables write them that have no lists; else the value."""
    if not isinstance(value, str) or not _LIST_OF_MESSAGES.match(value):
        return value
    try:
        return json.loads(value)
    except ValueError:
        what = "a list of messages written as a text, and not as JSON"
        raise RecordError(Problem(what, "write it as a list, or with json.dumps", field=name)) from None


_LIST_OF_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|from|content|value)["']\s*:""")


def _messages(name: str, value: Any) -> Messages:
    if not is_list(value):
        raise RecordError(wrong(name, value, "a text or a list of messages"))
    if len(value) == 0:
        raise RecordError(Problem("an empty list", "give at least one message", field=name))
    turns = tuple(
        turn for place, message in enumerate(value) for turn in _message(f"{name}[{place}]", message)
    )
    for place, (earlier, later) in enumerate(pairwise(turns), start=1):
        if earlier["role"] == later["role"] != "tool":
            what = f"two turns of the {later['role']} in a row"
            fix = "join them into one, or add the turn that is missing between them"
            raise RecordError(Problem(what, fix, field=f"{name}[{place}]"))
    return turns


def _message(name: str, value: Any) -> list[Message]:
    """Return a message as a turn; ms-swift's `{"human": ..., "assistant": ...}` is two."""
    if not isinstance(value, Mapping):
        raise RecordError(wrong(name, value, 'a message {"role": ..., "content": ...}'))
    # A table with columns gives a message every field that any message has, and null where it has none.
    there = {key: item for key, item in value.items() if item is not None}
    unread = [
        Problem("is not read, and changes the turn", "drop the row", field=f"{name}.{field}")
        for field in UNREAD
        if not is_empty(there.get(field))
    ]
    if unread:
        raise RecordError(*unread)
    if "role" not in there and {"human", "assistant"} <= there.keys():
        sides = (("user", "human"), ("assistant", "assistant"))
        return [{"role": role, "content": text(f"{name}.{side}", there[side])} for role, side in sides]
    if not {"role", "from"} & value.keys():
        what = f"there is no `role`; the message has {', '.join(value)}"
        raise RecordError(Problem(what, "name it `role`, or drop the row", field=name))
    role = there.get("role", there.get("from"))
    role = ROLES.get(str(role), role)
    if role not in _ROLES:
        raise RecordError(
            Problem(f"{role!r} is not a role", f"it can be {', '.join(_ROLES)}", field=f"{name}.role")
        )
    content = there.get("content", there.get("value"))
    if not {"content", "value"} & value.keys():
        what = f"there is no `content`; the message has {', '.join(value)}"
        raise RecordError(Problem(what, "name it `content`, or drop the row", field=name))
    return [{"role": role, "content": _parts(f"{name}.content", content)}]


def _parts(name: str, content: Any) -> str:
    """Return a message's text, also where it is a list of text parts."""
    if not is_list(content):
        return text(name, content)
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            what = f"a part of the type {kind!r}, while only text is read"
            raise RecordError(Problem(what, "drop the row", field=f"{name}[{place}]"))
        texts.append(text(f"{name}[{place}].text", part.get("text")))
    return "".join(texts)


def _check_trained(name: str, messages: Many[Mapping[str, Any]]) -> None:
    """Raise RecordError where the answer, the last message, is left out of the loss."""
    for field in UNTRAINED:
        if messages[-1].get(field) in (False, 0):
            what = f"{messages[-1][field]!r} leaves the answer out of the loss"
            raise RecordError(Problem(what, "drop the row, or the field", field=f"{name}[-1].{field}"))


def text(name: str, value: Any) -> str:
    """Return a text that has an encoding. Raises RecordError, naming the field, for anything else."""
    if not isinstance(value, str):
        raise RecordError(wrong(name, value, "a text"))
    if "\x00" in value:
        raise RecordError(Problem("holds a NUL character", "drop the character or the row", field=name))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"holds the lone surrogate \\u{ord(value[error.start]):04x}, which is not a character"
        raise RecordError(Problem(what, "write the whole pair or drop the row", field=name)) from None
    return value


_KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    bytes: "bytes",
    list: "a list",
}


def wrong(field: str, value: Any, wanted: str) -> Problem:
    """Return the problem of a value that is of another kind than `wanted`."""
    got = "null" if value is None else _KINDS.get(type(value), "an object")
    if isinstance(value, float) and not math.isfinite(value):
        got = f"{value}"
    return Problem(f"{got}, not {wanted}", f"give {wanted} or drop the row", field=field)


def is_empty(value: Any) -> bool:
    """Return whether a column is empty in this record: null, blank, or an empty list, also as JSON."""
    return (
        value is None
        or (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))
        or (isinstance(value, (list, tuple, Mapping)) and not len(value))
    )


def is_list(value: Any) -> bool:
    """Return whether a value is a list, which a text is not."""
    return isinstance(value, Many) and not isinstance(value, (str, bytes))


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, which a truth value is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
