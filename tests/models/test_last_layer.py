"""The last layer of some tokens: the states of the whole layer, on every kind of model that supports it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from alignbench.models.forward.attention import install
from alignbench.models.forward.last_layer import only

SMALL = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 48, "pad_token_id": 0, "initializer_range": 0.3}
CUT: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SMALL),
    "mistral": lambda: MistralConfig(**SMALL, num_key_value_heads=2),
    "qwen": lambda: Qwen3Config(**SMALL, head_dim=8, num_key_value_heads=2),
}
WHOLE: dict[str, Any] = {
    "learned positions": lambda: GPT2Config(
        vocab_size=24, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=None, eos_token_id=None
    ),
    "norms around both parts": lambda: Gemma2Config(**SMALL, head_dim=8),
}
READ = torch.tensor([6, 0, 3, 3])


def model(make: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(make()).eval()
    install(made)
    return made


def states(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([[5, 9, 2, 7, 11, 4, 3]])
    with torch.no_grad():
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_the_states_that_are_read_are_those_of_the_whole(make: Any):
    tried = model(make)
    whole = states(tried)
    with only(tried, READ) as cut:
        torch.testing.assert_close(states(tried), whole[READ], atol=1e-5, rtol=0)
    assert cut
    assert torch.equal(states(tried), whole)


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_a_model_that_is_built_in_another_way_returns_all_states(make: Any):
    tried = model(make)
    whole = states(tried)
    with only(tried, READ) as cut:
        assert torch.equal(states(tried), whole)
    assert not cut


def test_a_forward_that_fails_leaves_the_model_whole():
    tried = model(CUT["llama"])
    whole = states(tried)
    with pytest.raises(KeyboardInterrupt), only(tried, READ):
        raise KeyboardInterrupt
    assert torch.equal(states(tried), whole)


def test_the_last_layer_computes_what_is_read_and_nothing_else():
    tried, rows = model(CUT["llama"]), []
    for layer in tried.base_model.layers:  # pyright: ignore[reportGeneralTypeIssues]
        layer.mlp.register_forward_hook(lambda module, given, made: rows.append(made.shape[1]))
    with only(tried, READ):
        rows.clear()
        states(tried)
    assert rows == [7, 4]
