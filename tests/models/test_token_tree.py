"""Token trees: every path attends to itself alone, and no position is computed twice."""

from __future__ import annotations

import random
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch

from alignbench.errors import ModelError
from alignbench.models import Query, TokenTrees, load_base
from alignbench.models.forward import attention
from alignbench.models.forward.last_layer import only
from alignbench.models.generation import gumbel
from alignbench.models.trees import kv_pool, queries, token_tree
from alignbench.models.trees.queries import replies_of
from alignbench.recipe import schema

from .conftest import build_gpt2, build_model, disturb

KINDS = {
    "llama": build_model,
    "grouped heads": lambda folder: build_model(folder, num_key_value_heads=2),
    "learned positions": build_gpt2,
}


@pytest.fixture(scope="module", params=KINDS)
def policy(request, tmp_path_factory):
    folder = KINDS[request.param](tmp_path_factory.mktemp("trees") / "model")
    base = load_base(schema.Model(id=str(folder), adapter=schema.Adapter(rank=4)))
    adapter = base.add_adapter("policy", seed=0)
    disturb(adapter)
    return adapter


def tokens(draw, count):
    return tuple(draw.choices(range(5, 90), k=count))


def logits_of(trees, tree, path):
    new, (node,) = trees._grow(tree, [Query(path)])
    assert not new, "it was asked for"
    return trees.base.logits(trees._pool.states[node.slot][None])[:, : trees.base.vocabulary]


def worst(trees, asked):
    return max(
        float((logits_of(trees, tree, query.path) - trees.alone(query.path)).abs().max())
        for tree, queries in asked
        for query in queries
    )


@pytest.mark.parametrize("in_one_row", [True, False], ids=["one row", "a row for each tree"])
@pytest.mark.parametrize("length", [6, 34], ids=["short prefix", "long prefix"])
def test_every_path_of_every_tree_sees_itself_alone(policy, in_one_row, length):
    draw = random.Random(0)
    trees = TokenTrees(policy)
    assert trees.in_one_row, "these models allow it"
    trees.in_one_row = in_one_row
    prefix = tokens(draw, length)
    grown = [trees.new_tree(prefix if number % 2 else ()) for number in range(7)]
    assert (grown[1]._shared is not None) == (in_one_row and length > 6)
    stems = [(prefix if number % 2 else ()) + tokens(draw, draw.randint(1, 12)) for number in range(7)]
    asked = [(tree, [Query(stem)]) for tree, stem in zip(grown, stems, strict=True)]
    trees.ask(asked)
    assert worst(trees, asked) < 2e-5
    for _ in range(3):
        # Branches of one tree that share nothing, a part, or all but the last token.
        asked = [
            (
                tree,
                [Query(stem + tokens(draw, 2)[:1] * k + tokens(draw, draw.randint(0, 4))) for k in range(4)],
            )
            for tree, stem in zip(grown, stems, strict=True)
        ]
        trees.ask(asked)
        assert worst(trees, asked) < 2e-5


@pytest.mark.parametrize("in_one_row", [True, False], ids=["one row", "a row for each tree"])
def test_a_short_prefix_lies_anywhere_among_the_slots_of_its_trees(policy, in_one_row):
    draw, trees = random.Random(5), TokenTrees(policy)
    trees.in_one_row = in_one_row
    earlier = trees.new_tree()
    trees.ask([(earlier, [Query(tokens(draw, 40))])])
    earlier.prune(())  # its slots are taken again, the last first
    prefix = tokens(draw, 6)
    grown = [trees.new_tree(prefix) for _ in range(5)]
    stems = [(*prefix, *tokens(draw, count)) for count in (1, 14, 3, 22, 9)]
    trees.ask([(tree, [Query(stem)]) for tree, stem in zip(grown, stems, strict=True)])
    asked = [(tree, [Query((*stem, 5)), Query((*stem, 6))]) for tree, stem in zip(grown, stems, strict=True)]
    trees.ask(asked)
    assert worst(trees, asked) < 2e-5


