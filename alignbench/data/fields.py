"""From a record's fields to a row: the names that TRL uses, rankings, conversations, and HH's text format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from typing import Any

from alignbench.data import hh
from alignbench.data.columns import DESIRABLE, NUMBERED, Columns, as_yaml, proposals, rename
from alignbench.data.turns import (
    RecordError,
    UselessRecordError,
    answer_of,
    before,
    conversation,
    is_empty,
    is_list,
    is_number,
    prompt_of,
    text,
    wrong,
)
from alignbench.errors import Problem
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Row, Text, UnpairedPreference

Fields = Mapping[str, Any]
Line = Callable[[Columns], str]
"""Writes a mapping of columns as it stands in the recipe."""

ALIASES = {
    "conversation": "conversations",
    "kto_tag": "label",
    "system_prompt": "system",
    "system_message": "system",
}
"""Other names that well-known data sets give a field."""

UNREAD = (
    "tools", "functions", "tool_calls", "images", "image", "videos", "video", "audios", "audio",
    "available_tools", "rejected_images", "rejected_videos", "rejected_audios", "rejected_tools",
    "chat_template_kwargs",
)  # fmt: skip
"""Columns that change the meaning of a conversation and that a row cannot hold: refused where they are filled."""

CONTEXT = ("system", "history")
"""Columns whose turns come before the prompt's."""

PASSAGES = ("instruction", "input", "context", "passage", "document")
"""Columns that are part of the question in other formats: a text in one of them is in the row, or refused."""

FOREIGN = (
    ({"message_id", "parent_id", "text"}, "single messages of reply trees",
     "read the file of ready trees: {reply-trees: {path: ...}}"),
    ({"message_tree_id", "prompt"}, "a reply tree", "read it as one: {reply-trees: {path: ...}}"),
    ({"input_ids"}, "token ids of another tokenizer", "give the texts: every method gets the same token ids"),
    ({"segments"}, "pieces of a template that is written already", "give `messages`"),
    ({"prompt", "completions", "labels"}, "labels of single steps", "give `completion` and one `label`"),
    ({"response1", "response2", "overall_preference"}, "a preference from -3 to 3",
     "write it as `chosen`, `rejected` and `preference`, a probability"),
)  # fmt: skip
"""Kinds of records that no shape fits: their columns, what they are, and what to do."""

_canonical = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class Shape:
    """A view and the fields that it is read from."""

    view: type[Row]
    names: tuple[str, ...]
    reader: Callable[[Fields], dict[str, Any]]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.view.__name__} ({', '.join(self.names)})"


def shape(record: Fields, line: Line = as_yaml) -> Shape:
    """Return the first shape whose fields are all there.

    Raises RecordError where there is none, or where the record has answers that the shape would leave out:
    with the columns that there are, the likeliest shape, and the `line` of a recipe that reads it.
    """
    for columns, what, fix in FOREIGN:
        if columns <= record.keys():
            raise RecordError(Problem(f"{what} ({', '.join(sorted(columns))})", fix))
    for one in SHAPES:
        if _columns(record, one).keys() >= set(one.names):
            if one.names == ("chosen", "rejected") and _is_plain(record) and proposals(record):
                break
            unread = [name for name in _UNREAD_ANSWERS.get(one.view, ()) if not is_empty(record.get(name))]
            if unread:
                raise RecordError(_proposal(record, one, unread, line))
            return one
    raise RecordError(_proposal(record, None, [], line))


def read(record: Fields, wanted: Shape, line: Line = as_yaml) -> Row:
    """Return a record of the wanted shape as a row without token ids.

    Its id is the field `id`, or else made of the content, so that adding rows renames no other row; columns
    that the shape does not read become `extra`. Raises RecordError where the record has another shape or bad
    values, UselessRecordError where it is well formed and yet no row.
    """
    columns = _columns(record, wanted)
    fields = {field: record[column] for field, column in columns.items()}
    missing = _missing(fields, wanted)
    if missing:
        for other in SHAPES:
            if fields.keys() >= set(other.names) and not set(other.names) <= set(wanted.names):
                what = f"{other} after rows that are {wanted}"
                raise RecordError(Problem(what, "keep one kind of row in a file"))
        raise RecordError(*missing)
    nulls = [wrong(name, None, "a value") for name in wanted.names if fields[name] is None]
    if nulls:
        raise RecordError(*nulls)
    unread = [
        Problem("is not read, and changes the meaning of a row", _without(line, name), field=name)
        for name in UNREAD
        if not is_empty(fields.get(name)) and wanted.view is not Text
    ]
    if unread:
        raise RecordError(*unread)
    if left_out := _left_out(record, wanted):
        raise RecordError(left_out)
    values = wanted.reader(fields)
    if "prompt" in values and (unread := _unread_passages(fields, wanted, values, line)):
        raise RecordError(*unread)
    used = {*wanted.names, *wanted.optional, "id"}
    if "prompt" in values:
        values["prompt"] = before(values["prompt"], *(fields.get(name) for name in CONTEXT))
        used.update(CONTEXT)
    given = fields.get("id")
    id = str(given) if isinstance(given, (str, int)) else content_id(values)
    extra = {column: _known(record[column]) for field, column in columns.items() if field not in used}
    return wanted.view(id=text("id", id), extra=extra, **values)


