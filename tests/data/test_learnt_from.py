"""Rows that teach a method nothing are refused by `check --data`, and before a run trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.errors import Exit
from alignbench.sandbox import rows as sandbox_rows


def write(folder: Path, methods: dict[str, Any], source: Any = None, **columns: Any) -> Path:
    """A recipe on rows of the sandbox with further columns."""
    rows = [
        {
            "prompt": row["prompt"][-1]["content"],
            "chosen": row["answers"][0],
            "rejected": row["answers"][1],
            **columns,
        }
        for row in sandbox_rows("train", 80)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": "./own.jsonl", "max_length": 128, **({} if source is None else {"source": source})}
    recipe = {
        "model": {"id": "sandbox"},
        "data": data,
        "budget": {"steps": 1},
        "methods": methods,
        "evaluation": {"prompts": 4},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def said(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    return done.exit_code, " ".join(done.output.split())


ODPO = {"sharp": {"method": "dpo", "loss": "odpo"}}
WITHOUT = [
    (ODPO, "methods.sharp: the loss 'odpo' reads from `preference` how much better an answer is"),
    (
        {"right": {"method": "grpo", "rewards": ["exact"]}},
        "methods.right: the reward 'exact' compares answers with the column 'answer', which no row has; "
        "name another: rewards: [{exact: {column: ...}}]; the rows have label",
    ),
    (
        {"right": {"method": "raft", "rewards": [{"exact": {"column": "result"}}]}},
        "methods.right: the reward 'exact' compares answers with the column 'result', which no row has",
    ),
]


@pytest.mark.parametrize(("methods", "sentence"), WITHOUT)
def test_what_cannot_be_learnt_from_is_refused_with_its_label(tmp_path, methods, sentence):
    recipe = write(tmp_path, methods, label="x")
    assert said("check", recipe)[0] == Exit.DONE, "it reads no row"
    code, output = said("check", recipe, "--data")
    assert (code, sentence in output) == (Exit.DATA, True)


def test_a_run_refuses_it_before_anything_is_trained(tmp_path):
    recipe = write(tmp_path, ODPO)
    code, output = said("run", recipe, "--out", tmp_path / "run")
    assert (code, WITHOUT[0][1] in output) == (Exit.DATA, True)
    assert not list((tmp_path / "run").rglob("adapter_model.safetensors"))


def test_a_label_that_does_not_run_is_not_asked(tmp_path):
    recipe = write(tmp_path, {"sft": {}, **ODPO})
    assert said("run", recipe, "--out", tmp_path / "run", "--only", "sft")[0] == Exit.DONE
    code, output = said("run", recipe, "--out", tmp_path / "run")
    assert (code, WITHOUT[0][1] in output) == (Exit.DATA, True), "also where the rows are prepared already"


@pytest.mark.parametrize(
    ("methods", "columns"),
    [
        (ODPO, {"preference": 0.7}),
        ({"right": {"method": "grpo", "rewards": [{"exact": {"column": "label"}}]}}, {"label": "yes"}),
        ({"plain": {"method": "dpo"}}, {}),
    ],
)
def test_rows_that_can_be_learnt_from_are_good(tmp_path, methods, columns):
    code, output = said("check", write(tmp_path, methods, **columns), "--data")
    assert (code, "is good" in output) == (Exit.DONE, True)


def test_comparisons_that_the_run_will_make_are_not_checked_before(tmp_path):
    code, output = said("check", write(tmp_path, ODPO, source={"policy": "base"}), "--data")
    assert (code, "is good" in output) == (Exit.DONE, True)
