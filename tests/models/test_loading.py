"""Loading a base: the values of its files, quantised as the recipe says, or an error by name."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from alignbench.api.config import Sampling
from alignbench.errors import ModelError
from alignbench.models import load_base, load_classifier, loading
from alignbench.models.weights import quantization
from alignbench.models.weights.quantization import ERROR_LIMIT, dequantised
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence
from alignbench.store import Store

from .conftest import TEMPLATE, build_gpt2, build_model, build_tokenizer, disturb

STORY_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% if m.role == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

IDS = torch.tensor([[5, 9, 12, 7, 30, 2], [8, 8, 40, 6, 2, 33]])


def load(folder, **settings):
    resident = settings.pop("resident", None)
    return load_base(schema.Model(id=str(folder), **settings), resident=resident)


def quantised(base) -> dict:
    return dict(quantization.quantised_layers(base.model))


def relative(got, wanted) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, alignbench.models; assert 'torch' not in sys.modules; assert alignbench.models.__all__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
@pytest.mark.parametrize("resident", [True, False])
def test_the_network_computes_with_its_files_weights_quantised(folder, quantization, resident):
    base = load(folder, quantization=quantization, resident=resident)
    original = load_file(folder / "model.safetensors")
    assert bool(quantised(base)) == (quantization != "none" and not resident)
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
        layer = base.model.get_submodule(name)
        weight = dequantised(layer) if name in quantised(base) else layer.weight
        error = relative(weight, original[f"{name}.weight"])
        assert error == 0 if quantization == "none" else 0.001 < error < ERROR_LIMIT[quantization]
        rows = torch.ones(3, layer.in_features)
        with torch.no_grad():
            assert relative(layer(rows), rows @ weight.T) < 0.02
    kept = base.model.get_input_embeddings().weight
    assert torch.equal(kept, original["model.embed_tokens.weight"])
    assert not any(weight.requires_grad for weight in base.model.parameters())


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_values_kept_or_computed_anew_give_the_same_bits(folder, quantization):
    outputs, grads = [], []
    for resident in (True, False):
        base = load(folder, quantization=quantization, resident=resident)
        policy = base.add_adapter("policy", seed=0)
        disturb(policy)
        logits = base.logits(policy.hidden(IDS))
        logits.square().mean().backward()
        outputs.append(logits)
        grads.append([tensor.grad for tensor in policy.parameters()])
    assert torch.equal(*outputs)
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
@pytest.mark.parametrize("resident", [True, False])
def test_every_width_computes_with_the_right_values(tmp_path, quantization, resident):
    """160 columns is what the CPU kernel reads wrongly (error 0.25); 172 has no whole number of blocks."""
    folder = build_model(tmp_path, hidden_size=160, intermediate_size=172, num_attention_heads=5)
    base = load(folder, quantization=quantization, resident=resident)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "proj" not in name:
            continue
        layer = base.model.get_submodule(name.removesuffix(".weight"))
        with torch.no_grad():
            used = layer(torch.eye(tensor.shape[1])).T
        assert relative(used, tensor) < ERROR_LIMIT[quantization]


def test_a_layer_whose_values_are_wrong_is_refused_by_its_name(tmp_path, monkeypatch):
    from bitsandbytes import functional

    def as_the_kernel_reads_it(layer):
        return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)

    folder = build_model(tmp_path, hidden_size=160, intermediate_size=192, num_attention_heads=5)
    name = "model.layers.0.self_attn.q_proj"
    layer = quantised_only(folder)[name]
    if relative(as_the_kernel_reads_it(layer), dequantised(layer)) < 0.01:
        pytest.skip("this machine's bitsandbytes reads 160 columns right")
    monkeypatch.setattr(quantization, "dequantised", as_the_kernel_reads_it)
    with pytest.raises(ModelError, match=rf"{re.escape(name)}: the nf4 weights of shape \[160, 160\] differ"):
        load(folder)


def quantised_only(folder) -> dict:
    """The quantised layers as transformers loads them."""
    config = quantization.bitsandbytes_config("nf4", torch.float32)
    network = loading._load(
        "AutoModelForCausalLM", "tiny", folder, config, torch.float32, torch.device("cpu")
    )
    return dict(quantization.quantised_layers(network))


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("draw", ["uniform", "heavy-tailed", "sparse"])
def test_unusual_weights_are_not_mistaken_for_a_fault(tmp_path, draw, quantization):
    folder = build_model(tmp_path)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    for name, tensor in weights.items():
        if "proj" in name:
            weights[name] = {
                "uniform": tensor.clone().uniform_(-1, 1),
                "heavy-tailed": torch.distributions.StudentT(2.0).sample(tensor.shape),
                "sparse": tensor * (torch.rand_like(tensor) < 0.1),
            }[draw]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load(folder, quantization=quantization)


def test_a_transposed_layer_with_bias_is_quantised_right(tmp_path):
    folder = build_gpt2(tmp_path)
    plain, base = load(folder, quantization="none"), load(folder)
    name = "transformer.h.0.mlp.c_fc"
    assert relative(base.model.get_submodule(name).weight.T, plain.model.get_submodule(name).weight) < 0.12
    policy = base.add_adapter("policy", seed=0)
    assert len(policy.parameters()) == 2 * 4 * 2
    assert len(plain.add_adapter("policy", seed=0).parameters()) == 2 * 4 * 2


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no AVX512-BF16 arithmetic"
)
@pytest.mark.parametrize("resident", [True, False])
def test_in_bfloat16_an_evaluation_pass_leaves_the_gradients_as_they_were(folder, resident):
    base = load(folder, compute="bfloat16", resident=resident)
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)

    def gradient():
        for tensor in policy.parameters():
            tensor.grad = None
        with base.arithmetic():
            base.logits(policy.hidden(IDS)).square().mean().backward()
        return [tensor.grad.clone() for tensor in policy.parameters()]

    before = gradient()
    policy.logprobs([Sequence((5, 6), (7, 2))])
    policy.answer([Prompt(id="a", prompt=(), prompt_ids=(5, 9))], Sampling(max_new_tokens=3), 0)
    assert all(torch.equal(*pair) for pair in zip(before, gradient(), strict=True))
    assert {grad.dtype for grad in before} == {torch.float32}
    assert all(grad.abs().max() > 0 for grad in before)


@pytest.mark.parametrize(
    ("build", "quantization"), [(build_model, "nf4"), (build_model, "int8"), (build_gpt2, "nf4")]
)
def test_a_large_model_is_quantised_once_and_read_back_exactly(tmp_path, monkeypatch, build, quantization):
    from bitsandbytes.nn import modules

    model = schema.Model(id=str(build(tmp_path / "model")), quantization=quantization)
    fresh = load_base(model)
    monkeypatch.setattr(loading, "WORTH_KEEPING", 0)
    cache = Store(tmp_path / "store")
    first = load_base(model, cache=cache)
    monkeypatch.setattr(modules.Params4bit, "_quantize", None)
    monkeypatch.setattr(modules.Int8Params, "_quantize", None, raising=False)
    again = load_base(model, cache=cache)
    assert again.fingerprint == first.fingerprint == fresh.fingerprint
    with torch.no_grad():
        states = [base.hidden(IDS) for base in (fresh, first, again)]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[2])


def test_the_fingerprint_changes_with_every_input(folder, tmp_path):
    seen = {
        load(folder).fingerprint,
        load(folder, quantization="fp4").fingerprint,
        load(folder, compute="bfloat16").fingerprint,
        load(folder, chat_template=TEMPLATE.replace("<end> ", "<end>  ")).fingerprint,
        load(build_model(tmp_path / "other", seed=1)).fingerprint,
    }
    assert len(seen) == 5
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load(moved).fingerprint == load(folder, resident=False).fingerprint in seen


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load(broken)


def test_a_checkpoint_that_is_quantised_already_is_refused(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copied")
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )
    with pytest.raises(ModelError, match=r"quantised already \(gptq\)"):
        load(copied)


def test_a_damaged_weight_file_is_a_model_error(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="complete and undamaged"):
        load(broken)


def test_a_tokenizer_larger_than_the_model_is_refused(folder, tmp_path):
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    build_tokenizer(200).save_pretrained(wrong)
    with pytest.raises(ModelError, match="205 tokens, the model embeds 95"):
        load(wrong)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_labels=1, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_classifier_is_quantised_but_for_its_head(classifier):
    network, tokenizer = load_classifier(str(classifier))
    plain, _ = load_classifier(str(classifier), quantization="none")
    assert torch.equal(network.score.weight, plain.score.weight)
    name = "model.layers.0.mlp.up_proj"
    error = relative(network.get_submodule(name).weight, plain.get_submodule(name).weight)
    assert 0.05 < error < ERROR_LIMIT["nf4"]
    with torch.no_grad():
        scores = network(**tokenizer(["w1 w2", "w3"], return_tensors="pt", padding=True)).logits
    assert scores.shape == (2, 1)


def test_a_language_model_is_no_classifier_and_a_classifier_no_language_model(folder, classifier):
    with pytest.raises(ModelError, match=r"score\.weight"):
        load_classifier(str(folder))
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        load(classifier)


def test_a_real_checkpoint_of_odd_widths_loads_trains_and_answers(shared):
    base, plain = (
        load(shared / "models" / "stories260K", quantization=quantization, chat_template=STORY_TEMPLATE)
        for quantization in ("nf4", "none")
    )
    text = "Once upon a time, there was a little girl named Lily. She loved to play"
    story = tuple(base.tokenizer(text)["input_ids"])
    sequence = [Sequence(story[:4], story[4:])]
    losses = [-one.policy().logprobs(sequence)[0].logps.mean() for one in (base, plain)]
    assert losses[1] < 1.5
    assert abs(losses[0] - losses[1]) < 0.5
    policy = base.add_adapter("policy", seed=0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        logits = base.logits(policy.hidden(torch.tensor([story])))[0, :-1]
        torch.nn.functional.cross_entropy(logits, torch.tensor(story[1:])).backward()
        optimizer.step()
    assert -policy.logprobs(sequence)[0].logps.mean() < losses[0]
    (answer,) = base.policy().answer(
        [Prompt(id="a", prompt=(), prompt_ids=story)], Sampling(temperature=0, max_new_tokens=8), 0
    )
    assert answer.text.strip()


@pytest.mark.gpu
def test_on_a_gpu_the_4_bit_base_answers_scores_and_trains_as_its_dequantised_twin(folder):
    base = load(folder)
    assert base.dtype == torch.bfloat16
    assert quantised(base)
    dequantised = copy.deepcopy(base.model)
    for name, layer in quantised(base).items():
        dequantised.set_submodule(name, quantization._plain(layer, base.dtype))
    ids = IDS.to(base.device)
    with torch.no_grad():
        wanted = dequantised(input_ids=ids).logits.float()
        got = base.logits(base.hidden(ids))
    assert relative(got, wanted) < 0.02
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)
    with base.arithmetic():
        base.logits(policy.hidden(ids)).square().mean().backward()
    assert all(tensor.grad.abs().max() > 0 for tensor in policy.parameters())
    answers = policy.answer([Prompt(id="a", prompt=(), prompt_ids=(5, 9))], Sampling(max_new_tokens=3), 0)
    assert 1 <= len(answers[0].ids) <= 3
