"""The search by hand, and against the reference in the authors' order, on scripted language models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from alignbench_rain import RAIN
from alignbench_rain.search import Search, noise, noises
from alignbench_rain.tree import Node, back_up, most_visited, weighed

from .reference import Reference, visited
from .scripted import COMMA, END, KEY, PROMPT, WORDS, ForReference, Script, dice, random_logits


def rules(**fields):
    return RAIN.Config(**fields)


def likes(*tokens):
    """Logits that prefer these tokens, in this order, whatever stood before; the rest is out of reach."""
    logits = np.full(10, -30.0, np.float32)
    for place, token in enumerate(tokens):
        logits[token] = -place
    return lambda path: logits


def family(*children, n=0.0):
    """A root with children of (prior, n, value)."""
    root = Node((), 1.0, None, 0, n=n)
    for token, (prior, visits, value) in enumerate(children):
        node = Node((token,), prior, root, 1, n=visits, visits=int(visits), value=value)
        root.children[node.tokens] = node
    return root


def search(**fields):
    return Search(PROMPT, rules(**fields), WORDS, KEY, 12, threshold=0.95)


# --- by hand ------------------------------------------------------------------------------------------------


def test_the_choice_of_the_code_moves_values_to_one_half_and_counts_what_is_unvisited_as_worst():
    root = family((0.5, 3, 1.0), (0.3, 1, -1.0), (0.2, 0, 0.0), n=5)
    promise = [search(flavour="code").promise(node) for node in root.children.values()]
    assert promise == pytest.approx(
        [2 / 2.00001 + math.sqrt(5) / 4, 0.6 * math.sqrt(5) / 2, 0.4 * math.sqrt(5)]
    )


def test_the_choice_of_the_paper_takes_values_as_they_are_and_sums_the_siblings_visits():
    root = family((0.5, 3, 1.0), (0.3, 1, -1.0), (0.2, 0, 0.0), n=5)
    promise = [search(flavour="paper").promise(node) for node in root.children.values()]
    assert promise == pytest.approx([1 + 2 * 0.5 * 2 / 4, -1 + 2 * 0.3 * 2 / 2, 0 + 2 * 0.2 * 2 / 1])


def test_a_sibling_that_is_alike_gets_a_share_of_the_visit():
    root = family((0.6, 1, 1.0), (0.4, 2, -0.5), (0.1, 1, -1.0))
    first, alike, other = root.children.values()
    first.embedding = np.array([1, 0], np.float32)
    alike.embedding = np.array([0.96, 0.28], np.float32)
    other.embedding = np.array([0.6, 0.8], np.float32)
    back_up(first, 1.0, np.array([[1, 0]], np.float32), 0.2, 0.95)
    weight = 0.2 * 0.96
    assert (first.n, first.value, first.visits) == (2, 1.0, 2)
    assert alike.n == pytest.approx(2 + weight)
    assert alike.value == pytest.approx((2 * -0.5 + weight) / (2 + weight))
    assert alike.visits == 2, "a share of a visit is not a visit"
    assert (other.n, other.value) == (1, -1.0)
    assert (root.n, root.value) == (1, 1.0)


def test_the_greedy_set_gets_a_share_of_its_own_and_what_comes_twice_counts_once():
    drawn = [((1, 1), 0.9), ((1, 2), 0.2), ((1, 1), 0.9), ((1, 3), 0.1), ((1, 2), 0.2)]
    assert weighed(drawn) == [((1, 1), pytest.approx(0.3)), ((1, 2), 0.2), ((1, 3), 0.1)]
    assert weighed([((1, 1), 0.9)]) == [((1, 1), 0.9)]
    assert weighed([((1, 1), 0.05), ((1, 2), 0.2)])[0] == ((1, 1), 0.4)


def test_the_search_of_the_code_stops_when_the_best_child_has_more_than_six_visits_and_is_good():
    script = Script(likes(1, COMMA, 2))
    run, found, (first, *_) = script.search(rules(candidates=3), limit=1)
    best = most_visited(first)
    assert best is not None
    assert (best.visits, best.value) == (7, 1.0)
    assert run.searches == first.visits
    assert found.ids == best.tokens


def test_the_search_of_the_paper_stops_at_the_first_search_from_the_sixth_on_that_is_good():
    run, _, _ = Script(likes(1, COMMA, 2)).search(rules(flavour="paper", candidates=3), limit=1)
    assert run.searches == 6


@pytest.mark.parametrize("flavour", ["code", "paper"])
def test_a_search_that_finds_nothing_good_ends_after_fifty(flavour):
    script = Script(likes(1, COMMA, 2), value=lambda tokens: -1.0)
    run, _, _ = script.search(rules(flavour=flavour, candidates=3, spread=0.0), limit=1)
    assert run.searches == 50


def test_sets_that_are_all_bad_and_all_alike_get_company_up_to_the_most():
    script = Script(
        likes(*range(9)), value=lambda tokens: -1.0, embedding=lambda part: np.ones(4, np.float32)
    )
    _, _, (root, *_) = script.search(rules(candidates=3, most_candidates=6, similarity=0.0), limit=1)
    assert [node.tokens for node in root.children.values()] == [(token,) for token in range(6)]


@pytest.mark.parametrize(
    ("value", "embedding"),
    [
        (lambda tokens: 0.0, lambda part: np.ones(4, np.float32)),
        (lambda tokens: -1.0, lambda part: 9 * dice(part, size=4)),
    ],
    ids=["not all bad", "not alike"],
)
def test_sets_that_are_good_or_unlike_get_no_company(value, embedding):
    _, _, (root, *_) = Script(likes(*range(9)), value, embedding).search(rules(candidates=3), limit=1)
    assert len(root.children) == 3


def test_the_move_keeps_the_tree_below_it_and_its_visits_count_for_the_next():
    script = Script(likes(1, 2, COMMA))
    run, found, roots = script.search(rules(candidates=3), limit=3)
    assert found.moves == 2
    assert roots[1].tokens in {(1,), (2,), (COMMA,)}
    assert roots[1].parent is None
    assert roots[1].visits > 7, "the visits before the move and those after"
    assert run.searches == roots[0].visits + roots[1].visits - 7


def test_priors_at_the_root_are_mixed_with_the_uniform_distribution_in_the_code_alone():
    shares = np.exp([0.0, -1.0, -2.0]) / np.exp([0.0, -1.0, -2.0]).sum()
    for flavour, wanted in (("code", 0.75 * shares + 0.25 / 3), ("paper", shares)):
        _, _, (root, *_) = Script(likes(1, 2, 3)).search(rules(flavour=flavour, candidates=3), limit=1)
        assert [node.prior for node in root.children.values()] == pytest.approx(wanted, rel=1e-5)


def test_what_was_judged_once_is_not_judged_again():
    script = Script(random_logits(0), value=lambda tokens: dice(tokens)[0] > 0 or -1.0)
    script.search(rules())
    assert len(script.rated) == len(set(script.rated))


def test_simulation_and_candidates_go_in_step():
    script = Script(likes(1, 2, 3))
    script.search(rules(candidates=4, lengths=(3,)), limit=9)
    widths = [len(queries) for queries in script.asked]
    assert widths[:3] == [4, 4, 4], "the root's candidates, three tokens each"
    assert 5 in widths, "a simulation and four candidates"
    together = [len({query.path for query in queries}) for queries in script.asked if len(queries) == 5]
    assert together[0] == 1, "both begin at the same leaf"


def test_the_end_of_the_budget_gives_the_best_finished_answer_or_what_was_visited_most():
    rounds = []
    script = Script(random_logits(3), value=lambda tokens: dice(tokens)[0].item())
    run, found, _ = script.search(rules(), spent=lambda: rounds.append(0) or len(rounds) > 20)
    assert found.exhausted
    assert run.best is not None
    assert found.finished
    assert found.ids == run.best[1]
    endless = Script(likes(1, 2, 3), value=lambda tokens: -1.0)
    _, found, _ = endless.search(rules(), spent=lambda: True)
    assert found.exhausted
    assert not found.finished
    assert found.ids == (1,) * 12, "nothing was visited: the likeliest token, and a greedy end"


# --- against the reference ----------------------------------------------------------------------------------


def of_fast(node):
    return (node.prior, node.n, node.visits, node.value)


def of_reference(node):
    return (node.p, node.n, node.fn, node.q)


def assert_same_trees(roots, reference):
    assert len(roots) == len(reference.roots)
    for ours, (_, theirs) in zip(roots, reference.roots, strict=True):
        found, wanted = visited(ours, of_fast), visited(theirs, of_reference)
        assert found.keys() == wanted.keys()
        for path, numbers in wanted.items():
            assert found[path] == pytest.approx(numbers, rel=1e-5, abs=3e-6), path


VALUES = {
    "good": lambda tokens: 1.0,
    "mixed": lambda tokens: 1.0 if dice("value", tokens)[0] > 0 else -1.0,
    "bad": lambda tokens: -1.0,
    "soft": lambda tokens: float(np.tanh(dice("value", tokens)[0])),
}


@pytest.mark.parametrize("flavour", ["code", "paper"])
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("seed", range(3))
def test_tree_and_text_are_those_of_the_reference(flavour, kind, seed):
    config = rules(flavour=flavour, candidates=5, searches=30, lengths=(1, 2, 3), top_k=6, spread=0.4)
    script = Script(random_logits(seed), VALUES[kind])
    _, found, roots = script.search(config, threshold=0.6)
    reference = Reference(
        ForReference(Script(random_logits(seed), VALUES[kind])), config, PROMPT, KEY, 12, 0.6
    )
    assert reference.answer() == found.ids
    assert reference.searches == found.searches
    assert_same_trees(roots, reference)


@pytest.mark.parametrize("flavour", ["code", "paper"])
@pytest.mark.parametrize("searches", [1, 2, 3])
def test_a_move_to_a_set_that_was_hardly_looked_at_is_that_of_the_reference(flavour, searches):
    """What comes below such a set is still being drawn when it becomes the root."""
    config = rules(flavour=flavour, candidates=5, searches=searches, lengths=(2, 3), top_k=6)
    _, found, roots = Script(random_logits(0), VALUES["mixed"]).search(config, threshold=0.6)
    script = ForReference(Script(random_logits(0), VALUES["mixed"]))
    reference = Reference(script, config, PROMPT, KEY, 12, 0.6)
    assert reference.answer() == found.ids
    if searches > 1:  # with one, every root is new, and what a new root is worth is of no use and not asked
        assert_same_trees(roots, reference)


def test_a_search_that_is_content_with_anything_ends_with_the_first_as_in_the_reference():
    content = {"flavour": "paper", "least_searches": 0, "good_enough": 0.0}
    config = rules(**content, candidates=3, searches=8, lengths=(1, 2, 3), top_k=6)
    run, found, _ = Script(random_logits(0), VALUES["soft"]).search(config, limit=5)
    script = ForReference(Script(random_logits(0), VALUES["soft"]))
    reference = Reference(script, config, PROMPT, KEY, 5, 0.95)
    assert reference.answer() == found.ids
    assert reference.searches == run.searches


@pytest.mark.parametrize("kind", VALUES)
def test_what_is_foreseen_comes_sooner_and_changes_nothing(kind, monkeypatch):
    def searched(ahead):
        monkeypatch.setattr("alignbench_rain.search.AHEAD", ahead)
        script = Script(random_logits(1), VALUES[kind])
        run, found, roots = script.search(rules(candidates=5, lengths=(1, 2, 3), spread=0.4), limit=18)
        trees = [visited(root, of_fast) for root in roots]
        paths = {query.path for queries in script.asked for query in queries}
        return (found.ids, run.searches, trees), len(script.asked), len(paths)

    plain, rounds, paths = searched(0)
    prefetched, fewer, more = searched(4)
    assert prefetched == plain
    assert fewer < 0.9 * rounds
    # Where values are dice the guess is often wrong, and more is drawn than needed.
    assert more < (1.3 if kind in ("good", "bad") else 1.6) * paths


def test_the_reference_is_followed_through_additions_and_similar_siblings():
    """The cases above must not agree for want of the rules they are about."""
    config = rules(candidates=5, searches=30, lengths=(1, 2, 3), top_k=6, spread=0.4)
    _, _, roots = Script(random_logits(0), VALUES["bad"]).search(config, threshold=0.6)
    nodes = [node for root in roots for node in root.children.values()]
    assert max(len(root.children) for root in roots) > 5
    assert any(node.n != node.visits for node in nodes)


def test_another_key_draws_another_tree():
    def answer(key):
        script = ForReference(Script(random_logits(0), VALUES["mixed"]))
        return Reference(script, rules(searches=10), PROMPT, key, 12, 0.9).answer()

    assert len({answer((seed, "prompt", 0)) for seed in range(8)}) > 1
    assert noise(0, "a", 1) != noise(0, "a", 2)
    assert 0 <= noise(END) < 1 << 63
    assert [noises(0, "a", (1, 2))(number) for number in (0, 17)] == [
        noise(0, "a", (1, 2), number) for number in (0, 17)
    ]