def _unread_passages(fields: Fields, wanted: Shape, values: Mapping[str, Any], line: Line) -> list[Problem]:
    """Return the problem of each column that seems to be part of the question and is not in the row."""
    texts = [turn["content"] for turn in values["prompt"]]
    joins = isinstance(fields.get("prompt"), str)
    problems = []
    for name in PASSAGES:
        value = fields.get(name)
        if name in wanted.names or not isinstance(value, str) or is_empty(value):
            continue
        if not any(value.strip() in text for text in texts):
            fix = f"read it with {line({'prompt': [name, 'prompt']})}, or " if joins else ""
            what = "is not read, and seems to be part of the question"
            problems.append(Problem(what, fix + _without(line, name), field=name))
    return problems


def _known(value: Any) -> Any:
    """Return a column's value, null for NaN: that is how tables of numbers write that there is none."""
    return None if isinstance(value, float) and value != value else value


def _is_plain(record: Fields) -> bool:
    """Return whether the chosen answer is a text alone, without the conversation before it."""
    return isinstance(record["chosen"], str) and not hh.is_hh(record["chosen"])


def content_id(values: Mapping[str, Any]) -> str:
    """Return an id made of the content of a row."""
    return sha256(_canonical(values).encode()).hexdigest()[:16]


def _columns(record: Fields, wanted: Shape) -> dict[str, str]:
    """Return which column each field of a shape is read from. A column of the field's own name goes first."""
    found = {name: name for name in record}
    for name, value in record.items():
        low = name.casefold()
        field = ALIASES.get(low, low if low in _FOLDED else name)
        if field in ("conversations", "messages"):
            if "messages" in wanted.names:
                field = "messages"
            elif len(wanted.names) > 1 and (field == "conversations" or not _is_answered(value)):
                field = "prompt"
        if field == name or (field == "prompt" and field in record):
            continue
        if not is_empty(record.get(found.get(field, ""))) and not is_empty(value):
            raise RecordError(Problem(f"`{found[field]}` and `{name}` are the same", "keep one", field=name))
        if is_empty(record.get(field)):
            found[field] = name
            found.pop(name, None)
    return found


def _is_answered(messages: Any) -> bool:
    """Return whether a conversation ends with the assistant's turn."""
    last = messages[-1] if is_list(messages) and len(messages) else None
    return isinstance(last, Mapping) and (last.get("role") or last.get("from")) in ("assistant", "gpt")


def _with_answer(fields: Fields) -> dict[str, Any]:
    prompt = prompt_of(fields["prompt"])
    return {
        "prompt": prompt,
        "response": answer_of("completion", fields["completion"], prompt, fields["prompt"]),
    }


def _answers_and_ranks(fields: Fields) -> dict[str, Any]:
    ranks = fields["ranks"]
    if not is_list(ranks) or not all(map(is_number, ranks)):
        bad = next((f" (one is {rank})" for rank in ranks if rank != rank), "") if is_list(ranks) else ""
        what = f"not a list of numbers{bad}"
        raise RecordError(Problem(what, "one rank for each answer, 1 is best", field="ranks"))
    values = _ranked(fields, "answers", ranks, "ranks")
    given = fields.get("preferences")
    if given is None:
        return values
    pairs = len(ranks) * (len(ranks) - 1) // 2
    if not is_list(given) or len(given) != pairs or not all(one is None or _is_chance(one) for one in given):
        fix = "for each two answers (1-2, 1-3, ..., 2-3, ...) that the first is better, or null"
        raise RecordError(Problem(f"not a list of {pairs} probabilities", fix, field="preferences"))
    return {**values, "preferences": tuple(None if one is None else float(one) for one in given)}


