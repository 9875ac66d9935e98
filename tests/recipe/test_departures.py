"""Departures of a label over its seeds: each once, and sizes that differ as the least and the most."""

from __future__ import annotations

from alignbench.api.method import Departure
from alignbench.recipe.departures import over_seeds


def test_departures_that_differ_in_their_sizes_alone_are_one():
    first = [
        Departure("budget", "2 epochs", "1 epoch"),
        Departure("answers", "", "to 64 prompts, 1,200 tokens"),
    ]
    second = [
        Departure("budget", "2 epochs", "1 epoch"),
        Departure("answers", "", "to 64 prompts, 980 tokens"),
    ]
    assert [str(one) for one in over_seeds([first, second, first])] == [
        "budget: 1 epoch instead of 2 epochs",
        "answers: to 64 prompts, 980 to 1,200 tokens",
    ]


def test_departures_of_one_seed_stay_apart():
    trainings = [Departure("an additional training", "", f"{steps} steps") for steps in (3, 5)]
    longer = [Departure("an additional training", "", f"{steps} steps") for steps in (4, 5)]
    assert [str(one) for one in over_seeds([trainings, longer])] == [
        "an additional training: 3 to 4 steps",
        "an additional training: 5 steps",
    ]


def test_other_words_are_another_departure():
    one, other = Departure("batch", "16", "32"), Departure("batch", "16", "all")
    assert over_seeds([[one], [other]]) == (one, other)
    assert over_seeds([]) == ()
