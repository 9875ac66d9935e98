"""Labels in other formats: rows for training, and exports of Argilla and Label Studio, in and out.

Argilla (2.x `records.to_json`, and the older feedback records): `fields` hold the prompt and the answers,
`responses` a ranking question's answers by field name, best first or with ranks. Label Studio (JSON export):
`data.answers` is the list, and each annotation ranks its ids with `Ranker`, tied in one bucket, or picks one
of two with `Pairwise`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from alignbench import store
from alignbench.errors import DataError, Problem
from alignbench.label.design import Design, Item, key
from alignbench.label.journal import Verdict, now

Format = Literal["argilla", "label-studio"]
QUESTION = "ranking"


def rankings(design: Design, verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    """Return rows for training: one Ranking for each rater and item, without repeats and checks."""
    items = {item.id: item for item in design.items}
    for verdict in verdicts:
        item = items.get(verdict.item)
        if item is None or item.known or verdict.round or verdict.automatic:
            continue
        yield {
            "prompt": [dict(turn) for turn in item.prompt],
            "answers": [one.text for one in item.answers],
            "ranks": list(compact(verdict.ranks)),
            "annotator": verdict.rater,
        }


def compact(ranks: Sequence[int]) -> tuple[int, ...]:
    """Return ranks without gaps: 1, 2, 2, 4 becomes 1, 2, 2, 3."""
    order = sorted(set(ranks))
    return tuple(order.index(rank) + 1 for rank in ranks)


def exported(design: Design, verdicts: Sequence[Verdict], format: Format) -> list[dict[str, Any]]:
    """Return the items with their verdicts as records of Argilla or tasks of Label Studio.

    The answers stand in an order that is keyed by the item, and no label is named.
    """
    of: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if not verdict.round and not verdict.automatic:
            of.setdefault(verdict.item, []).append(verdict)
    make = _argilla if format == "argilla" else _label_studio
    return [make(design, item, of.get(item.id, [])) for item in design.items if len(item.answers) > 1]


def _argilla(design: Design, item: Item, verdicts: Sequence[Verdict]) -> dict[str, Any]:
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
                for one in verdicts
            ]
        },
    }


def _label_studio(design: Design, item: Item, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    names = _names(design, item)
    answers = [{"id": name, "title": "", "body": item.answers[at].text} for name, at in names.items()]
    annotations = []
    for one in verdicts:
        buckets: dict[str, list[str]] = {}
        for name, at in _best_first(names, one):
            buckets.setdefault(str(one.ranks[at]), []).append(name)
        result = {"from_name": "rank", "to_name": "answers", "type": "ranker", "value": {"ranker": buckets}}
        annotations.append({"completed_by": one.rater, "lead_time": one.seconds, "result": [result]})
    data = {"item": item.id, "prompt": _text(item), "answers": answers}
    return {"data": data, "annotations": annotations}


def _names(design: Design, item: Item) -> dict[str, int]:
    places = sorted(range(len(item.answers)), key=lambda at: key(design.seed, "export", item.id, at))
    return {f"answer_{number}": at for number, at in enumerate(places, 1)}


def _best_first(names: Mapping[str, int], verdict: Verdict) -> list[tuple[str, int]]:
    return sorted(names.items(), key=lambda pair: verdict.ranks[pair[1]])


def _text(item: Item) -> str:
    if len(item.prompt) == 1:
        return str(item.prompt[0]["content"])
    return "\n\n".join(f"{turn.get('role', '')}: {turn.get('content', '')}" for turn in item.prompt)


def imported(design: Design, records: Any, file: str) -> tuple[list[Verdict], Counter[str]]:
    """Return the verdicts of an export on items of this design, and why others were passed over, counted.

    An item is known by its id (`id`, `data.item`), or by the same prompt and answers. Equal exports give equal
    tickets, so that what is imported twice is written once. Raises DataError where it is no such export.
    """
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise DataError(Problem("is no export of Argilla or Label Studio", "give a JSON list", file=file))
    known = {item.id: item for item in design.items}
    known |= {_content(_text(item), [one.text for one in item.answers]): item for item in design.items}
    passed: Counter[str] = Counter()
    found: dict[tuple[str, str], Verdict] = {}
    for record in records:
        if "fields" in record:
            texts = {name: text for name, text in record["fields"].items() if name != "prompt"}
            own, prompt, given = record.get("id"), record["fields"].get("prompt"), _from_argilla(record)
        elif "data" in record:
            texts = _listed(record["data"])
            own, prompt = record["data"].get("item"), record["data"].get("prompt")
            given = _from_label_studio(record)
        else:
            raise DataError(Problem("is no export of Argilla or Label Studio", "give one of them", file=file))
        item = known.get(str(own)) or known.get(_content(prompt, list(texts.values())))
        if item is None:
            passed["it is no item of this labelling"] += 1
            continue
        for rater, ranks, seconds in given:
            by_text = {texts[name]: rank for name, rank in ranks.items() if name in texts}
            if any(answer.text not in by_text for answer in item.answers):
                passed["it does not rank every answer"] += 1
                continue
            said = compact([by_text[answer.text] for answer in item.answers])
            ticket = store.digest(["import", rater, item.id, list(said)])[:32]
            found[rater, item.id] = Verdict(
                ticket=ticket, rater=rater[:80], item=item.id, ranks=said, seconds=seconds, at=now()
            )
    return list(found.values()), passed


PAIRWISE = {"left": (1, 2), "right": (2, 1), "none": (1, 1), "equal": (1, 1)}
"""Ranks of two answers by what Label Studio's Pairwise says was selected."""

Given = tuple[str, Mapping[str, int], float]
"""A rater, the rank of each answer's name, and the seconds it took."""


def _from_argilla(record: Mapping[str, Any]) -> Iterator[Given]:
    responses = record.get("responses") or {}
    if isinstance(responses, Mapping):
        flat = [(one.get("user_id"), one.get("value")) for many in responses.values() for one in many or ()]
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