@pytest.mark.parametrize("in_one_row", [True, False], ids=["one row", "a row for each tree"])
def test_trees_that_do_not_fit_into_memory_together_are_computed_in_halves(
    policy, in_one_row, monkeypatch, capsys
):
    draw, prefix, tried = random.Random(1), tuple(range(7, 13)), list[int]()
    stems = [(*prefix, *tokens(draw, count)) for count in (12, 5, 5, 4, 4)]

    def asked(trees):
        trees.in_one_row = in_one_row
        grown = [trees.new_tree(prefix) for _ in stems]
        return [(tree, [Query(stem)]) for tree, stem in zip(grown, stems, strict=True)]

    trees = TokenTrees(policy)
    whole = trees.ask(asked(trees))
    trees, hidden = TokenTrees(policy), TokenTrees._hidden
    wanted = asked(trees)

    def small(self, cache, ids, *args, **more):
        tried.append(ids.numel())
        if ids.numel() > 12:
            raise torch.OutOfMemoryError("no room for so much")
        return hidden(self, cache, ids, *args, **more)

    monkeypatch.setattr(TokenTrees, "_hidden", small)
    halves = trees.ask(wanted)
    assert max(tried) > 12
    assert "together do not fit into memory, and are computed in halves: no room" in capsys.readouterr().out
    for (one,), (other,) in zip(halves, whole, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert worst(trees, wanted) < 2e-5
    counted = [(tree.tokens, tree.forwards) for tree, _ in wanted]
    assert counted == [(12, 1), (5, 1), (5, 1), (4, 1), (4, 1)], "each position counts once"


def test_no_position_is_computed_twice_and_a_prefix_only_once(policy):
    trees, prefix = TokenTrees(policy), (7, 8, 9)
    one, other = trees.new_tree(prefix), trees.new_tree(prefix)
    assert (one.tokens, one.forwards) == (0, 0)
    trees.ask(
        [
            (one, [Query((*prefix, 10)), Query((*prefix, 10, 11)), Query((*prefix, 12))]),
            (other, [Query(prefix)]),
        ]
    )
    assert (one.tokens, one.forwards) == (3, 1)
    assert (other.tokens, other.forwards) == (0, 0), "what follows the prefix is known"
    trees.ask([(one, [Query((*prefix, 10, 11))])])
    assert (one.tokens, one.forwards) == (3, 1)
    assert trees.bytes == 6 * trees._pool.per_position


@pytest.mark.parametrize("in_one_row", [True, False], ids=["one row", "a row for each tree"])
def test_a_position_whose_state_nobody_read_is_computed_again_when_somebody_asks(policy, in_one_row):
    draw, trees = random.Random(3), TokenTrees(policy)
    trees.in_one_row = in_one_row
    prefix = tokens(draw, 34)
    texts = [(*prefix, *tokens(draw, count)) for count in (20, 12, 12, 1)]
    grown = [trees.new_tree(prefix) for _ in texts]
    asked = [
        (tree, [Query((*text, 5)), Query((*text, 6, 7))]) for tree, text in zip(grown, texts, strict=True)
    ]
    trees.ask(asked)
    assert worst(trees, asked) < 2e-5
    inside = [(tree, [Query(text[:-1])]) for tree, text in zip(grown[:3], texts, strict=False)]
    before = [tree.tokens for tree in grown[:3]]
    trees.ask(inside)
    assert worst(trees, [*inside, *asked]) < 2e-5
    with only(trees.base.model, torch.tensor([0])) as cut:
        again = int(in_one_row and cut)
    assert [tree.tokens for tree in grown[:3]] == [one + again for one in before]
    starts = tuple(range(30, 36))
    ((reply,),) = trees.ask([(grown[0], [Query(texts[0], since=starts)])])
    fresh = TokenTrees(policy)
    ((wanted,),) = fresh.ask([(fresh.new_tree(), [Query(texts[0], since=starts)])])
    np.testing.assert_allclose(reply.states, wanted.states, atol=2e-5)
    assert worst(trees, asked) < 2e-5


def test_what_a_failed_forward_did_not_compute_is_not_known(policy, monkeypatch):
    trees = TokenTrees(policy)
    tree, query = trees.new_tree((7, 8)), Query((7, 8, 9, 10), options=(5, 6))

    def full(*result, **more):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as failing:
        failing.setattr(TokenTrees, "_hidden", full)
        with pytest.raises(RuntimeError):
            trees.ask([(tree, [query])])
    with pytest.raises(ModelError):
        trees.ask([(tree, [query]), (trees.new_tree(), [Query(())])])
    ((found,),), ((wanted,),) = (
        one.ask([(one.new_tree((7, 8)), [query])]) for one in (trees, TokenTrees(policy))
    )
    ((again,),) = trees.ask([(tree, [query])])
    assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
    assert again.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)


def test_a_pool_that_cannot_grow_stays_as_it_was(policy, monkeypatch):
    draw, trees = random.Random(6), TokenTrees(policy)
    tree = trees.new_tree()
    trees.ask([(tree, [Query(tokens(draw, 9))])])
    grow, sizes = kv_pool._grown, []

    def full(tensor, want):
        sizes.append(want)
        if len(sizes) == 3:
            raise RuntimeError("out of memory")
        return grow(tensor, want)

    trees._pool._free = trees._pool._free[-5:]  # as if all others were taken
    with monkeypatch.context() as failing:
        failing.setattr(kv_pool, "_grown", full)
        with pytest.raises(RuntimeError):
            trees.ask([(tree, [Query(tokens(draw, 40))])])
    asked = [(tree, [Query(tokens(draw, 40))])]
    trees.ask(asked)
    assert worst(trees, asked) < 2e-5


