"""Instructions that a program can check: each kind against an answer that follows it and one that does not."""

from __future__ import annotations

import json

import pytest

from alignbench.errors import DataError
from alignbench.metrics.ifeval import CHECKS, IFEval, followed, sentences

BOTH = {
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2}, "A REAL DEAL", "a real DEAL"),
    "change_case:english_capital": ({}, "ALL OF IT IS LOUD.", "All of it."),
    "change_case:english_lowercase": ({}, "all of it is quiet.", "All of it."),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it."}, "say it. Fine.", "Fine."),
    "combination:two_responses": ({}, "One.******Two.", "One.******One."),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Yes.\nP.S. And more.", "Yes."),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Perhaps."),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2}, "Section 1\na\nSection 2\nb", "Section 1\na"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a"),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and *b*", "*a* and b"),
    "detectable_format:title": ({}, "<<A name>>\nText", "<< >>\nText"),
    "keywords:existence": ({"keywords": ["cat", "Dog"]}, "Cats and dogs", "cats"),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "category", "The cat."),
    "keywords:frequency": ({"keyword": "ha", "relation": "at least", "frequency": 2}, "ha ha", "ha"),
    "keywords:letter_frequency": (
        {"letter": "z", "let_relation": "less than", "let_frequency": 2}, "Zoo", "zz"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, "A.\n\n'Then', b", "Then\n\nb"),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"}, "Mr. A sleeps. He does!", "Mr. A sleeps."),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    "punctuation:no_comma": ({}, "plain; text", "a, b"),
    "startend:end_checker": ({"end_phrase": "The end."}, 'And so: "the end."', "The end. Or not"),
    "startend:quotation": ({}, '"All of it"', '"Half" of it'),
}  # fmt: skip


def row(name, fields):
    return {"key": 1, "prompt": "Say it.", "instruction_id_list": [name], "kwargs": [fields]}


@pytest.mark.parametrize("name", BOTH)
def test_an_instruction_is_followed_or_not(name):
    fields, right, wrong = BOTH[name]
    assert followed(row(name, fields), right) == 1.0
    assert followed(row(name, fields), wrong) == 0.0
    assert followed(row(name, fields), "  ") == 0.0


def test_every_published_instruction_has_a_check_and_a_prompt_takes_the_share(shared):
    path = "data/eval/ifeval/input_data.jsonl"
    (request,) = IFEval(IFEval.Config(prompts=path)).requests(shared)
    assert len(request.prompts) == 541
    assert set(BOTH) | {"language:response_language"} == set(CHECKS)
    two = {
        **row("punctuation:no_comma", {}),
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
    }
    assert followed({**two, "kwargs": [{}, {}]}, "no comma") == 0.5


def test_what_cannot_be_checked_here_is_left_out_not_guessed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "langdetect", None)
    assert followed(row("language:response_language", {"language": "de"}), "Guten Tag.") is None


def test_sentences_end_at_a_mark_before_a_capital():
    assert sentences("It is 3.5 m. That is e.g. high! Is it?\n\nyes") == 4
    assert sentences("one") == 1


def test_a_file_of_something_else_is_refused_by_its_field(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(row("no:such", {})))
    with pytest.raises(DataError, match="no:such"):
        IFEval(IFEval.Config(prompts="x.jsonl")).requests(tmp_path)
