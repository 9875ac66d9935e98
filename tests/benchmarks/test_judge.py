"""The benchmark of the judge `self`: both arms run, on one pair of answers, and their labels are equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest

from alignbench.sandbox import FINGERPRINT


@pytest.mark.parametrize("more", [[], ["--rubric"]])
def test_the_judge_and_plain_forwards_give_the_same_labels(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    small = ["judge.py", "--prompts", "1", "--answers", "2", "--repeats", "1", *more]
    monkeypatch.setattr("sys.argv", small)
    script("judge.py").main()
    found = json.loads(capsys.readouterr().out)
    assert found["sandbox"] == FINGERPRINT
    assert found["largest_difference_of_labels"] < 1e-5
    assert found["tokens"]["judge"] < found["tokens"]["plain"]