def test_a_path_that_is_kept_and_is_not_there_frees_what_was_kept_before(policy):
    draw, trees = random.Random(4), TokenTrees(policy)
    tree = trees.new_tree()
    trees.ask([(tree, [Query((7, 8, 9, 10))])])
    tree.keep((7, 8, 9))
    tree.keep((7, 11))
    trees.ask([(trees.new_tree(), [Query(tokens(draw, 9))])])
    asked = [(tree, [Query((7, 8, 9, 12))])]
    trees.ask(asked)
    assert worst(trees, asked) < 2e-5


def test_what_is_freed_is_used_again_and_what_is_kept_stays_right(policy):
    draw, trees = random.Random(1), TokenTrees(policy)
    tree = trees.new_tree()
    stem, branches = tokens(draw, 5), [tokens(draw, 4) for _ in range(6)]
    asked = [(tree, [Query(stem + branch) for branch in branches])]
    trees.ask(asked)
    held = trees.bytes
    tree.keep(stem + branches[0])
    assert trees.bytes < held
    assert trees.peak_bytes == held
    trees.ask([(trees.new_tree(), [Query(tokens(draw, 9))])])
    assert worst(trees, [(tree, [Query(stem + branches[0])])]) < 2e-5
    trees.ask(asked)
    assert worst(trees, asked) < 2e-5
    tree.prune(stem)
    assert not tree._root.under[stem[0]].under[stem[1]].under[stem[2]].under[stem[3]].under[stem[4]].under
    tree.prune(())
    assert trees.bytes == 9 * trees._pool.per_position


def test_trees_of_unlike_length_attend_apart_and_a_forward_has_its_limit(policy, monkeypatch):
    draw, trees = random.Random(2), TokenTrees(policy)
    asked = [(trees.new_tree(), [Query(tokens(draw, count))]) for count in (20, 19, 18, 3, 3, 2, 1)]
    alike, forwards = [], []
    rows, forward = kv_pool.Rows.__init__, TokenTrees.forward
    monkeypatch.setattr(kv_pool.Rows, "__init__", lambda *given: alike.append(len(given[2])) or rows(*given))
    monkeypatch.setattr(
        TokenTrees, "forward", lambda self, rows: forwards.append(len(rows)) or forward(self, rows)
    )
    trees.ask(asked)
    assert (alike, forwards) == ([3, 2, 1, 1], [7])
    assert worst(trees, asked) < 2e-5
    forwards.clear()
    monkeypatch.setitem(token_tree.TREE_POSITIONS, "cpu", 8)
    trees.ask([(trees.new_tree(), query) for _, query in asked])
    assert forwards == [1, 1, 1, 3, 1]


def test_a_model_that_computes_something_else_in_one_row_is_found_out(policy, monkeypatch):
    attend = kv_pool.OneRow.attend
    monkeypatch.setattr(
        kv_pool.OneRow, "attend", lambda self, *given, **how: 1.01 * attend(self, *given, **how)
    )
    monkeypatch.setattr(attention, "_KNOWN", WeakKeyDictionary())
    assert not TokenTrees(policy).in_one_row
    monkeypatch.setattr(kv_pool.OneRow, "attend", attend)
    assert not TokenTrees(policy).in_one_row, "tried once"


def test_attention_that_a_pattern_does_not_know_is_refused(policy):
    with pytest.raises(NotImplementedError, match="softcap"):
        attention.attention(None, *[torch.zeros(1, 1, 1, 1)] * 3, None, pattern=object(), softcap=30.0)


def test_attention_in_parts_is_attention(monkeypatch):
    torch.manual_seed(0)
    query, keys, values = torch.randn(2, 5, 6, 8), torch.randn(2, 9, 3, 8), torch.randn(2, 9, 3, 8)
    mask = torch.zeros(2, 1, 5, 9).masked_fill(torch.rand(2, 1, 5, 9) < 0.3, -1e9)
    found, weight = kv_pool.attended(query, keys, values, mask, None)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        *(part.transpose(1, 2) for part in (query, keys, values)), attn_mask=mask, enable_gqa=True
    )
    assert torch.allclose(found.transpose(1, 2), wanted, atol=1e-6)
    # Values wider than keys, as other devices too, take the plain way.
    wide, same = kv_pool.attended(query, keys, torch.cat([values, values], -1), mask, None)
    assert torch.allclose(wide, torch.cat([found, found], -1), atol=1e-6)
    assert torch.allclose(same, weight, atol=1e-5)
    monkeypatch.setattr(kv_pool, "SCORES", 400)  # a few queries at a time
    again, weights = kv_pool.attended(query, keys, torch.cat([values, values], -1), mask, None)
    assert torch.allclose(again, wide, atol=1e-6)
    assert torch.allclose(weights, same, atol=1e-6)


