"""Labels in other formats: rows for training, and exports of Argilla and Label Studio, in and out.

Argilla (2.x `records.to_json`, and the older feedback records): `fields` hold the prompt and the answers,
`responses` a ranking question's answers by field name, best first or with ranks. Label Studio (JSON export):
`data.answers` is the list, and each annotation ranks its ids with `Ranker`, tied in one bucket, or picks one
of two with `Pairwise`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from alignbench import store
from alignbench.errors import DataError, Problem
from alignbench.label.design import HALF, Design, Item, half_character, key
from alignbench.label.journal import Annotation, now

Format = Literal["argilla", "label-studio"]
QUESTION = "ranking"


def rankings(design: Design, annotations: Sequence[Annotation]) -> Iterator[dict[str, Any]]:
    """Return rows for training: one Ranking for each rater and item, without repeats and checks."""
    items = {item.id: item for item in design.items}
    for annotation in annotations:
        item = items.get(annotation.item)
        if item is None or item.known or annotation.round or annotation.automatic:
            continue
        yield {
            "prompt": [dict(turn) for turn in item.prompt],
            "answers": [one.text for one in item.answers],
            "ranks": list(compact(annotation.ranks)),
            "annotator": annotation.rater,
        }


def compact(ranks: Sequence[int]) -> tuple[int, ...]:
    """Return ranks without gaps: 1, 2, 2, 4 becomes 1, 2, 2, 3."""
    order = sorted(set(ranks))
    return tuple(order.index(rank) + 1 for rank in ranks)


def exported(design: Design, annotations: Sequence[Annotation], format: Format) -> list[dict[str, Any]]:
    """Return the items with their annotations as records of Argilla or tasks of Label Studio.

    The answers stand in an order that is keyed by the item, and no label is named.
    """
    of: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        if not annotation.round and not annotation.automatic:
            of.setdefault(annotation.item, []).append(annotation)
    make = _argilla if format == "argilla" else _label_studio
    return [make(design, item, of.get(item.id, [])) for item in design.items if len(item.answers) > 1]


def _argilla(design: Design, item: Item, annotations: Sequence[Annotation]) -> dict[str, Any]:
    names = _names(design, item)
    return {
        "id": item.id,
        "fields": {"prompt": _text(item), **{name: item.answers[at].text for name, at in names.items()}},
        "metadata": {},
        "responses": {
            QUESTION: [
                {
                    "value": [{"value": name, "rank": one.ranks[at]} for name, at in _best_first(names, one)],
                    "user_id": one.rater,
                }
                for one in annotations
            ]
        },
    }


def _label_studio(design: Design, item: Item, annotations: Sequence[Annotation]) -> dict[str, Any]:
    names = _names(design, item)
    answers = [{"id": name, "title": "", "body": item.answers[at].text} for name, at in names.items()]
    given = []
    for one in annotations:
        buckets: dict[str, list[str]] = {}
        for name, at in _best_first(names, one):
            buckets.setdefault(str(one.ranks[at]), []).append(name)
        result = {"from_name": "rank", "to_name": "answers", "type": "ranker", "value": {"ranker": buckets}}
        given.append({"completed_by": one.rater, "lead_time": one.seconds, "result": [result]})
    data = {"item": item.id, "prompt": _text(item), "answers": answers}
    return {"data": data, "annotations": given}


def _names(design: Design, item: Item) -> dict[str, int]:
    places = sorted(range(len(item.answers)), key=lambda at: key(design.seed, "export", item.id, at))
    return {f"answer_{number}": at for number, at in enumerate(places, 1)}


def _best_first(names: Mapping[str, int], annotation: Annotation) -> list[tuple[str, int]]:
    return sorted(names.items(), key=lambda pair: annotation.ranks[pair[1]])


def _text(item: Item) -> str:
    if len(item.prompt) == 1:
        return str(item.prompt[0]["content"])
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in item.prompt)


def imported(
    design: Design, records: Any, file: str, lines: Sequence[int] = ()
) -> tuple[list[Annotation], Counter[str]]:
    """Return the annotations of an export on items of this design, and why others were passed over, counted.

    An item is known by its id (`id`, `data.item`), or by the same prompt and answers. Equal exports give equal
    tickets, so that what is imported twice is written once. Raises DataError where it is no such export, with
    every record that is none and its field; `lines` are the lines that the records begin at.
    """
    if not isinstance(records, list):
        raise DataError(Problem("is not an export of Argilla or Label Studio", "give a JSON list", file=file))
    problems = [
        Problem(
            what,
            "export it again as JSON, or leave the record out",
            file=file,
            line=lines[place] if lines else None,
            field=f"[{place}]{field}",
        )
        for place, record in enumerate(records)
        for field, what in faults(record)
    ]
    if problems:
        raise DataError(problems[:20], total=len(problems))
    known = {item.id: item for item in design.items}
    known |= {_content(_text(item), [one.text for one in item.answers]): item for item in design.items}
    passed: Counter[str] = Counter()
    found: dict[tuple[str, str], Annotation] = {}
    for record in records:
        if "fields" in record:
            texts = {name: text for name, text in record["fields"].items() if name != "prompt"}
            own, prompt, given = record.get("id"), record["fields"].get("prompt"), _from_argilla(record)
        else:
            texts = _listed(record["data"])
            own, prompt = record["data"].get("item"), record["data"].get("prompt")
            given = _from_label_studio(record)
        item = known.get(str(own)) or known.get(_content(prompt, list(texts.values())))
        if item is None:
            passed["it is not an item of this labelling"] += 1
            continue
        for who, ranks, seconds in given:
            rater = who.strip()[:80] or "unknown"
            by_text = {texts[name]: rank for name, rank in ranks.items() if name in texts}
            if any(answer.text not in by_text for answer in item.answers):
                passed["it does not rank every answer"] += 1
                continue
            ranking = compact([by_text[answer.text] for answer in item.answers])
            ticket = store.digest(["import", rater, item.id, list(ranking)])[:32]
            found[rater, item.id] = Annotation(
                ticket=ticket, rater=rater, item=item.id, ranks=ranking, seconds=seconds, at=now()
            )
    return list(found.values()), passed


Kind = type | tuple[type, ...]
TEXT: Kind = (str, int, float, type(None))
"""What stands for a text or a name in an export: `str` of it is taken."""


def faults(record: Any) -> Iterator[tuple[str, str]]:
    """Yield what keeps a record from being one of Argilla or Label Studio: the field, and what is wrong."""
    if not isinstance(record, dict) or not ("fields" in record or "data" in record):
        yield "", "is not an export of Argilla or Label Studio: it has neither `fields` nor `data`"
    elif half := half_character(record):
        yield half, HALF
    elif "fields" in record:
        yield from _argilla_faults(record)
    else:
        yield from _label_studio_faults(record)


def _argilla_faults(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _texts(record["fields"], ".fields")
    responses = record.get("responses")
    if isinstance(responses, dict):
        for name, many in responses.items():
            yield from _is(many, (list, type(None)), f".responses.{name}")
            for place, one in _members(many):
                path = f".responses.{name}{place}"
                yield from _is(one, dict, path) or _values(one.get("value"), f"{path}.value")
                yield from _is(many, (list, type(None)), f".responses.{name}")
    else:
        yield from _is(responses, (list, type(None)), ".responses")
        for place, one in _members(responses):
            path = f".responses{place}"
            if wrong := _is(one, dict, path) or _is(one.get("values"), (dict, type(None)), f"{path}.values"):
                yield from wrong
                continue
            for name, answer in (one.get("values") or {}).items():
                inner = f"{path}.values.{name}"
                yield from _is(answer, dict, inner) or _values(answer.get("value"), f"{inner}.value")


def _label_studio_faults(task: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = task["data"]
    if wrong := _is(data, dict, ".data"):
        yield from wrong
        return
    for name in ("answers", "items"):
        for place, one in _members(data.get(name)):
            yield from _is(one, dict, f".data.{name}{place}")
    yield from _is(task.get("annotations"), (list, type(None)), ".annotations")
    for place, one in _members(task.get("annotations")):
        path = f".annotations{place}"
        if wrong := _is(one, dict, path) or _is(one.get("result"), (list, type(None)), f"{path}.result"):
            yield from wrong
            continue
        if not _is_number(one.get("lead_time") or 0):
            yield f"{path}.lead_time", f"expected seconds, got {_shown(one['lead_time'])}"
        for inner, result in _members(one.get("result")):
            yield from _is(result, dict, f"{path}.result{inner}") or _is(
                result.get("value"), (dict, type(None)), f"{path}.result{inner}.value"
            )


def _values(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a ranking, best first or with ranks; any other question's answer is passed over."""
    for place, one in _members(value):
        if isinstance(one, dict):
            rank = one.get("rank")
            if "value" not in one:
                yield f"{path}{place}", "has no `value`: the answer that is ranked"
            if rank is not None and (type(rank) is not int or rank < 1):
                yield f"{path}{place}.rank", f"expected a rank from 1 on, got {_shown(rank)}"


