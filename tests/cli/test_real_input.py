"""Real data, end to end: a checkpoint nobody here made, human preferences, the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench import results

LABELS = ["base", "sft", "dpo", "orpo"]


@pytest.fixture(scope="module")
def run(shared: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke recipe, run by the command a person types."""
    home = tmp_path_factory.mktemp("hh-smoke")
    ran = smoke(root, home)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "report:" in ran.stdout
    return home / "run"


def smoke(root: Path, home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from alignbench.cli import app; app()", "run", "recipes/hh-smoke.yaml"]
    env = {**os.environ, "ALIGNBENCH_HOME": str(home / "store")}
    return subprocess.run(
        [*command, "--out", str(home / "run"), *more],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=env,
    )


@pytest.mark.slow
def test_every_label_trains_answers_and_is_measured(run: Path) -> None:
    found = results.read(run)
    assert [label.label for label in found.labels] == LABELS
    assert [cell.status for cell in found.cells] == ["done"] * 4
    for label in found.labels[1:]:
        curve = (run / "cells" / label.label / "seed-0" / "train.jsonl").read_text().splitlines()
        assert any("loss" in json.loads(line) for line in curve)
        assert label.metrics["kl.base"].value is not None
        assert label.cost.own.train_tokens


@pytest.mark.slow
def test_rows_that_do_not_fit_the_context_are_dropped_alike_and_counted(run: Path) -> None:
    data = json.loads((run / "results.json").read_text())["data"]
    assert data["kept"]
    assert any(data["dropped"].values())


@pytest.mark.slow
def test_the_run_leaves_a_report_and_the_same_command_runs_nothing_again(run: Path, root: Path) -> None:
    assert (run / "report.html").stat().st_size > 10_000
    logs = {path: path.stat().st_mtime_ns for path in run.rglob("log.txt")}
    before = (run / "cells/dpo/seed-0/train.jsonl").read_bytes()
    again = smoke(root, run.parent)
    assert again.returncode == 0
    assert again.stderr.count("already finished") == 4
    assert (run / "cells/dpo/seed-0/train.jsonl").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in run.rglob("log.txt")} == logs


@pytest.mark.slow
def test_another_recipe_is_never_written_over_a_run(run: Path, root: Path) -> None:
    record = (run / "results.json").read_bytes()
    other = smoke(root, run.parent, "--set", "seeds=[1]")
    assert other.returncode == 2
    assert "holds a run of another recipe" in other.stderr
    assert (run / "results.json").read_bytes() == record
