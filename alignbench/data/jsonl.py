"""A strict reader of JSON lines: in bounded memory, with the place and the fault of every bad line."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from alignbench.errors import DataError, Problem

MAX_LINE = 10 * 2**20
"""Bytes of one line: a longer one is an error, not a reason to run out of memory."""

MAX_DEPTH = 64
"""Lists and objects within each other."""

_SIGNATURES = (
    (b"\x1f\x8b", "a gzip archive", "gunzip it first"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"(\xb5/\xfd", "a zstandard archive", "unpack it first"),
    (b"PAR1", "a Parquet file", "name it *.parquet"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
    (b"<!DOCTYPE", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
    (b"\xff\xfe", "UTF-16 (little endian)", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 (big endian)", "save it as UTF-8"),
)
_BOM = b"\xef\xbb\xbf"
_ENCODINGS = (
    ("shift_jis", "Shift-JIS"), ("euc_jp", "EUC-JP"), ("gb18030", "GBK or GB18030"),
    ("cp1252", "Latin-1 or Windows-1252"),
)  # fmt: skip
_KANA = re.compile("[\u3041-\u30fe]")
_PAIRS = re.compile(rb"(?:[\x00-\x7f]|[\xa1-\xf7][\xa1-\xfe])*")
"""ASCII, and the pairs of bytes that write common Chinese: Western text has single bytes above 127."""
_NO_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON object and where it stands."""

    number: int
    text: str
    record: dict[str, Any]

    def column(self, field: str) -> int | None:
        """Return the column, from 1, in which the field's name begins; None where there is no such field."""
        return self.text.find(json.dumps(field, ensure_ascii=False)) + 1 or None


def read(path: Path, name: str, report: Callable[[Problem], None], tolerated: Counter[str]) -> Iterator[Line]:
    """Yield the objects of a file, one for each line that holds one.

    `report` is called with what is wrong with every other line; `name` is the file in it. `tolerated` counts what
    is accepted and yet recorded: a byte-order mark, CRLF ends, blank lines, a last line without an end.
    Raises DataError where the file as a whole is something else than JSON lines in UTF-8.
    """
    with path.open("rb") as file:
        _refuse_other_formats(file, name)
        offset = number = 0
        while raw := file.readline(MAX_LINE + 1):
            number, start = number + 1, offset
            offset += len(raw)
            if len(raw) > MAX_LINE:
                if not raw.endswith(b"\n"):
                    offset += _skip_line(file)
                what = f"the line is longer than {MAX_LINE // 2**20} MB"
                report(Problem(what, "split the row or drop it", file=name, line=number))
                continue
            if number == 1 and raw.startswith(_BOM):
                tolerated["byte-order mark"] += 1
                raw, start = raw.removeprefix(_BOM), len(_BOM)
            if raw.endswith(b"\r\n"):
                tolerated["lines that end with CRLF"] += 1
            if not raw.endswith(b"\n"):
                tolerated["last line without an end"] += 1
            content = raw.rstrip(b"\r\n")
            if not content.strip():
                tolerated["blank lines"] += 1
                continue
            record = _parse(_decoded(content, name, number, start), name, number, report)
            if record is not None:
                yield record


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    seen = sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            seen.update(block)
    return seen.hexdigest()


def other_format(head: bytes) -> tuple[str, str]:
    """Return what a file of rows is instead, and what to do, by its first bytes; empty texts where they do not say."""
    return next(((what, fix) for start, what, fix in _SIGNATURES if head.startswith(start)), ("", ""))


def _refuse_other_formats(file: BinaryIO, name: str) -> None:
    head = file.read(256)
    file.seek(0)
    what, fix = other_format(head)
    if what:
        raise DataError(Problem(f"{what}, not JSON lines in UTF-8 (byte offset 0)", fix, file=name))
    # Mostly ASCII text in UTF-16 without a byte-order mark has a zero in every other byte.
    if max(head[::2].count(0), head[1::2].count(0)) * 4 > len(head) > 1:
        what = f"not UTF-8: a zero byte at byte offset {head.index(0)}; probably UTF-16"
        raise DataError(Problem(what, "save it as UTF-8", file=name))
    body = head.removeprefix(_BOM).lstrip()
    if body.startswith(b"["):
        what = f"a JSON array, not one object on each line (byte offset {head.index(b'[')})"
        raise DataError(Problem(what, "write each item on a line of its own (jq -c '.[]')", file=name))
    if body.split(b"\n")[0].strip() == b"{" and len(body) > 1:
        what = "one JSON object over many lines, not one on each line"
        raise DataError(Problem(what, "write each row on a line of its own (jq -c .)", file=name))


def _skip_line(file: BinaryIO) -> int:
    skipped = 0
    while block := file.readline(2**20):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped


def _decoded(content: bytes, name: str, number: int, start: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        what = (
            f"not UTF-8: byte {content[error.start]:#04x} at byte offset {start + error.start}; "
            f"probably {_guess(content)}"
        )
        raise DataError(Problem(what, "save the file as UTF-8", file=name, line=number)) from None


def _guess(content: bytes) -> str:
    """The likeliest encoding: Western text may decode as Japanese or Chinese, but has no kana and no pairs."""
    content = content.rstrip()
    for encoding, name in _ENCODINGS:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "cp1252" or (
            _PAIRS.fullmatch(content) if encoding == "gb18030" else _KANA.search(text)
        ):
            return name
    return "no text at all"


class _TwiceError(ValueError):
    pass


class _NoNumberError(ValueError):
    pass


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(items)
    if len(record) < len(items):
        raise _TwiceError(Counter(key for key, _ in items).most_common(1)[0][0])
    return record


def _no_number(name: str) -> Any:
    raise _NoNumberError(name)


def _depth(record: dict[str, Any]) -> int:
    level: list[Any] = [record]
    depth = 0
    while level := [one for one in level if isinstance(one, (dict, list))]:
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


_TOO_DEEP = ("nested too deeply", "a row is an object of texts and short lists")
_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number).decode


def _parse(text: str, name: str, number: int, report: Callable[[Problem], None]) -> Line | None:
    field: str | None = None
    column: int | None = None
    try:
        record = _decode(text)
    except json.JSONDecodeError as error:
        what, fix, column = (
            f"malformed JSON: {error.msg}",
            "write one whole object on each line",
            error.pos + 1,
        )
    except _TwiceError as error:
        what, fix, field = "the key occurs twice", "keep one of them", str(error)
        column = text.rfind(json.dumps(field, ensure_ascii=False)) + 1 or None
    except _NoNumberError as error:
        what, fix = f"{error} is not a JSON number", "write a number, or drop the row"
        column = next((found.start(1) + 1 for found in _NO_NUMBER.finditer(text) if found[1]), None)
    except RecursionError:
        what, fix = _TOO_DEEP
    except ValueError as error:  # an integer of thousands of digits
        what, fix = str(error), "write it as a text"
    else:
        if not isinstance(record, dict):
            what, fix, column = "no JSON object", 'write {"prompt": ..., ...}', 1
        elif _depth(record) > MAX_DEPTH:
            what, fix = _TOO_DEEP
        else:
            return Line(number, text, record)
    report(Problem(what, fix, file=name, line=number, column=column, field=field))
    return None
