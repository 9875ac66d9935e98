"""From a record's fields to a row: the names TRL uses, rankings, conversations, and HH's text format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from itertools import pairwise
from typing import Any

from alignbench.data import hh
from alignbench.errors import Problem
from alignbench.rows import Demonstration, Messages, Pair, Prompt, Ranking, Row, Text, UnpairedPreference

Fields = Mapping[str, Any]

ALIASES = {"conversations": "prompt"}
"""Other names that well-known data sets give a field."""

ROLES = {"human": "user", "gpt": "assistant", "prompter": "user"}
"""Other names that well-known data sets give a role."""

_canonical = json.JSONEncoder(sort_keys=True).encode
_ROLES = ("system", "developer", "user", "assistant", "tool")


class RecordError(ValueError):
    """A record that is not a row; `problems` name its fields."""

    def __init__(self, *problems: Problem):
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class UselessRecordError(ValueError):
    """A well-formed record that gives no row; its message is the reason that is counted."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A view and the fields that it is read from."""

    view: type[Row]
    names: tuple[str, ...]
    reader: Callable[[Fields], dict[str, Any]]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.view.__name__} ({', '.join(self.names)})"


def shape(record: Fields) -> Shape:
    """Return the first shape whose fields are all there; RecordError says what the likeliest one lacks."""
    there = {ALIASES.get(name, name) for name in record}
    for one in SHAPES:
        if there.issuperset(one.names):
            return one
    meant = {_meant(name) or name for name in there}
    likeliest = max(SHAPES, key=lambda one: len(meant.intersection(one.names)) / len(one.names))
    raise RecordError(*_missing(record, likeliest))


def read(record: Fields, wanted: Shape) -> Row:
    """Return a record of the wanted shape as a row without token ids.

    Its id is the field `id`, or else made of the content, so that adding rows renames no other row; columns
    that the shape does not read become `extra`. Raises RecordError where the record has another shape or bad
    values, UselessRecordError where it is well formed and yet no row.
    """
    fields = {ALIASES.get(name, name): value for name, value in record.items()}
    missing = _missing(fields, wanted)
    if missing:
        for other in SHAPES:
            if fields.keys() >= set(other.names) and not set(other.names) <= set(wanted.names):
                what = f"{other} after rows that are {wanted}"
                raise RecordError(Problem(what, "keep one kind of row in a file"))
        raise RecordError(*missing)
    nulls = [_wrong(name, None, "a value") for name in wanted.names if fields[name] is None]
    if nulls:
        raise RecordError(*nulls)
    said = wanted.reader(fields)
    given = fields.get("id")
    id = str(given) if isinstance(given, (str, int)) else content_id(said)
    used = {*wanted.names, *wanted.optional, "id"}
    extra = {name: value for name, value in record.items() if ALIASES.get(name, name) not in used}
    return wanted.view(id=_text("id", id), extra=extra, **said)


def content_id(said: Mapping[str, Any]) -> str:
    """Return an id made of the content of a row."""
    return sha256(_canonical(said).encode()).hexdigest()[:16]


def _answers_and_ranks(fields: Fields) -> dict[str, Any]:
    ranks = fields["ranks"]
    if not _is_list(ranks) or not all(_is_number(rank) for rank in ranks):
        raise RecordError(
            Problem("not a list of numbers", "one rank for each answer, 1 is best", field="ranks")
        )
    said = _ranked(fields["prompt"], "answers", fields["answers"], ranks)
    given = fields.get("preferences")
    if given is None:
        return said
    pairs = len(ranks) * (len(ranks) - 1) // 2
    if not _is_list(given) or len(given) != pairs or not all(one is None or _is_chance(one) for one in given):
        fix = "for each two answers (1-2, 1-3, ..., 2-3, ...) that the first is better, or null"
        raise RecordError(Problem(f"not a list of {pairs} probabilities", fix, field="preferences"))
    return {**said, "preferences": tuple(None if one is None else float(one) for one in given)}


def _best_first(fields: Fields) -> dict[str, Any]:
    ranking = fields["ranking"]
    return _ranked(
        fields["prompt"], "ranking", ranking, range(1, 1 + len(ranking) if _is_list(ranking) else 1)
    )


def _ranked(prompt: Any, name: str, given: Any, ranks: Many[float]) -> dict[str, Any]:
    if not _is_list(given):
        raise RecordError(_wrong(name, given, "a list of answers"))
    turns = _prompt(prompt)
    answers = tuple(_answer(f"{name}[{place}]", answer, turns) for place, answer in enumerate(given))
    if len(answers) != len(ranks):
        what = f"{len(ranks)} ranks for {len(answers)} answers"
        raise RecordError(Problem(what, "one rank for each answer, 1 is best", field="ranks"))
    if len(answers) < 2:
        raise UselessRecordError("fewer than two answers")
    order = sorted(set(ranks))  # ranks that begin at 0, or with gaps, become 1, 2, ...
    return {"prompt": turns, "answers": answers, "ranks": tuple(order.index(rank) + 1 for rank in ranks)}


def _pair(fields: Fields) -> dict[str, Any]:
    prompt = _prompt(fields["prompt"])
    answers = {name: _answer(name, fields[name], prompt, fields["prompt"]) for name in ("chosen", "rejected")}
    return {"prompt": prompt, **answers, **_preference(fields)}


def _pair_of_conversations(fields: Fields) -> dict[str, Any]:
    prompt, chosen = _conversation("chosen", fields["chosen"])
    other, rejected = _conversation("rejected", fields["rejected"])
    if prompt != other:
        raise UselessRecordError("the two conversations differ before their last answer")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **_preference(fields)}


