"""JSON lines: every malformed row is named with its line and column."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from alignbench.data import jsonl
from alignbench.data.sources import Jsonl
from alignbench.errors import DataError, Exit
from alignbench.rows import Pair

from .conftest import WriteRows, pairs, problems


def source(tmp_path: Path, name: str = "data.jsonl") -> Jsonl:
    return Jsonl(Jsonl.Config(path=name), root=tmp_path)


GOOD = json.dumps(pairs(1)[0])


# F25
def test_a_malformed_row_is_named_with_line_and_column(write: WriteRows, tmp_path: Path):
    write([GOOD, GOOD.replace("0", "1"), '{"prompt":"a"'])
    error = problems(source(tmp_path))
    assert str(error).startswith("data.jsonl:3:14: malformed JSON: ")
    assert error.exit_code is Exit.DATA


def test_the_first_twenty_bad_rows_are_listed_and_all_are_counted(write: WriteRows, tmp_path: Path):
    write([GOOD, *['{"prompt": 1'] * 33])
    error = problems(source(tmp_path))
    assert len(error.problems) == 20
    assert error.total == 33
    assert str(error).endswith("... and 13 more")
    assert [problem.line for problem in error.problems] == list(range(2, 22))


# F26
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "rejected": "c"}', "data.jsonl:2: chosen: is missing; add the field `chosen`"),
        (
            '{"prompt": "a", "choosen": "b", "rejected": "c"}',
            "data.jsonl:2: chosen: is missing; there is `choosen`; did you mean `chosen`?",
        ),
        (
            '{"prompt": "a", "chosen": 7, "rejected": "c"}',
            "data.jsonl:2:17: chosen: a number, not a text or a list",
        ),
        ('{"prompt": "a", "chosen": null, "rejected": "c"}', "data.jsonl:2:17: chosen: null, not a value"),
        ('{"prompt": "a", "chosen": "b", "chosen": "d"}', "data.jsonl:2:32: chosen: the key occurs twice"),
        ('{"prompt": "NaN", "chosen": NaN}', "data.jsonl:2:29: NaN is not a JSON number"),
        ('{"prompt": "a", "chosen": -Infinity}', "data.jsonl:2:27: -Infinity is not a JSON number"),
        (
            '{"prompt": "a", "chosen": "\\ud83d", "rejected": "c"}',
            "data.jsonl:2:17: chosen: holds the lone surrogate \\ud83d",
        ),
        (
            '{"prompt": "a\\u0000", "chosen": "b", "rejected": "c"}',
            "data.jsonl:2:2: prompt: holds a NUL character",
        ),
        ('["prompt"]', "data.jsonl:2:1: no JSON object"),
        (
            '{"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}',
            "data.jsonl:2:2: prompt[0]: there is no `content`; the message has role",
        ),
        (
            '{"prompt": [{"role": "usr", "content": "a"}], "chosen": "b", "rejected": "c"}',
            "data.jsonl:2:2: prompt[0].role: 'usr' is not a role",
        ),
        ('{"prompt": [], "chosen": "b", "rejected": "c"}', "data.jsonl:2:2: prompt: an empty list"),
        (
            '{"text": "plain"}',
            "data.jsonl:2: Text (text) after rows that are Pair (prompt, chosen, rejected)",
        ),
    ],
)
def test_a_bad_field_is_named_with_line_and_column(line: str, message: str, write: WriteRows, tmp_path: Path):
    write([GOOD, line])
    error = problems(source(tmp_path))
    assert error.total == 1
    assert str(error).startswith(message)


def test_a_misspelt_first_row_is_understood_too(write: WriteRows, tmp_path: Path):
    write([{"promt": "a", "choosen": "b", "rejected": "c"}])
    found = str(problems(source(tmp_path)))
    assert "there is `promt`; did you mean `prompt`?" in found
    assert "there is `choosen`; did you mean `chosen`?" in found


def test_what_is_harmless_is_accepted_and_stated(write: WriteRows, tmp_path: Path):
    first, second = (json.dumps(row).encode() for row in pairs(2))
    write(b"\xef\xbb\xbf" + first + b"\r\n\r\n" + b"  \n" + second)
    read = source(tmp_path)
    rows = list(read.rows("train", None, 0))
    assert [row.prompt[0]["content"] for row in rows if isinstance(row, Pair)] == ["question 0", "question 1"]
    assert read.facts["tolerated"] == {
        "byte-order mark": 1,
        "lines that end with CRLF": 2,
        "blank lines": 2,
        "last line without an end": 1,
    }


# F27
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f'{GOOD}\n{{"prompt": "caf\u00e9"}}\n'.encode("latin-1"),
            f"data.jsonl:2: not UTF-8: byte 0xe9 at byte offset {len(GOOD) + 16}; probably Latin-1",
        ),
        ('{"prompt": "\u3053\u3093\u306b\u3061\u306f"}\n'.encode("shift_jis"), "probably Shift-JIS"),
        ('{"prompt": "\u3053\u3093\u306b\u3061\u306f"}\n'.encode("euc_jp"), "probably EUC-JP"),
        (
            GOOD.encode("utf-16"),
            "data.jsonl: UTF-16 (little endian), not JSON lines in UTF-8 (byte offset 0)",
        ),
        (
            GOOD.encode("utf-16-be"),
            "data.jsonl: not UTF-8: a zero byte at byte offset 0; probably UTF-16",
        ),
        (
            b"\x1f\x8b\x08\x00rest",
            "data.jsonl: a gzip archive, not JSON lines in UTF-8 (byte offset 0); gunzip",
        ),
        (
            b" \n[" + GOOD.encode() + b"]",
            "data.jsonl: a JSON array, not one object on each line (byte offset 2)",
        ),
        (b"PAR1....", "data.jsonl: a Parquet file"),
        ('{"prompt": "\u4f60\u597d\uff0c\u4eca\u5929"}\n'.encode("gb18030"), "probably GBK or GB18030"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
            "data.jsonl: a pointer of Git LFS, not JSON lines in UTF-8 (byte offset 0); fetch the file itself",
        ),
        (b"<!DOCTYPE html>\n<html>404</html>\n", "data.jsonl: a web page, not JSON lines"),
    ],
)
def test_another_format_is_named_with_the_byte_where_it_shows(
    content: bytes, message: str, write: WriteRows, tmp_path: Path
):
    write(content)
    assert message in str(problems(source(tmp_path)))


# F30
def test_a_huge_line_is_an_error_with_its_number_in_bounded_memory(write: WriteRows, tmp_path: Path):
    with (tmp_path / "data.jsonl").open("wb") as file:
        file.write(GOOD.encode() + b'\n{"prompt": "')
        for _ in range(50):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + GOOD.encode() + b"\n{}\n")
    tracemalloc.start()
    error = problems(source(tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(error.problems[0]) == "data.jsonl:2: the line is longer than 10 MB; split the row or drop it"
    assert error.problems[1].line == 4
    assert peak < 4 * jsonl.MAX_LINE


def test_deep_nesting_is_an_error_with_its_line(write: WriteRows, tmp_path: Path):
    deep = [GOOD[:-1] + ', "note": ' + "[" * depth + "]" * depth + "}" for depth in (63, 64, 100_000)]
    write([GOOD, *deep])
    error = problems(source(tmp_path))
    assert [(problem.line, problem.what) for problem in error.problems] == [
        (3, "nested too deeply"),
        (4, "nested too deeply"),
    ]


def test_reading_many_rows_does_not_hold_them(write: WriteRows, tmp_path: Path):
    write({"prompt": f"question {n} " + "x" * 4000, "chosen": "a", "rejected": "b"} for n in range(5_000))
    tracemalloc.start()
    count = sum(1 for _ in source(tmp_path).rows("train", None, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 4 * 2**20  # the file has 20 MB; what is held is the rows' ids


def test_a_glance_tells_the_view_without_reading_all(write: WriteRows, tmp_path: Path):
    write([GOOD, "no JSON"])
    assert source(tmp_path).view() is Pair


@pytest.mark.parametrize("row", pairs(1), ids=["pair"])
def test_equal_rows_keep_apart_by_their_ids(row: dict[str, Any], write: WriteRows, tmp_path: Path):
    write([row, {**row, "prompt": "other"}, row])
    first, _, third = (one.id for one in source(tmp_path).rows("train", None, 0))
    assert third == f"{first}.2"


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere.jsonl: there is no such file; relative paths start from"):
        source(tmp_path, "nowhere.jsonl").view()


def test_an_object_over_many_lines_is_one_problem(write: WriteRows, tmp_path: Path):
    write(json.dumps(pairs(1)[0], indent=2).encode())
    error = problems(source(tmp_path))
    assert str(error) == (
        "data.jsonl: one JSON object over many lines, not one on each line; "
        "write each row on a line of its own (jq -c .)"
    )