def _answers_and_scores(fields: Fields) -> dict[str, Any]:
    scores = fields["scores"]
    if is_list(scores) and any(score is None for score in scores):
        raise UselessRecordError("an answer without a score")
    if not is_list(scores) or not all(map(is_number, scores)):
        raise RecordError(
            Problem("not a list of numbers", "one score for each answer, more is better", field="scores")
        )
    return _ranked(fields, "answers", [-score for score in scores], "scores")


def _answers_and_best(fields: Fields) -> dict[str, Any]:
    answers, best = fields["answers"], fields["best"]
    count = len(answers) if is_list(answers) else 0
    if not is_number(best) or best not in range(count):
        raise RecordError(wrong("best", best, "the place of one of the answers, from 0"))
    return _ranked(fields, "answers", [place != best for place in range(count)], "best")


def _best_first(fields: Fields) -> dict[str, Any]:
    ranking = fields["ranking"]
    return _ranked(fields, "ranking", range(len(ranking) if is_list(ranking) else 0), "ranking")


def _ranked(fields: Fields, name: str, ranks: Many[float], ranked_by: str) -> dict[str, Any]:
    given = fields[name]
    if not is_list(given):
        raise RecordError(wrong(name, given, "a list of answers"))
    turns = prompt_of(fields["prompt"])
    answers = tuple(answer_of(f"{name}[{place}]", answer, turns) for place, answer in enumerate(given))
    if len(answers) != len(ranks):
        what = f"{len(ranks)} {ranked_by} for {len(answers)} answers"
        raise RecordError(Problem(what, "give one for each answer", field=ranked_by))
    if len(answers) < 2:
        raise UselessRecordError("fewer than two answers")
    order = sorted(set(ranks))  # ranks that begin at 0, or with gaps, become 1, 2, ...
    return {"prompt": turns, "answers": answers, "ranks": tuple(order.index(rank) + 1 for rank in ranks)}


def _pair(fields: Fields) -> dict[str, Any]:
    prompt = prompt_of(fields["prompt"])
    answers = {
        name: answer_of(name, fields[name], prompt, fields["prompt"]) for name in ("chosen", "rejected")
    }
    return {"prompt": prompt, **answers, **_preference(fields)}


def _pair_of_conversations(fields: Fields) -> dict[str, Any]:
    return _two_conversations(fields, "chosen", "rejected")


def _two_conversations(fields: Fields, one: str, two: str) -> dict[str, Any]:
    prompt, chosen = conversation(one, fields[one])
    other, rejected = conversation(two, fields[two])
    if prompt != other:
        raise UselessRecordError("the two conversations differ before their last answer")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **_preference(fields)}


def _talk_and_rejected(fields: Fields) -> dict[str, Any]:
    prompt, chosen = conversation("messages", fields["messages"])
    rejected = answer_of("rejected_response", fields["rejected_response"], prompt)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **_preference(fields)}


def _preference(fields: Fields) -> dict[str, float]:
    given = fields.get("preference")
    if given is not None and not _is_chance(given):
        raise RecordError(wrong("preference", given, "a probability from 0 to 1"))
    return {"preference": 1.0 if given is None else float(given)}


def _labelled(reader: Callable[[Fields], dict[str, Any]]) -> Callable[[Fields], dict[str, Any]]:
    def read(fields: Fields) -> dict[str, Any]:
        label = fields["label"]
        if label not in (0, 1):
            fix = f"state whether the answer is desirable, drop the row, or {_without(as_yaml, 'label')}"
            raise RecordError(Problem(wrong("label", label, "true or false").what, fix, field="label"))
        return {**reader(fields), "desirable": bool(label)}

    return read


def _talk(fields: Fields) -> dict[str, Any]:
    prompt, response = conversation("messages", fields["messages"])
    return {"prompt": prompt, "response": response}


