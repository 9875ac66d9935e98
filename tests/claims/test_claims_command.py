"""The command `claims`, from a registry to the page, on runs as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from alignbench import layout, results
from alignbench.cli.claims import claims
from alignbench.commands.claims.registry import load
from alignbench.errors import RecipeError

RECIPE = """
model: {id: sandbox, quantization: none}
data: {train: sandbox, limit: 16, max_length: 128}
budget: {epochs: 1}
methods: {sft: {}}
evaluation: {prompts: 6, sampling: {temperature: 1.0, max_new_tokens: 6}, metrics: [length]}
seeds: [100, 101, 102]
"""
REGISTRY = """
procedure:
  first_seed: 100
  looks: [3, 4]
  error: 0.05
  most_diverged: 0.2
  replication: {seeds: [200, 201, 202], error: 0.05}
claims:
  C1:
    says: Sixteen rows change the length of an answer.
    source: nobody
    recipe: small.yaml
    parts: [{says: longer, metric: length.tokens, a: sft, b: base, sign: "+", d: 0.001}]
"""


def command(folder: Path, **options) -> int:
    with pytest.raises(typer.Exit) as end:
        claims(folder, folder / "runs", folder / "page.md", [], **{**OPTIONS, **options})
    return end.value.exit_code


OPTIONS = {"status": False, "replicate": False, "quick": False, "jobs": 2}


def test_a_registry_runs_look_by_look_to_its_page_and_is_then_closed(tmp_path: Path, capsys):
    (tmp_path / "registry.yaml").write_text(REGISTRY)
    (tmp_path / "small.yaml").write_text(RECIPE)
    assert command(tmp_path, status=True) == 0
    assert "cells to run in this look: 6" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists(), "to look costs nothing and registers nothing"
    assert command(tmp_path) == 0
    out = capsys.readouterr().out
    (registered,) = (tmp_path / "runs").glob(f"*/{layout.REGISTERED}")
    digest = load(tmp_path).digest
    assert json.loads(registered.read_text())["digest"] == digest
    runs = sorted(registered.parent.glob("small/plain/*-seeds"))
    assert [one.name for one in runs] == ["3-seeds", "4-seeds"], "three seeds of this decide nothing"
    assert "4-seeds: 2 cells to run, for C1" in out
    assert [len(results.read(one).cells) for one in runs] == [6, 8]
    assert {results.read(one).registry for one in runs} == {digest}
    assert digest in (runs[0] / "report.html").read_text()
    sealed = [one.read_bytes() for one in runs[0].glob("cells/*/seed-*/COMMIT")]
    taken = [one.read_bytes() for one in runs[1].glob("cells/*/seed-10[012]/COMMIT")]
    assert sorted(sealed) == sorted(taken)
    text = (tmp_path / "page.md").read_text()
    assert "| [C1](#c1) | Sixteen rows change the length of an answer. | undecided |" in text
    assert "undecided: needs" in text
    assert command(tmp_path) == 0, "nothing is left to run"
    (evidence,) = tmp_path.glob("evidence-*.json")
    assert json.loads(evidence.read_text())["digest"] == digest
    (tmp_path / "runs").rename(tmp_path / "away")
    (tmp_path / "page.md").rename(tmp_path / "before.md")
    capsys.readouterr()
    assert command(tmp_path) == 0, "the evidence is on record"
    assert "cells to run in this look: 0" in capsys.readouterr().out
    assert (tmp_path / "page.md").read_text() == (tmp_path / "before.md").read_text()
    (tmp_path / "registry.yaml").write_text(REGISTRY.replace('"+"', '"-"'))
    with pytest.raises(RecipeError, match="changed after its seeds began: C1"):
        claims(tmp_path, tmp_path / "runs", tmp_path / "page.md", [], **OPTIONS)


def test_a_quick_run_writes_a_page_of_its_own(tmp_path: Path, monkeypatch):
    (tmp_path / "registry.yaml").write_text(REGISTRY)
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit):
        claims(tmp_path, tmp_path / "runs", None, [], **{**OPTIONS, "status": True, "quick": True})
    assert (tmp_path / "runs" / "quick.md").exists()
    assert not (tmp_path / "docs").exists(), "the page of the registered seeds stays as it is"
