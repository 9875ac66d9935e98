"""Tiny models of many architectures: every fast path against plain transformers, and what is trained of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignbench.api.config import Sampling
from alignbench.models import Base, Query, TokenTrees, load_base
from alignbench.models.choices import Options, read
from alignbench.recipe import schema
from alignbench.rows import Ids, Prompt, Sequence

from .architectures import ARCHITECTURES, build


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("architectures") / request.param)


@pytest.fixture(scope="module")
def base(folder) -> Base:
    return load_base(
        schema.Model(id=str(folder), quantization="none", adapter=schema.Adapter(rank=4, alpha=8))
    )


@pytest.fixture(scope="module")
def plain(folder) -> Any:
    """The model as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ids_of(seed: int, length: int) -> Ids:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(5, 90, (length,), generator=generator).tolist())


PROMPTS = [
    Prompt(id=f"p{seed}", prompt=(), prompt_ids=ids_of(seed, n)) for seed, n in enumerate((4, 9, 6, 12, 5, 7))
]
SEQUENCES = [Sequence(prompt.prompt_ids, ids_of(50 + at, 3 + at)) for at, prompt in enumerate(PROMPTS)]


def whole(plain: Any, ids: Ids) -> torch.Tensor:
    """Logits [tokens, vocabulary] of one text, by transformers alone."""
    return plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def logps(plain: Any, one: Sequence) -> torch.Tensor:
    found = whole(plain, (*one.prompt, *one.response)).log_softmax(-1)[len(one.prompt) - 1 : -1]
    return found.gather(-1, torch.tensor(one.response)[:, None])[:, 0]


def test_scores_are_those_of_transformers(base, plain):
    found = base.policy().logprobs(SEQUENCES)
    with torch.no_grad():
        for one, scores in zip(SEQUENCES, found, strict=True):
            torch.testing.assert_close(torch.tensor(scores.logps), logps(plain, one), atol=1e-4, rtol=0)


def test_greedy_answers_are_those_of_transformers_without_a_cache(base, plain):
    answers = base.policy().answer(PROMPTS, Sampling(temperature=0, max_new_tokens=10), 0)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([prompt.prompt_ids])
        how = {
            "use_cache": False,
            "do_sample": False,
            "max_new_tokens": 10,
            "attention_mask": torch.ones_like(ids),
        }
        wanted = plain.generate(ids, **how)[0, len(prompt.prompt_ids) :].tolist()
        assert list(answer.ids) == wanted


def test_answers_do_not_depend_on_their_batch_also_once_some_have_ended(base, monkeypatch):
    monkeypatch.setattr(base.model.generation_config, "eos_token_id", list(range(2, 22)))
    policy, sampling = base.policy(), Sampling(temperature=1.0, max_new_tokens=16)
    together = policy.answer(PROMPTS, sampling, 3, samples=2)
    assert len({len(answer.ids) for answer in together}) > 2
    alone = [one for prompt in PROMPTS for one in policy.answer([prompt], sampling, 3, samples=2)]
    assert [one.ids for one in together] == [one.ids for one in alone]


def test_a_search_finds_what_follows_every_path(base, plain):
    trees = TokenTrees(base.policy())
    prefix = ids_of(70, 8)
    tree, other = trees.new_tree(prefix), trees.new_tree(prefix)
    for paths in ([(), (7,), (8, 9)], [(7, 11), (8, 9, 12), (13,)]):
        asked = [Query((*prefix, *path), likeliest=5) for path in paths]
        for replies in trees.ask([(tree, asked), (other, asked[1:])]):
            for query, reply in zip(asked[-len(replies) :], replies, strict=True):
                with torch.no_grad():
                    logits = whole(plain, query.path)[-1][: base.vocabulary]
                top = logits.topk(5)
                assert list(reply.tokens) == top.indices.tolist()
                torch.testing.assert_close(
                    torch.tensor(reply.probabilities), top.values.softmax(-1), atol=1e-4, rtol=0
                )


def test_a_judge_reads_what_transformers_reads(base, plain):
    options = Options((((20,), (21,)), ((22,),)))
    questions = [(*ids_of(80, 9), *ids_of(81 + at, 2 + at)) for at in range(3)]
    found = read(base.policy(), questions, options, [("one",)] * 3).probabilities
    for question, row in zip(questions, found, strict=True):
        with torch.no_grad():
            chances = whole(plain, question)[-1].softmax(-1)
        wanted = [sum(float(chances[way[0]]) for way in ways) for ways in options.variants]
        torch.testing.assert_close(row, torch.tensor(wanted), atol=1e-5, rtol=0)
