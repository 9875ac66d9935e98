"""What is known of a model from its configuration, without weights, is what loading it finds.

`test_architectures` compares both for every architecture.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.errors import Exit, ModelError
from alignbench.models import load_base
from alignbench.models.weights import child
from alignbench.models.weights.skeleton import targets_in, weights
from alignbench.recipe import schema
from alignbench.store import Store

from .architectures import build
from .conftest import build_model


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
    found = {
        "model": {"id": str(model), "adapter": adapter},
        "data": {"train": "sandbox"},
        "budget": {"steps": 1},
        "methods": {"sft": {}},
        "evaluation": {"metrics": ["length"]},
    }
    path.write_text(yaml.safe_dump(found))
    return path


def test_check_refuses_a_target_that_the_model_does_not_have(folder: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, folder, ["q_proj", "query_key_value"]))])
    assert done.exit_code == Exit.USAGE, done.output
    found = " ".join(done.stderr.split())
    assert "model.adapter.targets: query_key_value: no layer of this name can have an adapter" in found
    assert "name some of down_proj, gate_proj, k_proj" in found


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


def test_dropout_on_stacked_experts_is_refused_by_check_as_by_a_run(tmp_path: Path):
    mixture = build("qwen3_moe", tmp_path / "model")
    path, dropout = recipe(tmp_path, mixture, ["q_proj", "experts.down_proj"]), "model.adapter.dropout=0.1"
    done = CliRunner().invoke(app, ["check", str(path), "--set", dropout])
    assert done.exit_code == Exit.USAGE
    said = "model.adapter.dropout: the experts of this model are stacked, and an adapter on them can have no dropout"
    assert said in " ".join(done.stderr.split())
    adapter = schema.Adapter(targets=["experts.down_proj"], dropout=0.1)
    with pytest.raises(ModelError, match=said):
        load_base(schema.Model(id=str(mixture), adapter=adapter, quantization="none"))


def test_a_name_that_would_reach_a_shared_expert_alone_is_refused(tmp_path: Path):
    mixture = build("qwen2_moe", tmp_path / "model")
    names = ["gate_proj", "up_proj", "down_proj"]
    with pytest.raises(
        ModelError, match=r"gate_proj is a layer of the shared expert alone.* name gate_up_proj too"
    ):
        targets_in(mixture, "none", names)
    found = targets_in(mixture, "none", [*names, "gate_up_proj"])
    assert len(found.experts) == 4
    assert targets_in(mixture, "none", ["shared_expert.gate_proj"]).layers == ("gate_proj",)


def test_a_plain_model_may_have_dropout_and_nobody_is_asked(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(child, "_ask", None)
    path = recipe(tmp_path, folder, ["q_proj"])
    done = CliRunner().invoke(app, ["check", str(path), "--set", "model.adapter.dropout=0.1"])
    assert done.exit_code == Exit.DONE, done.output


def test_a_question_without_an_answer_is_told_with_its_reason(folder: Path, tmp_path: Path):
    config = json.loads((folder / "config.json").read_text())
    config["num_attention_heads"] = 3  # 64 is not a multiple of 3
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "config.json").write_text(
        json.dumps({**config, "model_type": "qwen3_moe", "num_experts": "many"})
    )
    with pytest.raises(child.UnansweredError, match="Error"):
        child.weights(broken, schema.Model(id=str(broken)), Store(tmp_path / "store"))
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, broken, ["another"]))])
    assert "not checked: the layers of" in " ".join(done.output.split())
    done = CliRunner().invoke(
        app, ["plan", str(recipe(tmp_path, broken, ["another"])), "--out", str(tmp_path / "out")]
    )
    assert "The shares of the weights are not known" in " ".join(done.output.split())


def test_check_refuses_a_type_that_transformers_does_not_know(folder: Path, tmp_path: Path):
    unknown = shutil.copytree(folder, tmp_path / "unknown")
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    done = CliRunner().invoke(app, ["check", str(recipe(tmp_path, unknown, ["q_proj"]))])
    assert done.exit_code == Exit.USAGE
    assert "is of the type unheard-of, which transformers" in " ".join(done.stderr.split())
    with pytest.raises(ModelError, match="is of the type unheard-of, which transformers"):
        load_base(schema.Model(id=str(unknown)))


def test_check_refuses_a_start_with_another_vocabulary(folder: Path, tmp_path: Path):
    other = build_model(tmp_path / "other", words=80)
    path = recipe(tmp_path, folder, ["q_proj"])
    for start, code in ((folder, Exit.DONE), (other, Exit.USAGE)):
        methods = f"methods={{tuned: {{method: frozen, start: {{model: {start}}}}}}}"
        done = CliRunner().invoke(app, ["check", str(path), "--set", methods])
        assert done.exit_code == code, done.output
    assert "has another vocabulary than" in " ".join(done.stderr.split())
