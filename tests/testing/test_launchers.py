"""The launcher that comes with alignbench keeps the laws of launchers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignbench.api.launcher import Finished, Task
from alignbench.errors import DataError
from alignbench.launchers.local import Local
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.testing import LauncherSuite
from alignbench.testing.launchers import NEEDS


class TestLocal(LauncherSuite):
    launcher = "local"


def test_a_child_says_in_plain_values_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An exception would be a pickle, and to read it could import the plugin that raised it."""
    came: list[Any] = []
    read = Finished.from_plain
    monkeypatch.setattr(Finished, "from_plain", lambda values: came.append(values) or read(values))
    (tmp_path / "rows.jsonl").write_text("no row\n")
    fields = {"model": {"id": "sandbox"}, "data": {"train": "./rows.jsonl"}, "methods": {"sft": {}}}
    plan = resolve(Recipe.model_validate(fields))
    task = Task(
        "prepare", tmp_path, tmp_path, plan.model_dump_json(), tmp_path / "home", tmp_path / "log.txt", 1
    )
    with Local() as launcher:
        launcher.start("data", task, NEEDS)
        ended: dict[str, Finished] = {}
        while not ended:
            ended = launcher.wait(lambda name, event: None, 60)
    assert isinstance(ended["data"].error, DataError)
    (values,) = came
    assert values["error"] == "DataError"
    assert {type(one) for problem in values["problems"] for one in problem.values()} <= {str, int, type(None)}