def _texts(fields: Any, path: str) -> Iterator[tuple[str, str]]:
    if wrong := _is(fields, dict, path):
        yield from wrong
        return
    for name, text in fields.items():
        if name != "prompt":
            yield from _is(text, TEXT, f"{path}.{name}")


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the members of a list, each with its place as it stands in a path; nothing else has any."""
    for place, one in enumerate(value if isinstance(value, list) else ()):
        yield f"[{place}]", one


def _is(value: Any, kind: Kind, path: str) -> list[tuple[str, str]]:
    """The fault of a value that is no `kind`; none where it is."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, kinds):
        return []
    names = {dict: "an object", list: "a list", str: "a text"}
    expected = " or ".join(names[one] for one in kinds if one in names)
    return [(path, f"expected {expected}, got {_shown(value)}")]


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    return ascii(value)[:40]


PAIRWISE = {"left": (1, 2), "right": (2, 1), "none": (1, 1), "equal": (1, 1)}
"""Ranks of two answers by what Label Studio's Pairwise says was selected."""

Given = tuple[str, Mapping[str, int], float]
"""A rater, the rank of each answer's name, and the seconds it took."""


def _from_argilla(record: Mapping[str, Any]) -> Iterator[Given]:
    responses = record.get("responses") or {}
    if isinstance(responses, Mapping):
        flat = [
            (one.get("user_id"), one.get("value"))
            for many in responses.values()
            for one in many or ()
            if one.get("status", "submitted") == "submitted"
        ]
    else:
        flat = [
            (one.get("user_id"), answer.get("value"))
            for one in responses
            if one.get("status", "submitted") == "submitted"
            for answer in (one.get("values") or {}).values()
        ]
    for rater, value in flat:
        if isinstance(value, list) and value:
            ranks = {
                str(one["value"] if isinstance(one, Mapping) else one): int(
                    (one.get("rank") if isinstance(one, Mapping) else None) or place
                )
                for place, one in enumerate(value, 1)
            }
            yield str(rater or "unknown"), ranks, 0.0


