"""Answers: equal alone and in batches, and drawn with the probabilities that they should have."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignbench.api.config import Sampling
from alignbench.models import generation, load_base, meter
from alignbench.models.forward import incremental
from alignbench.models.generation import _kept, gumbel, noise_key, stop_ids
from alignbench.recipe import schema
from alignbench.rows import Prompt

from .conftest import build_gpt2, build_model, disturb


def prompts(count: int, words: int = 90) -> list[Prompt]:
    draw = random.Random(0)
    return [
        Prompt(id=f"p{i}", prompt=(), prompt_ids=tuple(draw.choices(range(5, words), k=draw.randint(1, 20))))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def policies(folder):
    base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4)))
    policy = base.add_adapter("policy", seed=0)
    disturb(policy)
    return {"base": base.policy(), "adapter": policy}


SAMPLINGS = {
    "plain": Sampling(max_new_tokens=12),
    "cold": Sampling(temperature=0.3, max_new_tokens=12),
    "greedy": Sampling(temperature=0, max_new_tokens=12),
    "top": Sampling(top_k=20, top_p=0.8, max_new_tokens=12),
}


@pytest.mark.parametrize("kind", ["base", "adapter"])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_an_answer_is_the_same_alone_shuffled_and_in_batches_of_any_size(
    policies, monkeypatch, kind, sampling
):
    policy, asked = policies[kind], prompts(40)
    together = {answer.prompt_id: answer.ids for answer in policy.answer(asked, sampling, 3)}
    shuffled = random.Random(1).sample(asked, len(asked))
    for rows in (1, 7):
        monkeypatch.setitem(generation.ANSWERS, "cpu", rows)
        assert {answer.prompt_id: answer.ids for answer in policy.answer(shuffled, sampling, 3)} == together


def test_a_tie_that_rounding_could_decide_is_decided_by_the_row_alone(policies, monkeypatch):
    """Every draw is called a tie: then the batch decides nothing, and nothing changes."""
    asked, sampling = prompts(6), SAMPLINGS["plain"]
    usual = policies["adapter"].answer(asked, sampling, 3)
    monkeypatch.setattr(generation, "CLOSE", 1e9)
    alone = policies["adapter"].answer(asked, sampling, 3)
    assert [answer.ids for answer in alone] == [answer.ids for answer in usual]
    assert [answer.forwards for answer in alone] == [2 * len(answer.ids) for answer in alone]


def test_answers_come_prompt_by_prompt_and_sample_by_sample(policies):
    asked = prompts(5)
    answers = policies["base"].answer(asked, SAMPLINGS["plain"], 0, samples=3)
    assert [(one.prompt_id, one.sample) for one in answers] == [(p.id, s) for p in asked for s in range(3)]
    assert len({one.ids for one in answers if one.prompt_id == "p0"}) == 3
    first = policies["base"].answer(asked, SAMPLINGS["plain"], 0)
    assert [one.ids for one in first] == [one.ids for one in answers if one.sample == 0]


def test_every_answer_is_told_of_once_as_it_ends_also_one_that_is_cut_off(policies, monkeypatch):
    policy, counts = policies["base"], []
    monkeypatch.setattr(policy.base, "answered", counts.append)
    monkeypatch.setitem(generation.ANSWERS, "cpu", 4)
    for sampling in (SAMPLINGS["plain"], Sampling(max_new_tokens=1)):
        counts.clear()
        answers = policy.answer(prompts(6), sampling, 0, samples=2)
        assert sum(counts) == len(answers) == 12
        assert len([count for count in counts if count]) >= 3


def test_another_key_gives_other_answers_and_the_same_key_the_same(policies):
    def found(key):
        return [one.ids for one in policies["base"].answer(prompts(5), SAMPLINGS["plain"], key)]

    assert found(0) == found(0) != found(1)


def test_greedy_answers_are_those_of_transformers_generate(policies, folder):
    base = policies["base"].base
    for answer, prompt in zip(
        policies["base"].answer(prompts(8), SAMPLINGS["greedy"], 0), prompts(8), strict=True
    ):
        ids = torch.tensor([prompt.prompt_ids])
        theirs = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )
        assert answer.ids == tuple(theirs[0, ids.shape[1] :].tolist())


def test_an_answer_ends_with_its_end_token_and_says_what_it_cost(policies):
    asked = prompts(30)
    answers = policies["base"].answer(asked, Sampling(max_new_tokens=60), 5)
    assert {answer.finished for answer in answers} == {True, False}
    for answer, prompt in zip(answers, asked, strict=True):
        assert answer.finished == (answer.ids[-1] == 2)
        assert answer.ids.count(2) == answer.finished
        assert answer.finished or len(answer.ids) == 60
        again = answer.forwards - len(answer.ids)
        assert again >= 0
        assert again or answer.tokens == len(prompt.prompt_ids) + len(answer.ids) - 1
        assert answer.seconds > 0
        assert "<end>" not in answer.text
        assert answer.text == policies["base"].base.tokenizer.decode(answer.ids, skip_special_tokens=True)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_the_answers_to_a_prompt_share_its_computation_and_are_those_of_separate_ones(
    policies, monkeypatch, sampling
):
    policy, asked, samples = policies["adapter"], prompts(6), 4
    shapes = []
    hook = policy.base.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with meter.metered(meter.Tally()) as tally:
        together = policy.answer(asked, sampling, 3, samples=samples)
    hook.remove()
    assert shapes[0] == (6, max(len(prompt.prompt_ids) for prompt in asked)), "a prompt is computed once"
    assert shapes[1][0] == 24
    if all(answer.forwards == len(answer.ids) for answer in together):
        begun = sum(len(prompt.prompt_ids) for prompt in asked)
        assert tally.work.positions == begun + sum(len(answer.ids) - 1 for answer in together)
    monkeypatch.setattr(policy.base, "paths", replace(policy.base.paths, cut=False))
    apart = policy.answer(asked, sampling, 3, samples=samples)
    assert [answer.ids for answer in together] == [answer.ids for answer in apart]


def test_rows_that_have_ended_leave_the_batch(base):
    rows = []
    base.model.generation_config.eos_token_id = list(range(2, 12))
    base.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    answers = base.policy().answer(prompts(40), Sampling(max_new_tokens=40), 5)
    assert rows[0] == 40
    assert sum(rows) < 1.25 * sum(len(answer.ids) for answer in answers)
    assert sum(rows) < 0.6 * 40 * max(len(answer.ids) for answer in answers)


def test_every_end_token_ends_an_answer(folder):
    base = load_base(schema.Model(id=str(folder)))
    base.model.generation_config.eos_token_id = [2, 17]
    assert stop_ids(base) == {2, 17}
    answers = base.policy().answer(prompts(60), Sampling(max_new_tokens=60), 0)
    assert {answer.ids[-1] for answer in answers if answer.finished} == {2, 17}


def test_no_id_beyond_the_tokenizer_is_ever_drawn(tmp_path):
    base = load_base(schema.Model(id=str(build_model(tmp_path, vocab_size=256))))
    answers = base.policy().answer(prompts(40), Sampling(max_new_tokens=20), 0)
    assert max(id for answer in answers for id in answer.ids) < len(base.tokenizer) == 95


def test_left_padding_gives_learned_positions_their_place(tmp_path):
    base = load_base(schema.Model(id=str(build_gpt2(tmp_path))))
    policy, asked = base.policy(), prompts(12)
    together = policy.answer(asked, SAMPLINGS["plain"], 0)
    assert [one.ids for one in together] == [policy.answer([p], SAMPLINGS["plain"], 0)[0].ids for p in asked]
    ids, mask = base.pad([asked[0].prompt_ids, (5, 6)], "left")
    with torch.no_grad():
        padded = base.hidden(ids, mask)[1, -1]
        plain = base.hidden(torch.tensor([[5, 6]]))[0, -1]
    assert torch.allclose(padded, plain, atol=1e-5)


def test_a_prompt_without_ids_is_written_by_the_chat_template(policies):
    policy = policies["base"]
    asked = Prompt(id="p", prompt=({"role": "user", "content": "w3 w7"},))
    ids = tuple(policy.base.tokenizer("user w3 w7 assistant", add_special_tokens=False)["input_ids"])
    (answer,) = policy.answer([asked], SAMPLINGS["plain"], 0)
    assert answer == replace(
        policy.answer([replace(asked, prompt_ids=ids)], SAMPLINGS["plain"], 0)[0], seconds=answer.seconds
    )


def test_nothing_asked_is_nothing_answered(policies):
    assert policies["base"].answer([], SAMPLINGS["plain"], 0) == []


def test_a_sampled_token_has_the_probability_the_model_gives_it():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -4.0])
    keys = torch.tensor([noise_key(0, str(i), 0) for i in range(40_000)])
    counts = np.bincount((logits + gumbel(keys, 3, 5)).argmax(-1).numpy(), minlength=5)
    expected = logits.softmax(-1).numpy() * len(keys)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 18.5  # 0.999 of chi-squared with four degrees of freedom


def test_the_noise_is_standard_gumbel_and_independent_of_its_neighbours():
    from scipy import stats

    keys = torch.tensor([noise_key(1, str(i), 0) for i in range(200)])
    noise = gumbel(keys, 0, 200)
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.flatten().numpy(), stats.gumbel_r.cdf).pvalue > 0.001
    for other in (gumbel(keys, 1, 200), gumbel(keys.roll(1), 0, 200), noise.roll(1, 1)):
        assert abs(np.corrcoef(noise.flatten(), other.flatten())[0, 1]) < 0.02


def test_a_tokens_noise_does_not_depend_on_the_vocabulary_or_on_other_rows():
    keys = torch.tensor([noise_key(0, "a", 0), noise_key(0, "b", 0)])
    assert torch.equal(gumbel(keys, 4, 50), gumbel(keys, 4, 80)[:, :50])
    assert torch.equal(gumbel(keys[1:], 4, 50), gumbel(keys, 4, 50)[1:])
    assert noise_key(0, "a", 0) != noise_key(0, "a", 1) != noise_key(1, "a", 0)


def test_top_k_and_top_p_keep_the_tokens_that_transformers_keeps():
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    for k, p in ((0, 0.9), (5, 1.0), (10, 0.7), (1, 1.0)):
        wanted = logits
        if k:
            wanted = TopKLogitsWarper(k)(None, wanted)
        if p < 1:
            wanted = TopPLogitsWarper(p)(None, wanted)
        assert torch.equal(_kept(logits, Sampling(top_k=k, top_p=p), 0.0), torch.isfinite(wanted))


def test_without_a_cache_every_token_reads_again_all_before_it(policies, monkeypatch):
    policy, asked = policies["adapter"], prompts(3)
    answers = policy.answer(asked, SAMPLINGS["plain"], 3, samples=2)
    read, calls = 0, 0
    hidden = policy.base.hidden

    def counted(ids, mask):
        nonlocal read, calls
        read, calls = read + int(mask.sum()), calls + 1
        return hidden(ids, mask)

    monkeypatch.setattr(policy.base, "hidden", counted)
    positions, seconds = generation.uncached(policy, asked, answers)
    known = {prompt.id: len(prompt.prompt_ids) for prompt in asked}
    by_hand = sum(known[one.prompt_id] + at for one in answers for at in range(len(one.ids)))
    assert (read, calls) == (by_hand, max(len(one.ids) for one in answers))
    assert positions == by_hand / len(answers)
    assert seconds > 0


def test_decoding_without_a_cache_is_measured_no_longer_than_it_may_take(policies, monkeypatch):
    policy, asked = policies["base"], prompts(3)
    answers = policy.answer(asked, SAMPLINGS["plain"], 3)
    lengths = []
    hidden = policy.base.hidden
    monkeypatch.setattr(
        policy.base, "hidden", lambda ids, mask: lengths.append(ids.shape[1]) or hidden(ids, mask)
    )
    whole, _ = generation.uncached(policy, asked, answers)
    assert len(lengths) == max(len(one.ids) for one in answers)
    lengths.clear()
    positions, seconds = generation.uncached(policy, asked, answers, at_most=0.0)
    assert len(lengths) == 1, "one call says what a position takes"
    assert positions == whole
    assert seconds > 0


def test_the_tokens_that_are_timed_are_spread_over_the_answer():
    assert list(generation._spread(9)) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert all(sorted(generation._spread(count)) == list(range(count)) for count in range(40))


def test_of_many_answers_without_a_cache_only_some_are_timed(policies, monkeypatch):
    policy, asked = policies["base"], prompts(generation.TIMED + 3)
    answers = policy.answer(asked, SAMPLINGS["plain"], 3)
    rows = []
    hidden = policy.base.hidden
    monkeypatch.setattr(policy.base, "hidden", lambda ids, mask: rows.append(len(ids)) or hidden(ids, mask))
    generation.uncached(policy, asked, answers)
    assert max(rows) == generation.TIMED


def test_texts_of_unlike_length_are_read_in_parts_and_continue_as_one_batch(policies, monkeypatch):
    asked, sampling = prompts(24), Sampling(max_new_tokens=6)
    policy = policies["adapter"]
    whole = policy.answer(asked, sampling, 3)
    read: list[tuple[int, int]] = []
    forward = type(policy.base).forward

    def reading(base, ids, mask=None, **more):
        if "past_key_values" not in more:
            read.append(tuple(ids.shape))
        return forward(base, ids, mask, **more)

    monkeypatch.setattr(type(policy.base), "forward", reading)
    monkeypatch.setattr(incremental, "WASTE", 32)
    monkeypatch.setattr(incremental, "PART", 24)
    parts = policy.answer(asked, sampling, 3)
    assert [one.ids for one in parts] == [one.ids for one in whole]
    assert [one.tokens for one in parts] == [one.tokens for one in whole]
    assert len(read) > 2
    longest = max(len(one.prompt_ids) for one in asked)
    assert sum(rows * width for rows, width in read) < 0.8 * longest * len(asked)


def test_parts_hold_texts_of_like_length_and_all_of_them():
    assert incremental.parts_of([10] * 500) == []  # nothing to save
    assert incremental.parts_of([3, 900]) == []  # not sorted
    lengths = sorted((7 * place % 300 + 5 for place in range(60)), reverse=True)
    parts = incremental.parts_of(lengths)
    assert [place for part in parts for place in range(60)[part]] == list(range(60))
    padded = sum(lengths[part][0] * len(lengths[part]) for part in parts)
    assert padded < 1.3 * sum(lengths) < 1.9 * sum(lengths) < lengths[0] * len(lengths)
