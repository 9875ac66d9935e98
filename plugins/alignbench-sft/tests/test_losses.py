"""The loss of SFT against numbers worked by hand and the loss of transformers' models on the same logits."""

from __future__ import annotations

import pytest
import torch
from alignbench_sft import loss, sequences

from alignbench import Demonstration
from alignbench.testing.losses import group_scores, reduced


def of(logps: torch.Tensor, mask: torch.Tensor):
    return reduced(loss, {"response": group_scores("response", mask, logps=logps)}, range(len(logps)))


def test_the_loss_is_the_mean_over_all_tokens_of_the_step_not_over_rows():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    loss, numbers = of(logps, mask)
    assert loss.item() == pytest.approx(10 / 4)
    assert numbers["logps/chosen"] == pytest.approx(-10 / 2)


def test_the_loss_is_the_cross_entropy_of_the_response_as_transformers_takes_it():
    from transformers.loss.loss_utils import ForCausalLMLoss

    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 11, generator=draw)
    ids = torch.randint(0, 11, (3, 9), generator=draw)
    labels = ids.clone()
    starts, ends = (2, 4, 3), (9, 6, 8)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        labels[row, :start] = -100
        labels[row, end:] = -100
    logps = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    loss, _ = of(logps, labels[:, 1:] != -100)
    assert loss.item() == pytest.approx(ForCausalLMLoss(logits, labels, 11).item(), rel=1e-6)


def test_the_prompt_is_given_and_the_answer_with_its_end_is_learnt():
    row = Demonstration(id="0", prompt=(), response="", prompt_ids=(5, 6), response_ids=(7, 2))
    (sequence,) = sequences([row])["response"]
    assert (sequence.prompt, sequence.response) == ((5, 6), (7, 2))