def _from_label_studio(task: Mapping[str, Any]) -> Iterator[Given]:
    names = list(_listed(task["data"]))
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("completed_by", "unknown")
        rater = str(who.get("email") or who.get("id") or "unknown") if isinstance(who, Mapping) else str(who)
        seconds = min(86400.0, max(0.0, float(annotation.get("lead_time") or 0.0)))
        for result in annotation.get("result") or ():
            value = result.get("value") or {}
            if result.get("type") == "pairwise" and len(names) == 2:
                selected = str(value.get("selected"))
                if selected in PAIRWISE:
                    yield rater, dict(zip(names, PAIRWISE[selected], strict=True)), seconds
            elif result.get("type") == "ranker":
                yield rater, _ranker(value.get("ranker")), seconds


def _ranker(value: Any) -> dict[str, int]:
    """Ranks by answer id: a list is best first; buckets with numbers for names hold ties."""
    if isinstance(value, Mapping):
        buckets = {str(name): ids for name, ids in value.items() if isinstance(ids, list)}
        if buckets and all(name.isdecimal() for name in buckets):
            return {str(id): int(name) for name, ids in buckets.items() for id in ids}
        value = next(iter(buckets.values())) if len(buckets) == 1 else []
    return {str(id): place for place, id in enumerate(value, 1)} if isinstance(value, list) else {}


def _listed(data: Mapping[str, Any]) -> dict[str, str]:
    """The answers of a task by id: a list of a `List` tag, or `text1` and `text2` of a `Pairwise`."""
    for name in ("answers", "items"):
        if isinstance(data.get(name), list):
            return {
                str(one.get("id")): str(one.get("body", "")) for one in data[name] if isinstance(one, dict)
            }
    pairs = (("text1", "text2"), ("answer1", "answer2"), ("response1", "response2"))
    return next(({a: str(data[a]), b: str(data[b])} for a, b in pairs if a in data and b in data), {})


def _content(prompt: Any, answers: Sequence[Any]) -> str:
    return store.digest([str(prompt), sorted(map(str, answers))])
