"""`compute: auto`: float32 or bfloat16 by trying, and what both compute."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

from alignbench.models import arithmetic, load_base
from alignbench.models.weights import child
from alignbench.recipe import schema
from alignbench.rows import Sequence
from alignbench.training.step import GradientStep

from .conftest import disturb

SMOLLM2 = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536}


def test_bfloat16_is_taken_where_it_is_at_least_twice_as_fast():
    assert [arithmetic.chosen(gain) for gain in (0.5, 1.9, 2.0, 8.8)] == [
        *("float32", "float32", "bfloat16", "bfloat16")
    ]


def test_a_process_of_its_own_tries_the_products_of_this_machine():
    assert arithmetic.gain() > 0
    assert child.compute() in ("float32", "bfloat16")


def test_a_model_of_a_few_million_weights_is_computed_in_float32(folder, monkeypatch):
    assert arithmetic.is_small(json.loads((folder / "config.json").read_text()))
    assert arithmetic.is_small({"n_embd": 64, "n_layer": 2, "n_inner": None}), "as GPT-2 names them"
    assert arithmetic.is_small({"d_model": 64, "n_layers": 2}), "as MPT names them"
    assert arithmetic.is_small({"hidden_size": 64, "layers_block_type": ["mamba", "mlp"]}), (
        "as Nemotron-H does"
    )
    assert not arithmetic.is_small(SMOLLM2)
    assert not arithmetic.is_small({"text_config": SMOLLM2})
    assert not arithmetic.is_small({"model_type": "unknown"})
    monkeypatch.setattr(arithmetic, "fastest", lambda: "bfloat16")
    assert load_base(schema.Model(id=str(folder))).dtype == torch.float32
    monkeypatch.setattr(arithmetic, "SMALL", 0)
    assert load_base(schema.Model(id=str(folder))).dtype == torch.bfloat16


@pytest.mark.parametrize("resident", [True, False])
def test_in_bfloat16_the_gradient_of_an_adapter_is_float32_and_as_near_as_under_autocast(folder, resident):
    rows = [Sequence((5, 9, n), (7, n, 30, 2)) for n in range(10, 16)]

    def gradient(compute, around=nullcontext) -> torch.Tensor:
        base = load_base(schema.Model(id=str(folder), compute=compute), resident=resident)
        policy = base.add_adapter("policy", seed=0)
        disturb(policy)
        training = schema.Training(batch=len(rows))
        step = GradientStep(
            policy, lambda rows: {"": rows}, lambda scores, _: (-scores[""].logps, {}), training
        )
        weights = policy.parameters()
        step.train(weights, {policy.adapter})
        with around():
            step.run(rows, len(rows), 1)
        assert {weight.dtype for weight in weights} == {torch.float32}
        return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])

    exact, rounded = gradient("float32"), gradient("bfloat16")
    assert rounded.dtype == torch.float32
    pefts = gradient("bfloat16", lambda: torch.autocast("cpu", torch.bfloat16))
    assert (rounded - exact).norm() < 1.2 * (pefts - exact).norm() < 0.3 * exact.norm()
