"""No model brings code or pickles: each rule refuses its own kind by name."""

from __future__ import annotations

import json
import shutil

import pytest

from alignbench.errors import Exit, ModelError, SecurityError
from alignbench.models import load_base
from alignbench.models.weights.hub import obtain
from alignbench.recipe import schema


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


@pytest.fixture
def canary(tmp_path):
    """Code that leaves a file behind when it runs."""
    path = tmp_path / "canary"
    return path, f"import pathlib\npathlib.Path({str(path)!r}).touch()\nclass Model: pass\n"


def set_keys(folder, file="config.json", **keys):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def refused(folder, rule):
    with pytest.raises(SecurityError, match=rule) as caught:
        load_base(schema.Model(id=str(folder)))
    assert caught.value.exit_code == Exit.SECURITY == 7
    return str(caught.value)


def test_a_folder_with_pickled_weights_only_is_refused_unread(copy, canary):
    path, code = canary

    class Bomb:
        def __reduce__(self):
            return exec, (code,)

    import torch

    (copy / "model.safetensors").unlink()
    torch.save({"weight": Bomb()}, copy / "pytorch_model.bin")
    assert "pytorch_model.bin" in refused(copy, "safetensors-only")
    assert not path.exists()


def test_a_pickle_beside_safetensors_is_never_read(copy, canary):
    path, _ = canary
    (copy / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_base(schema.Model(id=str(copy)))
    assert not path.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_its_own_code_is_refused_and_its_code_not_run(copy, canary, file):
    path, code = canary
    (copy / "modeling_evil.py").write_text(code)
    entries = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "modeling_evil.Model")
    set_keys(copy, file, auto_map=entries)
    refused(copy, "no-remote-code")
    assert not path.exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation_internal": "evil/kernels"},
        {"attn_implementation": "evil/kernels:run"},
        {"_experts_implementation": "evil/kernels"},
        {"text_config": {"_attn_implementation": "kernels-community/flash"}},
        {"attn_implementation": {"text_config": "evil/kernels"}},
    ],
)
def test_a_configuration_that_names_foreign_kernels_is_refused(copy, keys):
    set_keys(copy, **keys)
    refused(copy, "no-remote-code")


def test_the_implementations_of_transformers_are_allowed(copy):
    set_keys(copy, _attn_implementation="sdpa")
    load_base(schema.Model(id=str(copy)))


def test_a_link_that_leaves_the_folder_is_refused(copy, tmp_path):
    (tmp_path / "elsewhere.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    assert "model.safetensors" in refused(copy, "stay-in-folder")


@pytest.mark.parametrize(
    "shard", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors"]
)
def test_a_shard_index_that_leaves_the_folder_is_refused(copy, shard):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    refused(copy, "stay-in-folder")


def test_a_shard_index_that_names_a_pickle_is_refused(copy):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "weights.bin"}}))
    refused(copy, "safetensors-only")


def test_a_chat_template_cannot_reach_python(copy, canary):
    path, _ = canary
    template = (
        "{{ cycler.__init__.__globals__.os.system('touch " + str(path) + "') }}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    (copy / "chat_template.jinja").write_text(template)
    set_keys(copy, "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelError, match="SecurityError"):
        load_base(schema.Model(id=str(copy)))
    assert not path.exists()


def test_every_broken_rule_is_named_at_once(copy, tmp_path):
    (copy / "out").symlink_to(tmp_path)
    set_keys(copy, auto_map={"AutoConfig": "x.Y"}, _attn_implementation_internal="a/b")
    found = refused(copy, "stay-in-folder")
    assert found.count("no-remote-code") == 2


def test_a_hub_snapshot_may_link_into_its_own_cache_and_no_further(copy, tmp_path):
    from alignbench.safety import inspect

    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0"
    snapshot.parent.mkdir()
    shutil.copytree(copy, snapshot)
    (snapshot / "model.safetensors").rename(repository / "blobs" / "aa")
    (snapshot / "model.safetensors").symlink_to("../../blobs/aa")
    inspect(snapshot, inside=repository)
    with pytest.raises(SecurityError, match="stay-in-folder"):
        inspect(snapshot)


def test_broken_json_is_named_with_its_file(copy):
    (copy / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json: not readable as JSON"):
        load_base(schema.Model(id=str(copy)))


def test_a_folder_without_weights_says_so(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_base(schema.Model(id=str(copy)))


@pytest.mark.parametrize("id", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_is_named(id):
    with pytest.raises(ModelError, match="no model folder"):
        obtain(id)


def test_a_hub_model_that_is_not_here_offline_says_what_to_do():
    with pytest.raises(
        ModelError, match=r"nobody/nothing is not on this machine.*hf download nobody/nothing"
    ):
        obtain("nobody/nothing")


def test_an_impossible_hub_id_is_a_model_error():
    with pytest.raises(ModelError, match="check the id"):
        obtain("no spaces allowed")
