"""What was confirmed is on the disk, once, whatever is killed or torn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alignbench import layout
from alignbench.errors import StorageError
from alignbench.label import journal
from alignbench.label.journal import Annotation, Journal, TakenError, opened


def test_a_annotation_stands_in_the_file_before_append_returns(make_items, make_annotation, tmp_path: Path):
    (item,) = make_items(1)
    with opened(tmp_path) as one:
        one.append(make_annotation(item, "anna", (2, 1, 3, 4, 5)))
        assert [annotation.ranks for annotation in journal.read(tmp_path)] == [(2, 1, 3, 4, 5)]


def test_the_same_ticket_twice_is_one_annotation(make_items, make_annotation, tmp_path: Path):
    (item,) = make_items(1)
    annotation = make_annotation(item, "anna", (1, 2, 3, 4, 5))
    with opened(tmp_path) as one:
        assert one.append(annotation) == one.append(annotation)
    assert len((tmp_path / layout.JOURNAL).read_text().splitlines()) == 1


def test_a_second_annotation_on_an_item_needs_to_say_that_it_replaces(
    make_items, make_annotation, tmp_path: Path
):
    first, second = make_items(2)
    with opened(tmp_path) as one:
        one.append(make_annotation(first, "anna", (1, 2, 3, 4, 5)))
        one.append(make_annotation(second, "anna", (1, 2, 3, 4, 5)))
        changed = make_annotation(first, "anna", (5, 4, 3, 2, 1), again=1)
        with pytest.raises(TakenError, match="another tab"):
            one.append(changed)
        one.append(changed, replace=True)
    assert [annotation.ranks[0] for annotation in journal.read(tmp_path)] == [
        5,
        1,
    ]  # in the order of the first time
    assert len((tmp_path / layout.JOURNAL).read_text().splitlines()) == 3  # nothing is erased


def test_a_line_that_was_torn_at_any_byte_costs_nothing_before_it(
    make_items, make_annotation, tmp_path: Path
):
    first, second, third = make_items(3)
    with opened(tmp_path) as one:
        one.append(make_annotation(first, "anna", (1, 2, 3, 4, 5)))
        whole = (tmp_path / layout.JOURNAL).stat().st_size
        one.append(make_annotation(second, "anna", (1, 2, 3, 4, 5)))
    data = (tmp_path / layout.JOURNAL).read_bytes()
    for end in range(whole, len(data)):
        (tmp_path / layout.JOURNAL).write_bytes(data[:end])
        assert len(journal.read(tmp_path)) == 1
        with opened(tmp_path) as one:
            one.append(make_annotation(third, "anna", (1, 1, 1, 1, 1)))
        assert [annotation.item for annotation in journal.read(tmp_path)] == [first.id, third.id]


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(
    make_items, make_annotation, tmp_path: Path
):
    with opened(tmp_path) as one:
        for item in make_items(3):
            one.append(make_annotation(item, "anna", (1, 2, 3, 4, 5)))
    lines = (tmp_path / layout.JOURNAL).read_text().splitlines(keepends=True)
    (tmp_path / layout.JOURNAL).write_text("".join([lines[0], lines[1][:40] + "\n", lines[2]]))
    with pytest.raises(StorageError) as caught:
        journal.read(tmp_path)
    assert caught.value.problems[0].line == 2


def test_a_second_process_cannot_write_to_the_same_journal(tmp_path: Path):
    with opened(tmp_path), pytest.raises(StorageError, match="another process writes"):
        Journal(tmp_path)


def test_a_disk_that_is_full_leaves_the_journal_as_it_was(
    make_items, make_annotation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = make_items(2)
    with opened(tmp_path) as one:
        one.append(make_annotation(first, "anna", (1, 2, 3, 4, 5)))
        write = os.write

        def half(handle: int, data: bytes) -> int:
            if len(data) > 60:
                return write(handle, bytes(data)[:60])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", lambda handle, data: half(handle, data[:100]))
        with pytest.raises(StorageError, match="full"):
            one.append(make_annotation(second, "anna", (1, 2, 3, 4, 5)))
        monkeypatch.setattr(os, "write", write)
        one.append(make_annotation(second, "anna", (5, 4, 3, 2, 1)))
    assert [annotation.ranks[0] for annotation in journal.read(tmp_path)] == [1, 5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranks": (2, 3)},
        {"ranks": (1, 3)},
        {"ranks": (0, 1)},
        {"ranks": (1, 2), "scores": (1,)},
        {"ranks": (1, 2), "scores": (1, 8)},
        {"ranks": (1, 2), "shown": (0, 0)},
        {"ranks": (1, 2), "flags": ((),)},
        {"ranks": (1, 2), "seconds": float("nan")},
        {"ranks": (1, 2), "rater": ""},
    ],
)
def test_a_annotation_that_is_not_whole_is_refused(wrong: dict):
    with pytest.raises(ValueError, match="validation error"):
        Annotation(**{"ticket": "12345678", "rater": "anna", "item": "x", **wrong})
