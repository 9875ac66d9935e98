"""What a configuration tells of a model without its weights is what loading it finds.

`test_architectures` compares both for every architecture.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.errors import Exit, ModelError
from alignbench.models import child, load_base
from alignbench.models.skeleton import weights
from alignbench.recipe import schema
from alignbench.store import Store

from .architectures import build


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_so_they_are_with_other_quantisations_and_targets(quantization, tmp_path: Path):
    folder = build("qwen3_moe", tmp_path / "model")
    adapter = schema.Adapter(targets=["q_proj", "experts.down_proj"])
    model = schema.Model(id=str(folder), quantization=quantization, adapter=adapter)
    assert weights(folder, quantization, ["q_proj", "experts.down_proj"]) == load_base(model).weights


def test_another_process_says_it_and_the_store_keeps_it(folder: Path, tmp_path: Path, monkeypatch):
    model, kept = schema.Model(id=str(folder)), Store(tmp_path)
    loaded = load_base(model).weights
    assert child.weights(folder, model, kept) == {"weights": loaded.total, "shares": loaded.shares()}
    monkeypatch.setattr(child, "_ask", None)
    assert child.weights(folder, model, kept) == {"weights": loaded.total, "shares": loaded.shares()}


def test_a_store_that_cannot_be_written_costs_time_alone(folder: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    assert child.weights(folder, schema.Model(id=str(folder)), Store(tmp_path / "file"))["weights"]


def test_a_target_that_the_model_does_not_have_is_refused_in_the_words_of_a_run(folder: Path):
    wanted = schema.Model(id=str(folder), adapter=schema.Adapter(targets=["q_proj", "query_key_value"]))
    with pytest.raises(ModelError) as found:
        child.check_targets(folder, wanted)
    with pytest.raises(ModelError) as right:
        load_base(wanted)
    assert str(found.value) == str(right.value)
    assert "query_key_value: no layer of this name can have an adapter" in str(found.value)


def recipe(folder: Path, model: Path, targets: list[str]) -> Path:
    path = folder / "recipe.yaml"
    adapter = {"targets": targets}
    said = {
        "model": {"id": str(model), "adapter": adapter},
        "data": {"train": "sandbox"},
        "budget": {"steps": 1},
        "methods": {"sft": {}},
        "evaluation": {"metrics": ["length"]},
    }
    path.write_text(yaml.safe_dump(said))
    return path


def test_check_refuses_a_target_that_the_model_does_not_have(folder: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, folder, ["q_proj", "query_key_value"]))])
    assert done.exit_code == Exit.USAGE, done.output
    said = " ".join(done.stderr.split())
    assert "model.adapter.targets: query_key_value: no layer of this name can have an adapter" in said
    assert "name some of down_proj, gate_proj, k_proj" in said


def test_check_sees_the_targets_of_a_plain_model_without_another_process(
    folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(child, "_ask", None)
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, folder, ["q_proj", "mlp.up_proj"]))])
    assert done.exit_code == Exit.DONE, done.output


def test_check_asks_about_the_targets_of_a_mixture(tmp_path: Path):
    mixture = build("qwen3_moe", tmp_path / "model")
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, mixture, ["q_proj", "experts.down_proj"]))])
    assert done.exit_code == Exit.DONE, done.output
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, mixture, ["q_proj", "mlp.gate"]))])
    assert "mlp.gate: no layer of this name can have an adapter" in " ".join(done.stderr.split())


def test_what_cannot_be_built_is_not_told(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    assert child.weights(tmp_path, schema.Model(id=str(tmp_path)), Store(tmp_path)) == {}