def test_a_freed_prefix_leaves_nothing(policy):
    trees, prefix = TokenTrees(policy), tuple(range(5, 45))
    tree = trees.new_tree(prefix)
    trees.ask([(tree, [Query((*prefix, 7, 8))])])
    tree.prune(())
    assert trees.bytes == len(prefix) * trees._pool.per_position
    trees.free_prefix(prefix)
    assert trees.bytes == 0
    again = [(trees.new_tree(prefix), [Query((*prefix, 7, 8))])]
    trees.ask(again)
    assert worst(trees, again) < 2e-5


def test_a_token_is_drawn_with_its_own_noise_among_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0]])
    first = torch.zeros(1, dtype=torch.long)

    def ask(**fields):
        return replies_of(logits, first, [Query((1,), **fields)])[0][0]

    assert ask().tokens == (1,)
    assert ask().probabilities[0] == pytest.approx(logits.softmax(-1)[0, 1].item())
    assert ask(top_k=2).probabilities[0] == pytest.approx(torch.tensor([3.0, 2.0]).softmax(-1)[0].item())
    assert ask(likeliest=3).tokens == (1, 3, 2)
    assert sum(ask(likeliest=3).probabilities) == pytest.approx(1)
    assert ask(options=(4, 0)).probabilities == pytest.approx(torch.tensor([-1.0, 0.0]).softmax(-1).tolist())
    keys = torch.arange(400)
    perturbed = logits / 2.0 + gumbel(keys, 0, 5)
    drawn = [ask(noise=int(key), temperature=2.0) for key in keys]
    assert [reply.tokens[0] for reply in drawn] == perturbed.argmax(-1).tolist()
    kept = perturbed.masked_fill(torch.tensor([True, False, True, False, True]), -torch.inf)
    drawn = [ask(noise=int(key), temperature=2.0, top_k=2) for key in keys]
    assert [reply.tokens[0] for reply in drawn] == kept.argmax(-1).tolist()


def test_what_rounding_could_decide_is_not_called_certain():
    first = torch.zeros(1, dtype=torch.long)
    near = torch.tensor([[2.0, 2.00001, 0.0, -3.0]])
    for fields in ({}, {"likeliest": 1}, {"options": (0, 1)}, {"top_k": 1}, {"top_k": 1, "noise": 3}):
        assert replies_of(near, first, [Query((1,), **fields)])[1] == [False], fields
    clear = torch.tensor([[2.0, 1.0, 0.0, -3.0]])
    for fields in ({}, {"likeliest": 1}, {"options": (0, 1)}, {"top_k": 1}, {"top_k": 1, "noise": 3}):
        assert replies_of(clear, first, [Query((1,), **fields)])[1] == [True], fields
    drawn = [replies_of(clear, first, [Query((1,), noise=key, top_k=2)]) for key in range(40)]
    assert {reply.tokens for (reply,), _ in drawn} == {(0,), (1,)}
    assert all(certain for _, (certain,) in drawn), "the last of the likeliest is far from the next"


def test_a_tie_is_decided_by_the_path_alone_and_paid_for(policy, monkeypatch):
    trees, path = TokenTrees(policy), (7, 8, 9)
    monkeypatch.setattr(queries, "CLOSE", 1e9)
    tree = trees.new_tree()
    ((reply,),) = trees.ask([(tree, [Query(path)])])
    assert reply.tokens == (int(trees.alone(path).argmax()),)
    assert (tree.forwards, tree.tokens) == (2, 6)


@pytest.mark.parametrize("prefix", [(), tuple(range(5, 39))], ids=["no prefix", "prefix"])
def test_states_are_means_over_the_end_of_a_path(policy, prefix):
    trees, path = TokenTrees(policy), (*prefix, 7, 8, 9, 10, 11)
    starts = (1, len(path) - 2)
    ((reply,),) = trees.ask([(trees.new_tree(prefix), [Query(path, since=starts)])])
    with torch.no_grad():
        hidden = policy.hidden(torch.tensor([path]))[0]
    for found, start in zip(reply.states, starts, strict=True):
        assert torch.allclose(torch.from_numpy(found), hidden[start:].mean(0), atol=2e-5)


def test_a_path_without_tokens_is_refused(policy):
    trees = TokenTrees(policy)
    with pytest.raises(ModelError, match="without tokens"):
        trees.ask([(trees.new_tree(), [Query(())])])