SHAPES = (
    Shape(Ranking, ("prompt", "answers", "ranks"), _answers_and_ranks, ("preferences",)),
    Shape(Ranking, ("prompt", "answers", "scores"), _answers_and_scores),
    Shape(Ranking, ("prompt", "answers", "best"), _answers_and_best),
    Shape(Ranking, ("prompt", "ranking"), _best_first),
    Shape(Pair, ("prompt", "chosen", "rejected"), _pair, ("preference",)),
    Shape(Pair, ("chosen", "rejected"), _pair_of_conversations, ("preference",)),
    Shape(Pair, ("messages", "rejected_response"), _talk_and_rejected, ("preference",)),
    Shape(
        Pair,
        ("messages", "rejected_messages"),
        lambda fields: _two_conversations(fields, "messages", "rejected_messages"),
        ("preference",),
    ),
    Shape(UnpairedPreference, ("prompt", "completion", "label"), _labelled(_with_answer)),
    Shape(Demonstration, ("prompt", "completion"), _with_answer),
    Shape(UnpairedPreference, ("messages", "label"), _labelled(_talk)),
    Shape(Demonstration, ("messages",), _talk),
    Shape(Prompt, ("prompt",), lambda fields: {"prompt": prompt_of(fields["prompt"])}),
    Shape(Text, ("text",), lambda fields: {"text": text("text", fields["text"])}),
)
"""What a record may be. A record is the first shape whose fields it has."""

_NAMES = sorted({name for one in SHAPES for name in one.names})
_WORSE = ("chosen", "rejected", "chosen_response", "rejected_response", "rejected_messages")
_UNREAD_ANSWERS: Mapping[type[Row], tuple[str, ...]] = {
    Demonstration: (*_WORSE, *DESIRABLE),
    Prompt: (
        *_WORSE,
        *("response", "output", "generation", "answers", "responses", "generations", "completions"),
        *(name for pair in NUMBERED for name in pair),
    ),
}
"""Columns that are answers beyond doubt: a row that left them out would be another kind of row."""


FIELDS = frozenset({"id", *CONTEXT, *(name for one in SHAPES for name in (*one.names, *one.optional))})
"""All fields that a row is read from."""

_FOLDED = FIELDS - {"id"} | {*UNREAD}
"""Fields whose columns may be written in capital letters."""

NAMES = frozenset(
    {*_NAMES, *ALIASES, *CONTEXT, *UNREAD, *(name for names in _UNREAD_ANSWERS.values() for name in names)}
)
"""All columns that decide what a row is."""


def _left_out(record: Fields, wanted: Shape) -> Problem | None:
    """What is wrong with a record that has more to say than the first one's shape reads."""
    for name in _UNREAD_ANSWERS.get(wanted.view, ()):
        if not is_empty(record.get(name)):
            what = f"is not read by {wanted}, the shape of the first record"
            return Problem(what, "keep one kind of row in a file", field=name)
    for other in SHAPES[: SHAPES.index(wanted)]:
        columns = _columns(record, other)
        own = set(other.names) - set(wanted.names)
        if (
            own
            and columns.keys() >= set(other.names)
            and not any(is_empty(record[columns[name]]) for name in own)
        ):
            return Problem(f"{other} after rows that are {wanted}", "keep one kind of row in a file")
    return None


def _proposal(record: Fields, found: Shape | None, unread: list[str], line: Line) -> Problem:
    """Return what is wrong with a record that fits no shape, and the likeliest way to read it."""
    there = f"the columns are {', '.join(record)}"
    for columns in proposals(record):
        renamed = rename(record, columns)
        try:
            likeliest = shape(renamed)
            read(renamed, likeliest)
        except (RecordError, UselessRecordError):
            continue
        if columns and likeliest is not found:
            return Problem(f"{there}; the likeliest row is a {likeliest}", f"write {line(columns)}")
    if found is not None:
        fix = f"rename what it lacks, or {_without(line, *unread)}"
        return Problem(f"a {found} would leave out {', '.join(unread)}", fix)
    names = {_meant(name) or name for name in record}
    likeliest = max(SHAPES, key=lambda one: len(names.intersection(one.names)) / len(one.names))
    if not names.intersection(likeliest.names):
        shapes = "; ".join(dict.fromkeys(", ".join(one.names) for one in SHAPES))
        return Problem(f"{there}, which do not make a row", f"name them with `columns`; rows have {shapes}")
    raise RecordError(*_missing(record, likeliest))


def _without(line: Line, *names: str) -> str:
    return f"leave it out with {line(dict.fromkeys(names))}"


def _missing(fields: Fields, wanted: Shape) -> list[Problem]:
    problems = []
    for name in (name for name in wanted.names if name not in fields):
        near = [other for other in fields if other not in _NAMES and _meant(other) == name]
        fix = f"there is `{near[0]}`; did you mean `{name}`?" if near else f"add the field `{name}`"
        problems.append(Problem("is missing", fix, field=name))
    return problems


def _meant(name: str) -> str | None:
    near = get_close_matches(name, _NAMES, n=1, cutoff=0.75)
    return near[0] if near else None


def _is_chance(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1
