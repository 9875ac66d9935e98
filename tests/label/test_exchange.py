"""Labels go to Argilla and Label Studio and come back as they were."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from alignbench.errors import DataError
from alignbench.label.design import Design, item
from alignbench.label.exchange import exported, imported, rankings
from alignbench.rows import Ranking

PROMPT = ({"role": "user", "content": "What is the color of milk?"},)


@pytest.fixture
def made(make_items) -> Design:
    return Design((*make_items(3), item(PROMPT, ["White.", "Brown."])))


@pytest.mark.parametrize("format", ["argilla", "label-studio"])
def test_what_goes_out_comes_back_with_its_raters_and_ties(made, make_annotation, format):
    annotations = [
        make_annotation(made.items[0], "anna", (1, 2, 2, 3, 4)),
        make_annotation(made.items[0], "ben", (5, 4, 3, 2, 1)),
        make_annotation(made.items[3], "anna", (1, 1)),
    ]
    records = json.loads(json.dumps(exported(made, annotations, format)))
    back, passed = imported(made, records, "file")
    assert [(one.rater, one.item, one.ranks) for one in back] == [
        (one.rater, one.item, one.ranks) for one in annotations
    ]
    assert not passed


@pytest.mark.parametrize("format", ["argilla", "label-studio"])
def test_no_label_and_no_order_of_labels_goes_out(made, format):
    text = json.dumps(exported(made, [], format))
    assert '"labels"' not in text
    hidden = item(PROMPT, {"SECRET-a": "White.", "SECRET-b": "Brown."})
    assert "SECRET" not in json.dumps(exported(Design((hidden,)), [], format))
    firsts = {
        next(iter(one["fields"].values()), "") if format == "argilla" else one["data"]["answers"][0]["body"]
        for one in exported(Design(tuple(made.items[:3])), [], format)
    }
    assert len(firsts) > 1


def test_an_argilla_export_as_records_to_json_writes_it_is_read(made):
    record = {
        "id": "anything",
        "fields": {"prompt": PROMPT[0]["content"], "response1": "Brown.", "response2": "White."},
        "metadata": {},
        "suggestions": {},
        "responses": {
            "ranking": [
                {"value": ["response2", "response1"], "user_id": "7d3f"},
                {"value": ["response1", "response2"], "user_id": "8e4a", "status": "draft"},
            ]
        },
        "vectors": {},
        "status": "completed",
        "_server_id": None,
    }
    (one,), _ = imported(made, [record], "file")
    assert (one.rater, one.ranks) == ("7d3f", (1, 2))


def test_the_older_feedback_records_of_argilla_are_read_and_drafts_are_not(made):
    def response(user: str, status: str) -> dict:
        ranked = [{"value": "a", "rank": 2}, {"value": "b", "rank": 1}]
        return {"user_id": user, "status": status, "values": {"preference": {"value": ranked}}}

    record = {
        "fields": {"prompt": PROMPT[0]["content"], "a": "White.", "b": "Brown."},
        "responses": [response("u1", "submitted"), response("u2", "draft")],
    }
    (one,), _ = imported(made, [record], "file")
    assert (one.rater, one.ranks) == ("u1", (2, 1))


def test_label_studio_pairwise_and_ranker_results_are_read_and_cancelled_ones_are_not(made):
    pairwise = {"type": "pairwise", "value": {"selected": "right"}}
    tasks = [
        {
            "data": {"prompt": PROMPT[0]["content"], "text1": "Brown.", "text2": "White."},
            "annotations": [
                {"completed_by": 3, "lead_time": 4.5, "result": [pairwise]},
                {"completed_by": 4, "was_cancelled": True, "result": [pairwise]},
            ],
        },
        {
            "data": {
                "prompt": PROMPT[0]["content"],
                "items": [{"id": "x", "body": "White."}, {"id": "y", "body": "Brown."}],
            },
            "annotations": [
                {
                    "completed_by": {"email": "ben@example.org"},
                    "result": [{"type": "ranker", "value": {"ranker": ["y", "x"]}}],
                }
            ],
        },
    ]
    found, _ = imported(made, tasks, "file")
    assert [(one.rater, one.ranks, one.seconds) for one in found] == [
        ("3", (1, 2), 4.5),
        ("ben@example.org", (2, 1), 0.0),
    ]


def test_what_belongs_to_no_item_or_ranks_half_of_one_is_counted(made, make_annotation):
    records = exported(made, [make_annotation(made.items[0], "anna", (1, 2, 3, 4, 5))], "argilla")
    records[0]["responses"]["ranking"][0]["value"].pop()
    stranger = {"fields": {"prompt": "?", "a": "1", "b": "2"}, "responses": {}}
    found, passed = imported(made, [*records, stranger], "file")
    assert found == []
    assert dict(passed) == {"it does not rank every answer": 1, "it is not an item of this labelling": 1}


RANKED = {"fields": {"prompt": "?", "a": "1"}, "responses": {"r": [{"value": ["a"], "user_id": "u"}]}}
TASK = {"data": {"answers": []}, "annotations": [{"result": [{"type": "ranker", "value": {}}]}]}


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"fields": None}, r"\[1\].fields"),
        ({"fields": ["a"]}, r"\[1\].fields"),
        ({"fields": {"a": ["x"]}}, r"\[1\].fields.a"),
        (RANKED | {"responses": "x"}, r"\[1\].responses"),
        (RANKED | {"responses": [1]}, r"\[1\].responses\[0\]"),
        (RANKED | {"responses": [{"values": [1]}]}, r"\[1\].responses\[0\].values"),
        (RANKED | {"responses": [{"values": {"q": 1}}]}, r"\[1\].responses\[0\].values.q"),
        (RANKED | {"responses": {"r": "x"}}, r"\[1\].responses.r"),
        (RANKED | {"responses": {"r": [None]}}, r"\[1\].responses.r\[0\]"),
        (RANKED | {"responses": {"r": [{"value": [{"rank": 1}]}]}}, r"\[1\].responses.r\[0\].value\[0\]"),
        (
            RANKED | {"responses": {"r": [{"value": [{"value": "a", "rank": "first"}]}]}},
            r"\[1\].responses.r\[0\].value\[0\].rank",
        ),
        (
            RANKED | {"responses": {"r": [{"value": [{"value": "a", "rank": float("nan")}]}]}},
            r"\[1\].responses.r\[0\].value\[0\].rank",
        ),
        (RANKED | {"fields": {"prompt": "\ud800", "a": "1"}}, r"\[1\].fields.prompt"),
        ({"data": [1]}, r"\[1\].data"),
        ({"data": {"answers": ["x"]}}, r"\[1\].data.answers\[0\]"),
        (TASK | {"annotations": {"a": 1}}, r"\[1\].annotations"),
        (TASK | {"annotations": ["x"]}, r"\[1\].annotations\[0\]"),
        (TASK | {"annotations": [{"result": "x"}]}, r"\[1\].annotations\[0\].result"),
        (TASK | {"annotations": [{"result": ["x"]}]}, r"\[1\].annotations\[0\].result\[0\]"),
        (
            TASK | {"annotations": [{"result": [{"value": "x"}]}]},
            r"\[1\].annotations\[0\].result\[0\].value",
        ),
        (TASK | {"annotations": [{"lead_time": "soon"}]}, r"\[1\].annotations\[0\].lead_time"),
        (TASK | {"annotations": [{"lead_time": float("nan")}]}, r"\[1\].annotations\[0\].lead_time"),
    ],
)
def test_a_record_that_is_no_export_is_said_with_its_line_and_field(made, record, field):
    with pytest.raises(DataError, match=f"^file:7: {field}: "):
        imported(made, [RANKED, record], "file", [2, 7])


@pytest.mark.parametrize("place", range(12))
def test_no_value_in_any_place_of_an_export_is_a_traceback(made, make_annotation, place):
    made = Design(made.items[3:])
    annotations = [make_annotation(made.items[0], "anna", (1, 2))]
    odd = [None, 1, -1, 0.5, float("inf"), "", "x", "\udfff", [], [[]], {}, {"value": {}}][place]
    for format in ("argilla", "label-studio"):
        for broken in mutants(exported(made, annotations, format), odd):
            with suppress(DataError):
                imported(made, broken, "file")


def mutants(value, odd):
    """Yield `value` with each of its parts replaced by `odd`, and with each removed."""
    yield odd
    if isinstance(value, dict):
        for name in value:
            yield {key: one for key, one in value.items() if key != name}
            yield from ({**value, name: other} for other in mutants(value[name], odd))
    elif isinstance(value, list):
        for place in range(min(len(value), 2)):
            yield value[:place] + value[place + 1 :]
            yield from ([*value[:place], o, *value[place + 1 :]] for o in mutants(value[place], odd))


@pytest.mark.parametrize("records", [{}, [1], [{"text": "x"}], "x"])
def test_what_is_no_export_is_refused(made, records):
    with pytest.raises(DataError, match="not an export"):
        imported(made, records, "file")


def test_rows_for_training_have_no_gaps_repeats_or_checks(made, make_annotation):
    known = item(PROMPT, ["Yes.", "No."], known=(1, 2))
    design = Design((*made.items, known))
    annotations = [
        make_annotation(made.items[0], "anna", (1, 2, 2, 4, 5)),
        make_annotation(made.items[0], "anna", (5, 4, 3, 2, 1), 1),
        make_annotation(known, "anna", (1, 2)),
    ]
    (row,) = rankings(design, annotations)
    assert row["ranks"] == [1, 2, 2, 3, 4]
    assert row["annotator"] == "anna"
    Ranking(id="x", prompt=tuple(row["prompt"]), answers=tuple(row["answers"]), ranks=tuple(row["ranks"]))