def _preference(fields: Fields) -> dict[str, float]:
    given = fields.get("preference", 1.0)
    if not _is_chance(given):
        raise RecordError(_wrong("preference", given, "a probability from 0 to 1"))
    return {"preference": float(given)}


def _demonstration(fields: Fields) -> dict[str, Any]:
    prompt = _prompt(fields["prompt"])
    return {
        "prompt": prompt,
        "response": _answer("completion", fields["completion"], prompt, fields["prompt"]),
    }


def _verdict(fields: Fields) -> dict[str, Any]:
    if fields["label"] not in (0, 1):
        raise RecordError(_wrong("label", fields["label"], "true or false"))
    return {**_demonstration(fields), "desirable": bool(fields["label"])}


def _talk(fields: Fields) -> dict[str, Any]:
    prompt, response = _conversation("messages", fields["messages"])
    return {"prompt": prompt, "response": response}


SHAPES = (
    Shape(Ranking, ("prompt", "answers", "ranks"), _answers_and_ranks, ("preferences",)),
    Shape(Ranking, ("prompt", "ranking"), _best_first),
    Shape(Pair, ("prompt", "chosen", "rejected"), _pair, ("preference",)),
    Shape(Pair, ("chosen", "rejected"), _pair_of_conversations, ("preference",)),
    Shape(UnpairedPreference, ("prompt", "completion", "label"), _verdict),
    Shape(Demonstration, ("prompt", "completion"), _demonstration),
    Shape(Demonstration, ("messages",), _talk),
    Shape(Prompt, ("prompt",), lambda fields: {"prompt": _prompt(fields["prompt"])}),
    Shape(Text, ("text",), lambda fields: {"text": _text("text", fields["text"])}),
)
"""What a record may be. A record is the first shape whose fields it has."""

_NAMES = sorted({name for one in SHAPES for name in one.names})


def _prompt(value: Any) -> Messages:
    if not isinstance(value, str):
        turns = _messages("prompt", value)
    elif hh.is_hh(_text("prompt", value)):
        turns = hh.messages(value)
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns = turns[:-1]
    else:
        return ({"role": "user", "content": value},)
    if turns[-1]["role"] == "assistant":
        raise UselessRecordError("the prompt ends with the assistant's turn")
    return turns


def _conversation(name: str, value: Any) -> tuple[Messages, str]:
    """A whole conversation, split at its last turn, which is the assistant's."""
    if isinstance(value, str):
        if not hh.is_hh(_text(name, value)):
            what = "a text that does not begin with 'Human:' is no conversation"
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
    return turns[:-1], turns[-1]["content"]


def _answer(name: str, value: Any, prompt: Messages, written: Any = None) -> str:
    """The answer to a known prompt: a text, or messages that may repeat the prompt first.

    HH separates turns by blanks, which are not part of the answer.
    """
    if isinstance(value, str):
        text = _text(name, value)
        return text.strip() if isinstance(written, str) and hh.is_hh(written) else text
    turns = _messages(name, value)
    if turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        what = "not one turn of the assistant after the prompt"
        raise RecordError(Problem(what, "put all earlier turns into `prompt`", field=name))
    return turns[0]["content"]


def _messages(name: str, value: Any) -> Messages:
    if not _is_list(value):
        raise RecordError(_wrong(name, value, "a text or a list of messages"))
    if len(value) == 0:
        raise RecordError(Problem("an empty list", "give at least one message", field=name))
    turns = tuple(_message(f"{name}[{place}]", message) for place, message in enumerate(value))
    for place, (before, after) in enumerate(pairwise(turns), start=1):
        if before["role"] == after["role"] != "tool":
            what = f"two turns of the {after['role']} in a row"
            fix = "join them into one, or add the turn that is missing between them"
            raise RecordError(Problem(what, fix, field=f"{name}[{place}]"))
    return turns


def _message(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise RecordError(_wrong(name, value, 'a message {"role": ..., "content": ...}'))
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    role = ROLES.get(str(role), role)
    if role not in _ROLES:
        raise RecordError(
            Problem(f"{role!r} is no role", f"it can be {', '.join(_ROLES)}", field=f"{name}.role")
        )
    return {"role": role, "content": _text(f"{name}.content", content)}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RecordError(_wrong(name, value, "a text"))
    if "\x00" in value:
        raise RecordError(Problem("holds a NUL character", "drop the character or the row", field=name))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"holds the lone surrogate \\u{ord(value[error.start]):04x}, which is no character"
        raise RecordError(Problem(what, "write the whole pair or drop the row", field=name)) from None
    return value


def _missing(record: Fields, wanted: Shape) -> list[Problem]:
    there = {ALIASES.get(name, name) for name in record}
    problems = []
    for name in (name for name in wanted.names if name not in there):
        near = [other for other in record if other not in _NAMES and _meant(other) == name]
        fix = f"there is `{near[0]}`; did you mean `{name}`?" if near else f"add the field `{name}`"
        problems.append(Problem("is missing", fix, field=name))
    return problems


def _meant(name: str) -> str | None:
    near = get_close_matches(name, _NAMES, n=1, cutoff=0.75)
    return near[0] if near else None


_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}


def _wrong(field: str, value: Any, wanted: str) -> Problem:
    got = "null" if value is None else _KINDS.get(type(value), "an object")
    return Problem(f"{got}, not {wanted}", f"give {wanted} or drop the row", field=field)


def _is_list(value: Any) -> bool:
    return isinstance(value, Many) and not isinstance(value, (str, bytes))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_chance(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
