"""The benchmark of the two ways to compute token trees: they compute the same positions, and give the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest


def test_both_ways_compute_the_same_positions_and_probabilities(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["token_trees.py", "--prompts", "2", "--answers", "3", "--rounds", "1"])
    script("token_trees.py").main()
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 12
    assert found["largest_difference"] < 1e-5
    assert len(set(found["positions"].values())) == 1
