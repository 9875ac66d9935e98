"""What is in the files of a judge, and whose prompts it can read, is known before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.errors import DataError, Exit
from alignbench.sandbox import MODEL
from alignbench.sandbox import rows as sandbox_rows

from .test_reward_model import build

RECIPE = {
    "model": {"id": "sandbox"},
    "data": {"train": "sandbox", "limit": 64, "max_length": 128},
    "budget": {"steps": 1},
    "methods": {"sft": {}},
    "evaluation": {"prompts": 4, "judges": [{"reward-model": {"id": "./rm"}}], "metrics": ["reward"]},
}


def write(folder: Path, **changes) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def check(recipe: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", str(recipe), *options])
    return done.exit_code, " ".join(done.output.split())


def mended(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def remote(folder: Path) -> None:
    mended(folder, auto_map={"AutoModel": "modeling.Mine"})


def quantised(folder: Path) -> None:
    mended(folder, quantization_config={"quant_method": "gptq"})


FAULTS = {
    "rule safetensors-only": pickled,
    "weights that are not finite: score.weight": with_nan,
    "shorter than its header says": cut,
    "rule no-remote-code": remote,
    "is quantised already (gptq)": quantised,
}


def test_a_good_reward_model_passes(tmp_path: Path):
    build(tmp_path / "rm")
    assert check(write(tmp_path))[0] == Exit.DONE


@pytest.mark.parametrize("message", FAULTS)
def test_a_reward_model_is_checked_as_a_base_is(tmp_path: Path, message: str):
    FAULTS[message](build(tmp_path / "rm"))
    code, output = check(write(tmp_path))
    assert code != Exit.DONE
    assert message in output


@pytest.mark.parametrize("labels", [2, 3])
def test_a_reward_model_with_other_than_one_output_is_refused(tmp_path: Path, labels: int):
    build(tmp_path / "rm", labels=labels)
    code, output = check(write(tmp_path))
    assert code != Exit.DONE
    assert f"./rm has {labels} classes; a reward model has one output" in output


def test_a_language_model_is_no_reward_model_and_a_reward_model_no_start(tmp_path: Path):
    shutil.copytree(MODEL, tmp_path / "rm")
    code, output = check(write(tmp_path))
    assert code != Exit.DONE
    assert "has no head of a classifier" in output
    build(tmp_path / "classifier")
    evaluation = {"prompts": 4, "judges": ["gold"]}
    start = write(tmp_path, evaluation=evaluation, methods={"sft": {"start": {"model": "./classifier"}}})
    code, output = check(start)
    assert code != Exit.DONE
    assert "./classifier is a LlamaForSequenceClassification, and has no head of a language model" in output


def test_a_judge_that_a_method_learns_from_is_checked_too(tmp_path: Path):
    build(tmp_path / "rm", labels=2)
    evaluation = {"prompts": 4, "judges": ["gold"]}
    methods = {"grpo": {"start": "base", "judge": {"reward-model": {"id": "./rm"}}}}
    code, output = check(write(tmp_path, evaluation=evaluation, methods=methods))
    assert code != Exit.DONE
    assert "./rm has 2 classes" in output


def test_a_run_refuses_a_judge_before_it_trains(tmp_path: Path):
    build(tmp_path / "rm", labels=2)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(write(tmp_path)), "--out", str(out), "--quiet"])
    assert "has 2 classes" in " ".join(done.output.split())
    assert not out.exists()


def test_a_classifier_without_the_class_toxic_is_refused(tmp_path: Path):
    build(tmp_path / "classifier", labels=2)
    judges = [{"toxicity": {"classifier": "./classifier"}}]
    code, output = check(write(tmp_path, evaluation={"prompts": 4, "judges": judges}))
    assert code != Exit.DONE
    assert "it has no class 'toxic'" in output


@pytest.mark.parametrize("template", ["nosuchname", "missing.jinja", "{% if %}"])
def test_a_chat_template_of_a_judge_that_cannot_be_used_is_told_as_its_own(tmp_path: Path, template: str):
    judges = [{"language-model": {"id": "sandbox", "chat_template": template}}]
    code, output = check(write(tmp_path, evaluation={"prompts": 4, "judges": judges, "metrics": ["reward"]}))
    assert code != Exit.DONE
    assert "language-model.chat_template: " in output
    assert " model.chat_template" not in output, "that is the base's"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Questions of the sandbox with their words in the wrong order: its tokenizer knows them, gold does not."""
    rows = [
        {
            "prompt": " ".join(reversed(row["prompt"][-1]["content"].split())),
            "chosen": "yes .",
            "rejected": "no .",
        }
        for row in sandbox_rows("train", 80)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": "./own.jsonl", "max_length": 128}
    return write(tmp_path, data=data, evaluation={"prompts": 4, "judges": ["gold"], "metrics": ["reward"]})


def test_gold_refuses_foreign_prompts_in_check(foreign: Path):
    code, output = check(foreign, "--data")
    assert code != Exit.DONE
    assert "the gold judge reads only the sandbox's own prompts, not '" in output


def test_gold_refuses_foreign_prompts_before_anything_is_trained(foreign: Path, tmp_path: Path):
    from alignbench.data.prepare import prepare
    from alignbench.recipe.load import load

    loaded = load(foreign, ["data.allowed_drop=1.0"])
    with pytest.raises(DataError, match="the gold judge reads only the sandbox's own prompts"):
        prepare(loaded.recipe, tmp_path / "table", root=tmp_path)


def test_the_files_of_metrics_are_checked_as_those_of_judges(tmp_path: Path):
    build(tmp_path / "classifier", labels=2)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": {"text": "he is a"}}) + "\n")

    def checked(**fields) -> str:
        fields = {"prompts": "./prompts.jsonl", **fields}
        evaluation = {"prompts": 4, "judges": ["gold"], "metrics": ["length", {"toxicity": fields}]}
        return check(write(tmp_path, evaluation=evaluation))[1]

    assert "is good" in checked()
    assert "it has no class 'toxic'" in checked(classifier="./classifier")
    assert "there is no model folder" in checked(classifier="unitary/toxic-bert")
    pickled(tmp_path / "classifier")
    assert "rule safetensors-only" in checked(classifier="./classifier")
    prompts.write_text("{}\n")
    assert "evaluation.metrics.toxicity.prompts" in checked()


@pytest.mark.parametrize(
    ("metric", "field"),
    [("choice_entropy", "crows_pairs"), ("harness", "gsm8k"), ("ifeval", "prompts"), ("refusal", "xstest")],
)
def test_a_metric_s_file_that_cannot_be_read_is_told_by_check(tmp_path: Path, metric: str, field: str):
    (tmp_path / "own").write_text("no rows\n")
    evaluation = {"prompts": 4, "judges": ["gold"], "metrics": [{metric: {field: "./own"}}]}
    code, output = check(write(tmp_path, evaluation=evaluation))
    assert code == Exit.DATA
    assert f"evaluation.metrics.{metric}.{field}" in output
