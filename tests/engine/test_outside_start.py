"""A policy that starts from an adapter of another run is held against that adapter, and not against base."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from alignbench import results
from alignbench.cli import app

COMMON = """
model: {id: sandbox}
data: {train: sandbox, limit: 32, max_length: 128}
training: {threads: 1, batch: 8}
evaluation: {prompts: 24, sampling: {max_new_tokens: 12}, metrics: [kl, capability]}
"""


def run(folder: Path, name: str, text: str) -> Path:
    recipe, out = folder / f"{name}.yaml", folder / name
    recipe.write_text(COMMON + text)
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_the_start_of_a_policy_may_lie_outside_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    far = run(tmp_path, "far", "budget: {steps: 4}\nmethods: {sft: {learning_rate: 3.0e-2}}\n")
    adapter = far / "cells" / "sft" / "seed-0" / "policy"
    near = (
        f"budget: {{steps: 1}}\nmethods: {{dpo: {{start: {{adapter: {adapter}}}, learning_rate: 1.0e-12}}}}\n"
    )
    found = results.read(run(tmp_path, "near", near)).label("dpo").metrics
    assert abs(found["kl.start"].value) < 1e-3, "it did not move from its start"
    assert found["kl.base"].value > 0.01, "which had moved from base"
    taxes = [name for name in found if name.endswith(".tax.start")]
    assert taxes
    assert all(found[name].missing == "its start was not measured" for name in taxes)
