"""LoRA layers compute what peft's own do, forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from alignbench.models.forward import lora_forward


def adapted(*, bias: bool, dropout: float = 0.0) -> Any:
    """A linear layer under one LoRA adapter that is not zero."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20, bias=bias, dtype=torch.float64)).requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0"], lora_dropout=dropout)
    layer: Any = inject_adapter_in_model(config, model, adapter_name="one")[0]  # pyright: ignore[reportIndexIssue]
    for weight in (layer.lora_A.one.weight, layer.lora_B.one.weight):
        weight.data = torch.randn(weight.shape, dtype=torch.float64)
    return layer


def installed(layer: Any) -> Any:
    ours = copy.deepcopy(layer)
    lora_forward.install(ours)
    assert "forward" in vars(ours)
    return ours


def results(layer: Any, x: Tensor) -> list[Tensor]:
    """The output of a layer, and the gradients of its input and of both factors."""
    x = x.clone().requires_grad_()
    out = layer(x)
    down, up = layer.lora_A.one.weight, layer.lora_B.one.weight
    return [
        out,
        *torch.autograd.grad((out * torch.arange(out.numel()).view(out.shape).cos()).sum(), [x, down, up]),
    ]


@pytest.mark.parametrize("bias", [False, True])
def test_output_and_gradients_equal_pefts(bias: bool):
    layer, x = adapted(bias=bias), torch.randn(3, 5, 12, dtype=torch.float64)
    for ours, theirs in zip(results(installed(layer), x), results(layer, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_the_slope_of_the_output():
    layer = installed(adapted(bias=True))
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    base = layer.get_base_layer()
    down, up = layer.lora_A.one.weight, layer.lora_B.one.weight
    assert torch.autograd.gradcheck(
        lambda x, down, up: lora_forward._Adapted.apply(x, base, down, up, 3.0), (x, down, up)
    )


def test_an_input_without_gradient_gets_none():
    layer = installed(adapted(bias=False))
    out = layer(torch.randn(4, 12, dtype=torch.float64))
    out.sum().backward()
    assert layer.lora_A.one.weight.grad is not None
    assert layer.get_base_layer().weight.grad is None


def test_a_switched_off_adapter_leaves_the_base_alone():
    layer, x = installed(adapted(bias=True)), torch.randn(4, 12, dtype=torch.float64)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.get_base_layer()(x))


def test_dropout_that_is_on_is_drawn():
    layer, x = installed(adapted(bias=False, dropout=0.5)), torch.randn(64, 12, dtype=torch.float64)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_activations_of_another_type_than_the_weights_are_left_to_peft():
    layer = adapted(bias=False).to(torch.bfloat16)
    layer.lora_A.float(), layer.lora_B.float()
    ours, x = installed(layer), torch.randn(4, 12, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), layer(x))
