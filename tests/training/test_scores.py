"""Tokens in one row, shared prompts, only response positions through the head: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignbench import layout
from alignbench.errors import DataError
from alignbench.models import load_base
from alignbench.models.forward import attention, lm_head, varlen
from alignbench.models.forward.groups import Group, lay_out, response_states, spread
from alignbench.models.forward.lm_head import log_probabilities
from alignbench.recipe import schema
from alignbench.rows import Sequence
from alignbench.training import reference

from .conftest import disturb, save_model, scorables

KINDS = {
    "llama": {},
    "gpt2": {},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
    "gpt_neox": {},
}


def scored(policy, items):
    base = policy.base
    layout = lay_out({"all": Group(items)}, base.device)
    with base.using(policy):
        states = response_states(base, layout)
        return spread(log_probabilities(base, states, layout.targets), layout.spans["all"])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_without_padding_equal_those_with_it_on_many_architectures(kind, tmp_path):
    folder = save_model(tmp_path / kind, kind, **KINDS[kind])
    base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4, alpha=8)))
    policy = disturb(base.add_adapter("policy", seed=0))
    items = scorables(8)
    found = scored(policy, items).detach()
    for row, (item, wanted) in enumerate(zip(items, policy.logprobs(items), strict=True)):
        np.testing.assert_allclose(found[row, : len(item.response)], wanted.logps, atol=2e-5)
        assert not found[row, len(item.response) :].any()
    assert varlen.supports(base.model, 21) == (kind not in ("mistral", "gemma2"))


def test_a_window_as_wide_as_the_sequences_does_not_matter(tmp_path):
    base = load_base(schema.Model(id=str(save_model(tmp_path / "m", "mistral", sliding_window=32))))
    assert varlen.attends_to_all(base.model, 32)
    assert not varlen.attends_to_all(base.model, 33)


def test_a_prompt_that_two_answers_share_goes_through_the_network_once(base):
    prompt, other = tuple(range(5, 8)), tuple(range(5, 8))
    first = Sequence(prompt, (8, 9, 2))
    apart = lay_out({"all": Group([first, Sequence(other, (10, 2))])}, base.device)
    together = lay_out({"all": Group([first, Sequence(prompt, (10, 2))])}, base.device)
    assert len(together.ids) == 3 + 2 + 1
    assert len(apart.ids) == 2 * 3 + 2 + 1


def test_the_last_token_predicts_nothing_and_is_not_computed(base):
    layout = lay_out({"all": Group([Sequence((5, 6), (7, 8, 2))])}, base.device)
    assert layout.ids.tolist() == [5, 6, 7, 8]
    assert layout.targets.tolist() == [7, 8, 2]
    assert layout.read.tolist() == [1, 2, 3]
    assert layout.states.tolist() == [0, 1, 2]


def test_long_responses_are_projected_in_pieces_with_equal_values_and_gradients(base, monkeypatch):
    policy = disturb(base.add_adapter("policy", seed=0))
    items = scorables(6)
    gradients = []
    for numbers in (1 << 25, 91 * 7):
        monkeypatch.setitem(lm_head.LOGITS, "cpu", numbers)
        total = scored(policy, items).sum()
        gradients.append([total.detach(), *torch.autograd.grad(total, list(policy.parameters()))])
    for whole, pieces in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_head_in_pieces_gives_the_values_and_gradients_of_all_logits_at_once(
    kind, temperature, tmp_path, monkeypatch
):
    """Gemma 2 caps its logits. A GPU always takes the head in pieces."""
    base = load_base(schema.Model(id=str(save_model(tmp_path / kind, kind)), quantization="none"))
    states = torch.randn(50, 64, requires_grad=True)
    targets = torch.randint(0, 91, (50,))
    found = []
    for numbers in (1 << 25, 91 * 7):
        monkeypatch.setitem(lm_head.LOGITS, "cpu", numbers)
        logps = log_probabilities(base, states, targets, temperature)
        found.append((logps, *torch.autograd.grad((logps * torch.arange(50)).sum(), states)))
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5)


def test_the_head_in_pieces_is_applied_once_to_each_state(base, monkeypatch):
    monkeypatch.setitem(lm_head.LOGITS, "cpu", 91 * 7)
    states, targets = torch.randn(50, 64, requires_grad=True), torch.randint(0, 91, (50,))
    applied = []
    hook = base.head.register_forward_hook(lambda *args: applied.append(len(args[2])))
    log_probabilities(base, states, targets).sum().backward()
    hook.remove()
    assert applied == [7] * 7 + [1]


def test_a_forward_without_a_pattern_is_transformers_own(tmp_path):
    folder = save_model(tmp_path / "model", "llama")
    base = load_base(schema.Model(id=str(folder), quantization="none"))
    plain = load_base(schema.Model(id=str(folder), quantization="none"))
    plain.model.set_attn_implementation("sdpa")
    assert attention.installed(base.model)
    assert not attention.installed(plain.model)
    for sequences in ([(5, 6, 7, 8)], [(5, 6, 7, 8), (9, 10)]):
        for side in ("left", "right"):
            ids, mask = base.pad(sequences, side)
            with torch.no_grad():
                assert torch.equal(base.hidden(ids, mask), plain.hidden(ids, mask))


def test_reference_log_probabilities_are_found_by_their_tokens(base, tmp_path):
    policy = disturb(base.add_adapter("policy", seed=0))
    items = scorables(20)
    reference.compute(policy, items, tmp_path)
    look = reference.lookup([tmp_path], "cpu")
    wanted = [one.logps.sum() for one in policy.logprobs(items)]
    np.testing.assert_allclose(look(items[3:9]), wanted[3:9], atol=1e-5)
    assert look(items).dtype == torch.float32


def test_a_sequence_whose_reference_was_not_computed_is_an_error(base, tmp_path):
    reference.compute(base.policy(), scorables(2), tmp_path)
    look = reference.lookup([tmp_path], "cpu")
    with pytest.raises(DataError, match="no reference log-probability"):
        look([Sequence((3, 4), (5, 2)), *scorables(2)])
    with pytest.raises(DataError):
        look([Sequence(items.prompt[:1], items.prompt[1:] + items.response) for items in scorables(2)])


def test_reference_files_hold_no_pickle_and_are_equal_bytes_in_any_order(base, tmp_path):
    items = scorables(20)
    reference.compute(base.policy(), items, tmp_path / "a")
    reference.compute(base.policy(), [*reversed(items), *items], tmp_path / "b")
    assert (tmp_path / "a" / layout.REFERENCE).read_bytes() == (
        tmp_path / "b" / layout.REFERENCE
    ).read_bytes()


def test_the_trial_of_a_forward_without_padding_draws_nothing_inside_a_training_step(base, monkeypatch):
    tried = []
    monkeypatch.setattr(varlen, "_trial", lambda *given: tried.append(given))
    scored(disturb(base.add_adapter("policy", seed=0)), scorables(2))
    assert not tried
