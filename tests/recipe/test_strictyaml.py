"""The YAML that recipes are written in: values, places and duplicate keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import Exit, RecipeError, SecurityError
from alignbench.recipe.yaml import MAX_BYTES, Place, parse, read


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-5", 1e-5),
        ("-1E+3", -1000.0),
        (".5", 0.5),
        ("2.", 2.0),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-3", -3),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        (".nan", ".nan"),
        ("'1e-5'", "1e-5"),
        ('"true"', "true"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_a_value_is_read_as_a_person_means_it(text: str, meant: object) -> None:
    value = parse(f"key: {text}", "r.yaml").data["key"]
    assert value == meant
    assert type(value) is type(meant)


def test_keys_are_always_text() -> None:
    assert parse("{no: 1, 7: 2, 1e-5: 3, ~: 4}", "r.yaml").data == {"no": 1, "7": 2, "1e-5": 3, "~": 4}


def test_every_key_and_value_has_its_place() -> None:
    document = parse("model:\n  id: sandbox\nseeds: [0, 11]\n", "r.yaml")
    assert document.keys["model", "id"] == Place("r.yaml", 2, 3)
    assert document.values["model", "id"] == Place("r.yaml", 2, 7)
    assert document.values["seeds", 1] == Place("r.yaml", 3, 12)


def test_what_is_not_there_has_the_place_of_what_should_hold_it() -> None:
    document = parse("a: 1\nmodel: {}\n", "r.yaml")
    assert document.place(("model", "id", "deeper")) == Place("r.yaml", 2, 8)


def test_all_duplicate_keys_are_named_with_their_first_line() -> None:
    assert refusal("a: 1\nb: {c: 1,\n  c: 2}\na: 3\n").splitlines() == [
        "r.yaml:3:3: b.c: given twice, first in line 2; keep one of them",
        "r.yaml:4:1: a: given twice, first in line 1; keep one of them",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: 2\n", "r.yaml:2:1: a second document begins here"),
        ("a:\n\tb: 1\n", "r.yaml:2:1: a tab stands where YAML wants spaces; indent with spaces only"),
        ("a: b: c\n", "r.yaml:1:5: a colon that is not expected here"),
        ("a: [1, 2\n", "r.yaml:2:1: not YAML: while parsing a flow sequence"),
        ("a: *there\n", "r.yaml:1:4: found undefined alias 'there'"),
        ("a: \x07\n", "r.yaml:1:4: the character U+0007 is not allowed here"),
        ("<<: {a: 1}\n", "r.yaml:1:1: <<: merge keys are not read"),
        ("? [a]\n: 1\n", "r.yaml:1:3: a list or mapping cannot be a key"),
        ("a: 1e999\n", "r.yaml:1:4: a: 1e999 is too large for a number"),
        ("a: !!str 3\n", "r.yaml:1:4: the tag 'tag:yaml.org,2002:str' is not read"),
        ('a: "\\ud800"\n', "r.yaml:1:4: half a character"),
        ("&a [*a]\n", "r.yaml:1:1: [0]: an alias that contains itself"),
        ("", "r.yaml: the file is empty"),
        ("# words\n", "r.yaml: the file is empty"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [x]",
        "a: !!python/name:os.system",
        "a: !ruby/object:Gem {}",
        "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system [x]",
    ],
)
def test_a_tag_that_could_run_code_is_a_security_refusal_that_names_its_rule(text: str) -> None:
    with pytest.raises(SecurityError, match="a recipe is data") as caught:
        parse(text, "r.yaml")
    assert caught.value.exit_code == Exit.SECURITY
    assert caught.value.problems[0].line is not None


def test_an_alias_is_read_where_it_stands() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n", "r.yaml").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "aliases expand to more than 100,000 values" in refusal("\n".join(lines))


def test_a_chain_of_aliases_is_no_deeper_than_a_recipe_may_be() -> None:
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 2000))]
    assert "deeper than 32" in refusal("\n".join(lines))


@pytest.mark.parametrize("depth", [40, 100_000])
def test_deep_nesting_is_refused_and_never_overflows(depth: int) -> None:
    assert "nested too deeply" in refusal("[" * depth + "]" * depth)


def test_a_number_of_thousands_of_digits_is_refused_and_never_raises_bare() -> None:
    assert "is too large for a number" in refusal("a: " + "9" * 5000)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "a: 1\nb: caf\u00e9\n".encode("latin-1"),
            "2:7: byte 0xe9 at offset 11 is not UTF-8 (it may be Latin-1",
        ),
        ("a: 1\n".encode("utf-16"), "1:1: byte 0xff at offset 0 is not UTF-8 (it may be UTF-16)"),
    ],
)
def test_another_encoding_is_guessed_with_line_and_offset(tmp_path: Path, raw: bytes, message: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(raw)
    with pytest.raises(RecipeError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}:{message}")


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: no\r\n")
    assert read(file)[1].data == {"a": 1, "b": "no"}


def test_a_file_that_is_missing_too_large_or_a_folder_is_said_so(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    for file, message in (
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "this is a folder"),
        (large, "bytes are too many"),
    ):
        with pytest.raises(RecipeError, match=message):
            read(file)
