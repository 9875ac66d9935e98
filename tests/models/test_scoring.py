"""Log-probabilities and entropies of sequences, against one sequence at a time."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from alignbench.api.method import ScoringGroup
from alignbench.errors import ModelError, PluginError
from alignbench.models import load_base
from alignbench.models.forward import groups, lm_head, scoring
from alignbench.models.forward.groups import Group, lay_out, read, response_states, score
from alignbench.recipe import schema
from alignbench.rows import Sequence

from .conftest import build_gpt2, disturb


def talks(count: int) -> list[Sequence]:
    draw = random.Random(0)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(draw.choices(range(2, 90), k=draw.randint(1, most)))

    return [Sequence(tokens(9), tokens(14)) for _ in range(count)]


@pytest.fixture(scope="module")
def policy(folder):
    policy = load_base(schema.Model(id=str(folder))).add_adapter("policy", seed=0)
    disturb(policy)
    return policy


def plain_scores(policy, sequence) -> tuple[np.ndarray, np.ndarray]:
    """One sequence at a time through the whole model, in float64 from the logits on."""
    ids = torch.tensor([sequence.prompt + sequence.response])
    with torch.no_grad(), policy.base.using(policy):
        logits = policy.base.model(input_ids=ids).logits[0, len(sequence.prompt) - 1 : -1].double()
    logps = logits.log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    return logps[range(len(sequence.response)), list(sequence.response)].numpy(), entropy.numpy()


def test_log_probabilities_and_entropies_are_those_of_each_sequence_alone(policy):
    asked = talks(30)
    for sequence, found in zip(asked, policy.logprobs(asked, entropy=True), strict=True):
        logps, entropy = plain_scores(policy, sequence)
        assert found.logps.dtype == found.entropy.dtype == np.float32
        np.testing.assert_allclose(found.logps, logps, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.entropy, entropy, rtol=1e-4, atol=1e-5)


def test_scores_do_not_depend_on_batches_or_on_the_size_of_a_logits_tile(policy, monkeypatch):
    asked = talks(30)
    usual = policy.logprobs(asked, entropy=True)
    monkeypatch.setitem(scoring.POSITIONS, "cpu", 30)
    monkeypatch.setitem(lm_head.LOGITS, "cpu", 3 * 95)
    for one, other in zip(policy.logprobs(asked, entropy=True), usual, strict=True):
        np.testing.assert_allclose(one.logps, other.logps, atol=1e-5)
        np.testing.assert_allclose(one.entropy, other.entropy, atol=1e-5)


def test_no_tensor_of_logits_is_larger_than_a_tile(policy, monkeypatch):
    monkeypatch.setitem(lm_head.LOGITS, "cpu", 10 * 95)
    seen = []
    hook = policy.base.head.register_forward_hook(lambda *args: seen.append(args[2].numel()))
    asked = talks(30)
    policy.logprobs(asked)
    hook.remove()
    assert max(seen) <= 10 * 95
    assert sum(seen) == 95 * sum(len(one.response) for one in asked)


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_and_its_gradient_are_those_of_the_whole_distributions(policy, monkeypatch, rows, temperature):
    """Against the plain model, one sequence at a time, whatever the tile of logits is."""
    monkeypatch.setitem(lm_head.LOGITS, "cpu", rows * 95)
    base, asked = policy.base, talks(12)
    group = Group(asked, temperature=temperature, kl_from=base.policy())
    with torch.enable_grad():
        scores = read(policy, {"all": group}, None)["all"]
        weights = torch.linspace(-1, 1, scores.mask.numel()).view(scores.mask.shape)
        found = torch.autograd.grad(
            (weights * (scores.kl + 2 * scores.logps)).sum(), list(policy.parameters())
        )

        def plain(sequence: Sequence, of) -> torch.Tensor:
            with base.using(of):
                logits = base.model(input_ids=torch.tensor([sequence.prompt + sequence.response])).logits
            return (logits[0, len(sequence.prompt) - 1 : -1] / temperature).log_softmax(-1)

        total = torch.zeros(())
        for place, sequence in enumerate(asked):
            size = len(sequence.response)
            ours, start = plain(sequence, policy), plain(sequence, base.policy()).detach()
            kl = (start.exp() * (start - ours)).sum(-1)
            torch.testing.assert_close(scores.kl[place, :size], kl, rtol=1e-4, atol=1e-6)
            assert not scores.kl[place, size:].any()
            logps = ours[range(size), list(sequence.response)]
            total = total + (weights[place, :size] * (kl + 2 * logps)).sum()
        wanted = torch.autograd.grad(total, list(policy.parameters()))
    assert scores.kl.min() > -1e-6
    assert scores.kl.max() > 1e-3, "the two policies differ"
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_without_gradient_kl_is_the_same_in_batches_and_a_policy_does_not_differ_from_itself(
    policy, monkeypatch
):
    start, asked = policy.base.policy(), talks(20)
    groups = {
        "start": ScoringGroup(asked, policy, kl_from=start),
        "itself": ScoringGroup(asked, policy, kl_from=policy),
        "plain": ScoringGroup(asked, policy),
    }
    usual = score(policy, groups)
    assert usual["itself"].kl.abs().max() < 1e-6
    torch.testing.assert_close(usual["start"].logps, usual["plain"].logps)
    assert not hasattr(usual["plain"], "kl")
    torch.testing.assert_close(score(policy, groups, 30)["start"].kl, usual["start"].kl, rtol=1e-4, atol=1e-6)


def test_what_has_no_distributions_cannot_be_compared(policy):
    head = torch.nn.Linear(policy.base.head.weight.shape[1], 1)
    with pytest.raises(PluginError, match="the group 'values' has both `head` and `kl_from`"):
        score(policy, {"values": ScoringGroup(talks(2), head=head, kl_from=policy)})
    with pytest.raises(PluginError, match="has no distribution of each next token: object"):
        score(policy, {"all": ScoringGroup(talks(2), kl_from=object())})


def test_an_empty_response_has_no_scores_and_an_empty_prompt_is_refused(policy):
    scores = policy.logprobs([Sequence((5, 6), ()), Sequence((5,), (6, 2))], entropy=True)
    assert [len(one.logps) for one in scores] == [0, 2]
    assert [len(one.entropy) for one in scores] == [0, 2]
    with pytest.raises(ModelError, match="sequence 1 has no prompt"):
        policy.logprobs([Sequence((5,), (6,)), Sequence((), (6,))])


def test_left_and_right_padding_give_the_same_hidden_states(policy, tmp_path):
    for base in (policy.base, load_base(schema.Model(id=str(build_gpt2(tmp_path))))):
        rows = [(5, 6, 7, 8, 9), (10, 11)]
        states = {}
        for side in ("left", "right"):
            ids, mask = base.pad(rows, side)
            with torch.no_grad():
                states[side] = base.hidden(ids, mask)[mask.bool()]
        assert torch.allclose(states["left"], states["right"], atol=1e-5)


def test_scoring_leaves_no_gradient_and_no_graph(policy):
    for tensor in policy.parameters():
        tensor.grad = None
    policy.logprobs(talks(3))
    assert all(tensor.grad is None and tensor.requires_grad for tensor in policy.parameters())


def test_gradients_are_the_same_with_the_last_layer_of_the_read_tokens_and_of_all(policy, monkeypatch):
    base, prompt = policy.base, (5, 6, 7)
    pair = [Sequence(prompt, (8, 9, 10)), Sequence(prompt, (11,))]
    rows: list[int] = []
    hook = base.model.base_model.layers[-1].mlp.register_forward_hook(
        lambda module, given, made: rows.append(made.shape[1])
    )
    found = {}
    for recomputes in (False, True):
        monkeypatch.setattr(base, "recomputes", recomputes)
        with base.using(policy):
            layout = lay_out({"": Group(pair)}, base.device)
            logps = lm_head.log_probabilities(base, response_states(base, layout), layout.targets)
        found[recomputes] = torch.autograd.grad(logps.sum(), list(policy.parameters()))
    hook.remove()
    assert rows == [3, 5], "the shared end of the prompt and two answer tokens; then all five tokens"
    for short, whole in zip(*found.values(), strict=True):
        torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-5)


def test_in_half_precision_a_text_scores_alike_with_a_gradient_and_without(folder):
    """What a loss trains is compared with what was computed beforehand: with other attention it would differ."""
    base = load_base(schema.Model(id=str(folder), compute="bfloat16"))
    policy, texts = base.add_adapter("policy", seed=0), talks(12)

    def sums(gradient: bool) -> torch.Tensor:
        with torch.set_grad_enabled(gradient), base.using(policy), base.arithmetic():
            layout = lay_out({"": Group(texts)}, base.device)
            found = lm_head.log_probabilities(base, response_states(base, layout), layout.targets)
        return groups.spread(found, layout.spans[""]).sum(-1).detach()

    assert torch.equal(sums(True), sums(False))


def test_a_text_without_a_token_is_embedded_as_the_token_that_every_text_begins_with(policy):
    base = policy.base
    empty, first, other = scoring.embed(base, [(), (base.first_token,), (5, 6, 7)])
    assert np.isfinite(empty).all()
    np.testing.assert_allclose(empty, first, rtol=1e-6)
    np.testing.assert_allclose(other, scoring.embed(base, [(5, 6, 7)])[0], atol=1e-5)
