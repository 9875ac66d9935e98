"""A model in the hub's cache is checked as a local folder is; one that is not there is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from alignbench.cli import app
from alignbench.errors import Exit
from alignbench.sandbox import MODEL

ID = "someone/small-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def snapshot(cache: Path) -> Path:
    """A model in the cache as the hub's client lays it out: links to files that are named by their digest."""
    return store(cache, ID, {path.name: path.read_bytes() for path in MODEL.iterdir() if path.is_file()})


def store(cache: Path, id: str, files: dict[str, bytes]) -> Path:
    repository = cache / f"models--{id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, (name, content) in enumerate(files.items()):
        (repository / "blobs" / f"{number:064x}").write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / f"{number:064x}")
    return snapshot


def check(folder: Path, *options: str, **changes) -> tuple[int, str]:
    recipe = {
        "model": {"id": ID},
        "data": {"train": "sandbox", "limit": 64, "max_length": 128},
        "budget": {"steps": 1},
        "methods": {"sft": {}},
        "evaluation": {"prompts": 4, "metrics": ["length"]},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = CliRunner().invoke(app, ["check", str(path), *options])
    return done.exit_code, " ".join(done.output.split())


def mend(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_good_model_passes_and_its_tokenizer_reads_the_rows(snapshot: Path, tmp_path: Path):
    code, output = check(tmp_path, "--data")
    assert code == Exit.DONE, output
    assert "rows were read" in output
    assert "not checked" not in output
    code, output = check(tmp_path, "--data", data={"train": "sandbox", "limit": 64, "max_length": 8})
    assert code == Exit.DATA
    assert "longer than max_length" in output


def test_its_faults_are_found_as_in_a_folder(snapshot: Path, tmp_path: Path):
    whole = (snapshot / "model.safetensors").read_bytes()
    mend(snapshot / "model.safetensors", whole[:-100])
    assert "shorter than its header says" in check(tmp_path)[1]
    mend(snapshot / "model.safetensors", whole)
    config = json.loads((snapshot / "config.json").read_text())
    mend(snapshot / "config.json", json.dumps({**config, "auto_map": {"AutoModel": "code.Mine"}}).encode())
    assert check(tmp_path)[0] == Exit.SECURITY
    mend(
        snapshot / "config.json",
        json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}).encode(),
    )
    assert f"{ID} is quantised already (gptq)" in check(tmp_path)[1]
    mend(snapshot / "config.json", json.dumps(config).encode())
    targets = {"id": ID, "adapter": {"targets": ["query_key_value"]}}
    assert "query_key_value: no layer of this name can have an adapter" in check(tmp_path, model=targets)[1]
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    code, output = check(tmp_path)
    assert code == Exit.SECURITY
    assert "rule safetensors-only" in output


def test_an_adapter_of_the_hub_is_checked_too(snapshot: Path, cache: Path, tmp_path: Path):
    config = json.dumps({"peft_type": "LORA", "use_dora": True}).encode()
    store(cache, "someone/adapter", {"adapter_config.json": config, "adapter_model.safetensors": b""})
    code, output = check(tmp_path, methods={"sft": {"start": {"adapter": "someone/adapter"}}})
    assert code == Exit.USAGE
    assert "only plain LoRA adapters can be loaded; this one has use_dora" in output


def test_offline_a_model_that_is_not_here_is_refused_in_one_sentence(cache: Path, tmp_path: Path):
    for command in ("check", "run"):
        code, _ = check(tmp_path)
        done = CliRunner().invoke(app, [command, str(tmp_path / "recipe.yaml")])
        assert code == done.exit_code == Exit.USAGE
        assert done.stderr == (
            f"error: {ID} is not on this machine, and the hub cannot be reached; run `hf download {ID}` where there is "
            "a network, or give a local folder\n"
        )


def test_with_a_network_it_is_named_as_not_checked(cache: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    code, output = check(tmp_path, "--data")
    assert code == Exit.DONE, output
    assert output.endswith(f"not checked, since a run would download it first: {ID}")


def test_with_a_network_judges_are_named_too(snapshot: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    judges = [{"reward-model": {"id": "someone/rewards"}}, {"language-model": {"id": "someone/judge"}}]
    evaluation = {"prompts": 4, "judges": judges, "metrics": ["length"]}
    code, output = check(
        tmp_path, evaluation=evaluation, methods={"rlaif": {"start": "base", "judge": judges[1]}}
    )
    assert code != Exit.DONE
    assert "learns from the judge 'language-model', which also evaluates" in output
    code, output = check(tmp_path, evaluation=evaluation)
    assert code == Exit.DONE, output
    assert output.endswith("a run would download it first: someone/rewards, someone/judge")
    learned = {"rlaif": {"start": "base", "judge": judges[1]}}
    code, output = check(tmp_path, methods=learned)
    assert output.endswith("a run would download it first: someone/judge")


def test_with_a_network_a_shard_that_is_not_here_yet_is_no_fault(snapshot: Path, tmp_path: Path, monkeypatch):
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}})
    (snapshot / "model.safetensors.index.json").write_text(index)
    assert "more.safetensors is missing" in check(tmp_path)[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert f"not checked, since a run would download it first: {ID}" in check(tmp_path)[1]


def test_another_revision_is_another_model(snapshot: Path, tmp_path: Path):
    code, output = check(tmp_path, model={"id": ID, "revision": "v2"})
    assert code == Exit.USAGE
    assert f"{ID} is not on this machine" in output
