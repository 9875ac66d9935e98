"""The page about reliability names tests that exist, all promises and all faults."""

from __future__ import annotations

import re
from pathlib import Path

from alignbench.testing import MethodSuite


def test_every_test_that_backs_a_promise_exists(root: Path):
    page = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (root / file).read_text(encoding="utf-8"), f"{file}::{test}"
    for law in re.findall(r"`MethodSuite\.(test_\w+)`", page):
        assert hasattr(MethodSuite, law)


def test_no_promise_and_no_fault_is_left_out(root: Path):
    page = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| (\d+) \|", page) == [str(number) for number in range(1, 24)]
    assert re.findall(r"(?m)^\| F(\d+) \|", page) == [f"{number:02}" for number in range(1, 46)]
