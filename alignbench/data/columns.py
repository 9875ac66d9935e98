"""Columns under other names: the mapping that a recipe gives, and the one that an error proposes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from alignbench.data.turns import RecordError, is_empty, is_list
from alignbench.errors import Problem

Columns = Mapping[str, str | list[str] | None]
"""A field, and where it is: a column, a path such as `completions.response`, several columns, or null."""

LISTS = ("answers", "ranks", "ranking", "scores", "preferences")
"""Fields of which several columns give one item each; of any other field they give one text."""


def rename(record: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """Return the record with the fields that `columns` names; null takes a column away.

    The texts of several columns become one, with an empty line between them; empty ones are left out.
    Raises RecordError where a record has none of a field's columns, or lacks one of a list's.
    """
    if not columns:
        return record
    sources = [source for given in columns.values() for source in _sources(given)]
    kept = {name: value for name, value in record.items() if name not in (*sources, *columns)}
    for field, given in columns.items():
        if given is None:
            continue
        names = _sources(given)
        there = [name for name in names if _has(record, name) is not False]
        if len(there) < (len(names) if field in LISTS else 1):
            lacking = [name for name in names if name not in there]
            what = f"there is no column `{'` or `'.join(lacking)}`"
            fix = f"correct `columns`, or drop the row; there are {', '.join(record)}"
            raise RecordError(Problem(what, fix, field=field))
        values = [record[name] if name in record else _follow(record, name.split(".")) for name in there]
        if isinstance(given, str):
            kept[field] = values[0]
        elif field in LISTS:
            kept[field] = values
        else:
            texts = [value for value in values if not is_empty(value)]
            bad = next((value for value in texts if not isinstance(value, str)), None)
            kept[field] = "\n\n".join(texts) if bad is None else bad
    return kept


def joined(columns: Columns) -> set[str]:
    """Return the columns of which one text is made: any row may lack one, and not all rows."""
    return {
        source
        for field, given in columns.items()
        if field not in LISTS and isinstance(given, list) and len(given) > 1
        for source in given
    }


def found(record: Mapping[str, Any], sources: Iterable[str]) -> set[str]:
    """Return those of the columns that a record has, whatever their value."""
    return {source for source in sources if _has(record, source)}


def absent(sources: Iterable[str], columns: Columns, known: Iterable[str]) -> list[Problem]:
    """Return the problem of each column that no row has; `known` are columns that rows do have."""
    problems = []
    for source in sorted(sources):
        field = next(field for field, given in columns.items() if source in _sources(given))
        near = get_close_matches(source, known, n=1)
        fix = f"did you mean `{near[0]}`?" if near else f"correct `columns`; there are {', '.join(known)}"
        problems.append(Problem(f"no row has a column `{source}`", fix, field=field))
    return problems


def _sources(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _has(record: Mapping[str, Any], source: str) -> bool | None:
    """Return whether a record has a column; None where a null, or an empty list, hides what is behind it."""
    return True if source in record else _leads(record, source.split("."))


def _leads(value: Any, path: Sequence[str]) -> bool | None:
    if not path:
        return True
    if value is None:
        return None
    if is_list(value) and not path[0].isdecimal():
        answers = {_leads(item, path) for item in value}
        return True if True in answers else None if None in answers or not answers else False
    if is_list(value):
        place = int(path[0])
        return _leads(value[place], path[1:]) if place < len(value) else None
    return isinstance(value, Mapping) and path[0] in value and _leads(value[path[0]], path[1:])


def _follow(value: Any, path: Sequence[str]) -> Any:
    """Return what stands at a path; through a list it goes item by item, unless a number chooses one."""
    for place, name in enumerate(path):
        if is_list(value):
            if not name.isdecimal():
                return [_follow(item, path[place:]) for item in value]
            value = value[int(name)] if int(name) < len(value) else None
        elif isinstance(value, Mapping):
            value = value.get(name)
        else:
            return None
    return value


_PROMPT = ("prompt", "instruction", "question", "query", "problem", "input", "context", "conversations")
_ANSWER = ("completion", "output", "response", "answer", "generation", "target")
_CHOSEN = ("chosen", "chosen_response", "response_chosen", "preferred", "response")
_REJECTED = ("rejected", "rejected_response", "response_rejected", "dispreferred")
_ANSWERS = (
    "answers", "responses", "generations", "completions.response", "completions.text", "completions",
    "generations.text", "responses.text",
)  # fmt: skip
_SCORES = (
    "scores", "ratings", "rating", "completions.overall_score", "completions.score", "responses.score",
)  # fmt: skip
DESIRABLE = ("desirable", "is_desirable", "thumbs_up", "is_good", "is_chosen", "kto_label")
"""Other names of the field `label`."""
_LABEL = ("label", "kto_tag", *DESIRABLE)
_PASSAGE = ("context", "passage", "document")
_BEST = ("best", "better_response_id", "best_index", "chosen_index")
NUMBERED = tuple(
    (f"{word}{separator}{one}", f"{word}{separator}{two}")
    for word in ("response", "answer", "completion", "output")
    for separator in ("_", "")
    for one, two in (("0", "1"), ("1", "2"), ("a", "b"))
)
"""Columns of two answers that differ in nothing but their place."""


def proposals(record: Mapping[str, Any]) -> list[dict[str, str | list[str]]]:
    """Return mappings under which a record may be a row, the richest view first."""
    prompt = [name for name in _PROMPT if name in record][:1]
    if prompt == ["instruction"] and isinstance(record.get("input"), str):
        prompt.append("input")
    prompt = [name for name in _PASSAGE if name not in prompt and isinstance(record.get(name), str)] + prompt
    if not prompt:
        if "messages" not in record:
            return []
        fields = (("rejected_response", _REJECTED), ("label", DESIRABLE))
        return [{field: name} for field, names in fields for name in _present(record, names) if name != field]
    answers: list[Any] = [list(pair) for pair in NUMBERED if record.keys() >= set(pair)]
    answers += _present(record, _ANSWERS)
    mappings = [
        {"answers": some, field: other}
        for some in answers
        for field, others in (("scores", _SCORES), ("best", _BEST))
        for other in _present(record, others)
    ]
    chosen, rejected, answer, label = (
        _present(record, names)[:1] for names in (_CHOSEN, _REJECTED, _ANSWER, _LABEL)
    )
    if chosen and rejected:
        mappings.append({"chosen": chosen[0], "rejected": rejected[0]})
    if answer and label:
        mappings.append({"completion": answer[0], "label": label[0]})
    if answer and answer != prompt:
        mappings.append({"completion": answer[0]})
    whole: dict[str, Any] = {"prompt": prompt if len(prompt) > 1 else prompt[0]}
    return [{name: at for name, at in (whole | more).items() if at != name} for more in mappings]


def _present(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [
        name
        for name in names
        if (value := _follow(record, name.split("."))) is not None
        and not (is_list(value) and all(item is None for item in value))
    ]


def as_yaml(columns: Columns, source: str = "", given: Columns = {}) -> str:  # noqa: B006
    """Return a mapping as it stands in a recipe, on one line, after the columns `given`.

    `source` is where it stands: nothing, a source's name, or `split: name`.
    """

    def written(at: str | list[str] | None) -> str:
        if at is None:
            return "null"
        return at if isinstance(at, str) else f"[{', '.join(at)}]"

    items = ", ".join(f"{field}: {written(at)}" for field, at in {**given, **columns}.items())
    mapping = f"columns: {{{items}}}"
    split, _, name = source.rpartition(": ")
    fields = f"{{{name}: {{{mapping}}}}}" if name else mapping
    return f"{split}: {fields}" if split else fields
