"""Adapters: added, saved, read back, copied, and the base untouched."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from alignbench.api.config import Sampling
from alignbench.errors import ModelError, SecurityError
from alignbench.models import load_base
from alignbench.recipe import schema
from alignbench.rows import Prompt, Sequence

from .architectures import build
from .conftest import disturb

IDS = torch.tensor([[5, 9, 12, 7, 30, 2], [8, 8, 40, 6, 2, 0]])
TALKS = [Sequence((5, 9, 12), (7, 30, 2)), Sequence((8, 8), (40, 6, 2))]


def loss_of(policy, target: int) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        policy.base.logits(policy.hidden(IDS)[:, -1]), torch.full((len(IDS),), target)
    )


def gradients(policy) -> dict[str, torch.Tensor]:
    return {name: tensor.grad.clone() for name, tensor in policy.tensors().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-5) -> bool:
    largest = max(tensor.abs().max() for tensor in other.values())
    return one.keys() == other.keys() and all(
        torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance * largest) for name in one
    )


def logps(policy) -> list[list[float]]:
    return [scores.logps.tolist() for scores in policy.logprobs(TALKS)]


def fresh(folder):
    return load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))


def test_a_new_adapter_computes_what_the_base_computes(base):
    assert logps(base.add_adapter("new", seed=0)) == logps(base.policy())


def test_equal_seeds_give_equal_adapters_whatever_was_added_before(base, folder):
    base.add_adapter("first", seed=7)
    one, other = base.add_adapter("one", seed=3), fresh(folder).add_adapter("other", seed=3)
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != base.add_adapter("third", seed=4).fingerprint()


def test_adding_an_adapter_leaves_the_global_random_state_alone(base):
    before = torch.random.get_rng_state()
    base.add_adapter("new", seed=0)
    state = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    assert torch.equal(before, state)


def test_an_adapter_like_another_equals_it_and_then_goes_its_own_way(base):
    start = base.add_adapter("start", seed=0)
    disturb(start)
    policy = base.add_adapter("policy", seed=1, like=start)
    assert logps(policy) == logps(start) != logps(base.policy())
    found = logps(start)
    disturb(policy, seed=2)
    assert logps(start) == found != logps(policy)


def test_adapter_weights_are_float32_and_the_head_has_none(base):
    policy = base.add_adapter("new", seed=0)
    assert {tensor.dtype for tensor in policy.parameters()} == {torch.float32}
    assert len(policy.parameters()) == 2 * 7 * base.model.config.num_hidden_layers
    assert not any("lm_head" in name or "embed" in name for name in policy.tensors())


def test_only_trainable_adapters_have_parameters(base):
    frozen = base.add_adapter("frozen", seed=0, trainable=False)
    trained = base.add_adapter("trained", seed=1)
    assert frozen.parameters() == [] == base.policy().parameters()
    with base.using(frozen), base.using(base.policy()):
        pass
    assert all(tensor.requires_grad for tensor in trained.parameters())
    assert len(trained.parameters()) == len(frozen.tensors())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backward", ["joint", "apart"])
def test_two_adapters_on_one_base_get_the_gradients_of_two_models(folder, checkpointing, backward):
    def build(*names):
        base = fresh(folder)
        policies = [base.add_adapter(name, seed=0) for name in names]
        for policy in policies:
            disturb(policy, seed=len(policy.name))
        base.checkpointing(checkpointing)
        base.model.train()
        return policies

    policy, value = build("policy", "value!")
    # The trap: the second adapter is active before the first one's backward pass.
    losses = loss_of(policy, 11), loss_of(value, 23)
    if backward == "joint":
        (losses[0] + losses[1]).backward()
    else:
        for loss in losses:
            loss.backward()
    for shared, target in ((policy, 11), (value, 23)):
        (alone,) = build(shared.name)
        loss_of(alone, target).backward()
        own = {name.replace(alone.adapter, ""): grad for name, grad in gradients(alone).items()}
        assert any(grad.abs().max() > 0 for grad in own.values())
        assert same(gradients(shared), own)


def test_checkpointing_does_recompute(base):
    policy = base.add_adapter("policy", seed=0)
    calls = []
    base.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    base.model.train()
    base.checkpointing(True)
    loss_of(policy, 11).backward()
    base.checkpointing(False)
    loss_of(policy, 11).backward()
    assert len(calls) == 2 + 1


@pytest.mark.parametrize("resident", [True, False])
def test_gradients_after_an_evaluation_pass_are_those_before_it_and_of_the_dequantised_model(
    folder, resident
):
    from alignbench.models.weights.quantization import dequantised

    base = load_base(schema.Model(id=str(folder)), resident=resident)
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)

    def gradient(policy):
        for tensor in policy.parameters():
            tensor.grad = None
        policy.base.model.train()
        loss_of(policy, 11).backward()
        return gradients(policy)

    before = gradient(policy)
    policy.logprobs(TALKS)
    policy.answer([Prompt(id="a", prompt=(), prompt_ids=(5, 9))], Sampling(max_new_tokens=3), 0)
    after = gradient(policy)
    assert all(torch.equal(before[name], after[name]) for name in before)

    quantised = load_base(schema.Model(id=str(folder)), resident=False)
    plain = load_base(schema.Model(id=str(folder), quantization="none"))
    for name, module in quantised.model.named_modules():
        if hasattr(module, "quant_state"):
            plain.model.get_submodule(name).weight.data = dequantised(module)
    other = plain.add_adapter("policy", seed=0)
    disturb(other)
    assert same(before, gradient(other))


def test_the_adapter_outside_a_block_is_active_again_after_it(base):
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)
    with base.using(policy):
        inside = base.hidden(IDS)
        with base.using(base.policy()):
            assert not torch.equal(base.hidden(IDS), inside)
        with pytest.raises(IndexError), base.using(base.policy()):
            base.hidden(IDS + 1000)
        assert torch.equal(base.hidden(IDS), inside)
    assert torch.equal(base.hidden(IDS), base.policy().hidden(IDS))


def test_a_saved_adapter_is_read_back_exactly_here_and_by_peft(base, folder, tmp_path):
    from peft import PeftModel

    policy = base.add_adapter("q_proj", seed=0)  # peft alone would lose tensors whose names hold this name
    disturb(policy)
    policy.save(tmp_path)
    assert logps(fresh(folder).load_adapter(tmp_path, "again")) == logps(policy)
    plain = PeftModel.from_pretrained(fresh(folder).model, tmp_path).eval()
    with torch.no_grad():
        theirs = plain(input_ids=IDS).logits
        ours = base.logits(policy.hidden(IDS))
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_an_adapter_of_peft_with_another_rank_and_other_targets_is_read(base, folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(fresh(folder).model, LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"]))
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    model.save_pretrained(tmp_path)
    policy = base.load_adapter(tmp_path, "theirs", trainable=True)
    with torch.no_grad():
        assert torch.allclose(base.logits(policy.hidden(IDS)), model.eval()(input_ids=IDS).logits, atol=1e-5)
    like = base.add_adapter("like", seed=0, like=policy)
    assert logps(like) == logps(policy)
    assert {tuple(t.shape) for t in like.parameters()} == {(3, 64), (64, 3)}


def check_layers(policy):
    """Hold the layers of an adapter against peft's, and what is written to them against the adapter's weights."""
    theirs = {
        f"base_model.model.{name}": layer
        for name, layer in policy.base.model.named_modules()
        if policy.adapter in getattr(layer, "lora_A", ())
    }
    layers = policy.layers()
    assert layers.keys() == theirs.keys()
    assert {f"{name}.lora_{one}.weight" for name in layers for one in "AB"} == policy.tensors().keys()
    for name, layer in theirs.items():
        one, told = layers[name], layer.get_delta_weight(policy.adapter)
        added = one.scale * one.up @ one.down
        if len(added) > 1 and not layer._did_swap_in_out_features:
            added = added.mT
        assert torch.allclose(added.view(told.shape), told, atol=1e-6), name
    with torch.no_grad():
        for one in layers.values():
            one.up.fill_(2.0)
            one.down.fill_(3.0)
    assert {tensor.unique().item() for name, tensor in policy.tensors().items() if "lora_A" in name} == {3.0}
    assert {tensor.unique().item() for name, tensor in policy.tensors().items() if "lora_B" in name} == {2.0}


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_the_layers_of_experts_are_those_of_peft(name, tmp_path):
    base = load_base(schema.Model(id=str(build(name, tmp_path)), quantization="none"))
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)
    assert {len(one.down) for one in policy.layers().values()} == {1, 4}
    check_layers(policy)


def test_the_layers_of_an_adapter_are_those_of_peft_whatever_its_scale_is(base, tmp_path):
    assert base.policy().layers() == {}
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)
    policy.save(tmp_path)
    check_layers(policy)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    other = {"use_rslora": True, "alpha_pattern": {"q_proj": 3}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | other))
    scaled = base.load_adapter(tmp_path, "scaled")
    assert {one.scale for one in scaled.layers().values()} == {3 / 2, 8 / 2}
    check_layers(scaled)


def test_an_adapter_whose_tensors_do_not_all_fit_is_refused(base, tmp_path):
    from safetensors.torch import load_file, save_file

    base.add_adapter("policy", seed=0).save(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"1 tensors differ, first base_model\.model\.model\.layers\.0"):
        base.load_adapter(tmp_path, "broken")
    assert len(base.peft.peft_config) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias all"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_name(base, tmp_path, change, message):
    base.add_adapter("policy", seed=0).save(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        base.load_adapter(tmp_path, "other")


def test_an_adapter_in_a_pickle_is_refused(base, tmp_path):
    base.add_adapter("policy", seed=0).save(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(SecurityError, match="safetensors-only"):
        base.load_adapter(tmp_path, "other")


def test_a_target_that_the_model_does_not_have_is_an_error(folder):
    model = schema.Model(id=str(folder), adapter=schema.Adapter(targets=["c_attn"]))
    with pytest.raises(ModelError, match="c_attn"):
        load_base(model).add_adapter("policy", seed=0)


def test_a_policy_of_another_model_cannot_be_a_start(base, folder):
    with pytest.raises(ModelError, match="another model"):
        base.add_adapter("policy", seed=0, like=fresh(folder).policy())


def test_dropping_a_policy_frees_it_and_leaves_the_others(base):
    kept, gone = base.add_adapter("kept", seed=0), base.add_adapter("gone", seed=1)
    disturb(kept)
    found = logps(kept)
    with pytest.raises(ValueError, match="in use"), base.using(gone):
        base.drop(gone)
    base.drop(gone)
    assert logps(kept) == found
    assert sum(".lora_" in name for name, _ in base.model.named_parameters()) == len(kept.tensors())
    base.drop(kept)
    assert logps(base.add_adapter("next", seed=0)) == logps(base.policy())


def test_training_adapters_never_changes_the_base(base):
    untouched, found = base.checksum(), logps(base.policy())
    policy = base.add_adapter("policy", seed=0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(policy, 11)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert base.checksum() == untouched
    assert logps(base.policy()) == found
    with torch.no_grad():
        base.model.model.layers[1].mlp.up_proj.base_layer.weight.view(-1)[5] += 0.5
    assert base.checksum() != untouched


def test_a_policys_fingerprint_is_that_of_its_weights_not_of_its_name(base):
    one, other = base.add_adapter("one", seed=0), base.add_adapter("other", seed=0)
    assert one.fingerprint() == other.fingerprint() != base.policy().fingerprint()
    disturb(other)
    assert one.fingerprint() != other.fingerprint()
