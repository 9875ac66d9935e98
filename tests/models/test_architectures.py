"""Tiny models of many architectures: every fast path against plain transformers, and what is trained of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from alignbench import ScoringGroup
from alignbench.api.config import Sampling
from alignbench.models import Base, DecodingBase, Query, TokenTrees, load_base
from alignbench.models.forward import residual
from alignbench.models.forward.groups import score
from alignbench.models.trees.choices import Options, read
from alignbench.models.weights import skeleton
from alignbench.models.weights.files import linear_layers
from alignbench.models.weights.skeleton import kind_of
from alignbench.recipe import schema
from alignbench.rows import Ids, Prompt, Sequence

from .architectures import ARCHITECTURES, PAGE, WRITE, build, row
from .conftest import disturb


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("architectures") / request.param)


@pytest.fixture(scope="module")
def base(folder) -> Base:
    return load_base(
        schema.Model(id=str(folder), quantization="none", adapter=schema.Adapter(rank=4, alpha=8))
    )


@pytest.fixture(scope="module")
def quantised(folder) -> Base:
    return load_base(schema.Model(id=str(folder)))


@pytest.fixture(scope="module")
def plain(folder) -> Any:
    """The model as transformers loads it."""
    return class_of(folder).from_pretrained(folder, dtype=torch.float32).eval()


def class_of(folder: Path) -> Any:
    return getattr(transformers, kind_of(folder))


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


def test_what_leaves_a_layer_is_read_and_shifted_as_a_hook_on_transformers_does(base, plain):
    decoding, policy = DecodingBase(base.policy()), base.policy()
    found = decoding.response_states(SEQUENCES[:3], 0)
    layer = residual.layers(SimpleNamespace(model=plain, decoder=plain.get_decoder()))[0]
    seen: list[torch.Tensor] = []

    def first(made: Any) -> torch.Tensor:
        return made[0] if isinstance(made, tuple) else made

    reading = layer.register_forward_hook(lambda module, args, made: seen.append(first(made)))
    with torch.no_grad():
        for one, states in zip(SEQUENCES, found, strict=False):
            whole(plain, (*one.prompt, *one.response))
            wanted = seen.pop()[0, -len(one.response) :].mean(0)
            torch.testing.assert_close(torch.tensor(states), wanted, atol=1e-4, rtol=1e-4)
    reading.remove()
    vector = found.std() * torch.randn(found.shape[1], generator=torch.Generator().manual_seed(0)).numpy()

    def moved(module: Any, args: Any, made: Any) -> Any:
        states = first(made) + torch.tensor(vector)
        return (states, *made[1:]) if isinstance(made, tuple) else states

    adding = layer.register_forward_hook(moved)
    before = policy.logprobs(SEQUENCES)
    with decoding.shifted(0, vector):
        scores = policy.logprobs(SEQUENCES)
        answers = policy.answer(PROMPTS, Sampling(temperature=0, max_new_tokens=6), 0)
    with torch.no_grad():
        for one, after, unmoved in zip(SEQUENCES, scores, before, strict=True):
            torch.testing.assert_close(torch.tensor(after.logps), logps(plain, one), atol=1e-3, rtol=0)
            assert abs(after.logps - unmoved.logps).max() > 1e-3
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            ids = prompt.prompt_ids
            for token in answer.ids:
                assert token == int(whole(plain, ids)[-1].argmax())
                ids = (*ids, token)
    adding.remove()
    assert [one.logps.tolist() for one in policy.logprobs(SEQUENCES)] == [
        one.logps.tolist() for one in before
    ]


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
    found = read(base.policy(), questions, options).probabilities
    for question, chance in zip(questions, found, strict=True):
        with torch.no_grad():
            chances = whole(plain, question)[-1].softmax(-1)
        wanted = [sum(float(chances[way[0]]) for way in ways) for ways in options.variants]
        torch.testing.assert_close(chance, torch.tensor(wanted), atol=1e-5, rtol=0)


def test_gradients_are_those_of_transformers_forward(base):
    policy = base.add_adapter("trained", seed=0)
    disturb(policy)
    parameters = policy.parameters()
    assert parameters
    with torch.enable_grad():
        found = torch.autograd.grad(trained(policy), parameters)
        with base.using(policy):
            wanted = torch.autograd.grad(sum(logps(base.model, one).sum() for one in SEQUENCES), parameters)
    largest = max(float(one.abs().max()) for one in wanted)
    assert largest > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * largest, rtol=1e-3)
    base.drop(policy)


def trained(policy) -> torch.Tensor:
    from alignbench.models.forward import groups

    return groups.read(policy, {"all": groups.Group(SEQUENCES)}, None)["all"].sums().sum()


def test_an_adapter_is_saved_read_back_and_merged(base, folder, tmp_path):
    from peft import PeftModel

    policy = base.add_adapter("kept", seed=0)
    disturb(policy)
    policy.save(tmp_path)
    again = base.load_adapter(tmp_path, "again")
    wanted = score(policy, {"all": ScoringGroup(SEQUENCES)})["all"].sums()
    torch.testing.assert_close(score(again, {"all": ScoringGroup(SEQUENCES)})["all"].sums(), wanted)
    assert (wanted - score(base.policy(), {"all": ScoringGroup(SEQUENCES)})["all"].sums()).abs().max() > 1e-2
    network = class_of(folder).from_pretrained(folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(network, str(tmp_path)).merge_and_unload().eval()
    with torch.no_grad():
        found = torch.stack([logps(merged, one).sum() for one in SEQUENCES])
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
    base.drop(again)
    base.drop(policy)


def test_four_bits_hold_every_layer_and_expert_as_near_as_four_bits_can(base, quantised, folder):
    shares = quantised.weights.shares()
    assert quantised.weights.total == base.weights.total
    assert shares["adapted"] > 0
    if folder.name in NOT_QUANTISED:
        assert shares["quantised"] == 0
    else:
        assert set(quantised.weights.quantised) >= set(quantised.weights.adapted)
    for name, size in quantised.weights.quantised.items():
        weight, right = weight_of(quantised, name), weight_of(base, name)
        assert weight.numel() == size
        assert 0.01 < float((weight - right).norm() / right.norm()) < 0.12, name


def test_a_base_that_gets_an_adapter_is_known_as_the_same(quantised):
    untouched = quantised.checksum()
    policy = quantised.add_adapter("new", seed=0)
    disturb(policy)
    assert quantised.checksum() == untouched
    quantised.drop(policy)


NOT_QUANTISED = {"falcon"}
"""bitsandbytes replaces no layer of a model whose linear layers are of a class of its own."""


def weight_of(base, name) -> torch.Tensor:
    parent, _, own = name.rpartition(".")
    module = base.model.get_submodule(parent)
    module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    found = getattr(module, own)
    layer = found.get_base_layer() if isinstance(found, BaseTunerLayer) else found
    weight = layer if isinstance(layer, torch.Tensor) else layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight


def test_the_configuration_alone_tells_what_is_quantised_and_adapted(quantised, folder):
    assert skeleton.weights(folder, "nf4", "all-linear") == quantised.weights


def test_the_names_of_the_weights_tell_which_layers_can_have_an_adapter(quantised, folder):
    found = linear_layers(folder.name, folder)
    names = list(ARCHITECTURES)
    assert bool(found) == (names.index(folder.name) < names.index("qwen3_moe")), "the dense ones come first"
    if found:
        assert blocks(found) == blocks(quantised.weights.adapted)


def blocks(names: Iterable[str]) -> set[str]:
    """Names of layers from the number of their block on: a file may leave out what stands before."""
    return {re.sub(r"^.*?(?=\.\d+\.)", "", name) for name in names}


def test_the_page_says_what_is_found(quantised, folder, root):
    line = row(folder.name, quantised)
    assert line in (root / PAGE).read_text(encoding="utf-8").splitlines(), WRITE
