"""Do 95% intervals hold the truth in 95% of simulated runs? And do families of tests cry wolf in 5%?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alignbench import stats

RUNS = 2000


def covered(estimator, tables, truth: float) -> float:
    """The share of `tables` whose interval holds `truth`."""
    hits = 0
    for table in tables:
        low, high = estimator(table).interval()
        hits += low <= truth <= high
    return hits / len(tables)


def crossed(rng, *, seeds: int, prompts: int, seed_sd: float, prompt_share: float) -> np.ndarray:
    """RUNS tables [RUNS, seeds, prompts] with mean 0.

    Prompts explain `prompt_share` of the variance at one seed. `seed_sd` is the seeds' standard deviation in
    units of the standard error that the same table has without them.
    """
    of_prompt, rest = np.sqrt(prompt_share), np.sqrt(1 - prompt_share)
    standard_error = np.sqrt((of_prompt**2 + rest**2 / seeds) / prompts)
    return (
        rng.normal(0, 1, (RUNS, seeds, 1)) * seed_sd * standard_error
        + rng.normal(0, of_prompt, (RUNS, 1, prompts))
        + rng.normal(0, rest, (RUNS, seeds, prompts))
    )


@pytest.mark.parametrize("prompt_share", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("seed_sd", [0, 0.5, 1, 2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_method_is_covered_whatever_the_seeds_do(seeds, seed_sd, prompt_share):
    rng = np.random.default_rng(seeds)
    tables = crossed(rng, seeds=seeds, prompts=200, seed_sd=seed_sd, prompt_share=prompt_share)
    assert 0.93 <= covered(stats.method, tables, 0.0) <= 0.97


def test_these_policies_and_the_method_are_different_questions():
    rng = np.random.default_rng(0)
    of_seed = rng.normal(0, 0.15, (RUNS, 3, 1))
    tables = of_seed + rng.normal(0, 1, (RUNS, 3, 200))
    of_these = tables - of_seed.mean(axis=1, keepdims=True)
    assert 0.93 <= covered(stats.policies, of_these, 0.0) <= 0.97
    assert covered(stats.policies, tables, 0.0) < 0.7
    assert 0.93 <= covered(stats.method, tables, 0.0) <= 0.97


@pytest.mark.parametrize("seed_sd", [0, 1])
def test_the_method_is_covered_for_wins_and_losses(seed_sd):
    """Each prompt has its own chance of a win, each seed moves them all."""
    rng = np.random.default_rng(5)
    chances = 0.55 + 0.2 * rng.uniform(-1, 1, (RUNS, 1, 200)) + seed_sd * 0.02 * rng.normal(size=(RUNS, 3, 1))
    wins = (rng.random((RUNS, 3, 200)) < chances).astype(float)
    assert 0.93 <= covered(stats.method, wins, 0.55) <= 0.97


DRAWS = {
    "skewed": (lambda rng, shape: rng.exponential(1, shape), 1.0),
    "bounded, piled up at one": (
        lambda rng, shape: np.minimum(rng.exponential(0.5, shape), 1.0),
        0.5 * (1 - np.exp(-2)),
    ),
    "rare wins": (lambda rng, shape: (rng.random(shape) < 0.08).astype(float), 0.08),
    "win, tie or loss": (lambda rng, shape: rng.choice([-0.5, 0.0, 0.5], shape, p=[0.2, 0.5, 0.3]), 0.05),
}


@pytest.mark.parametrize("name", DRAWS)
def test_these_policies_are_covered_for_data_that_are_not_normal(name):
    draw, truth = DRAWS[name]
    tables = draw(np.random.default_rng(7), (RUNS, 1, 200))
    assert 0.93 <= covered(stats.policies, tables, truth) <= 0.97


@pytest.mark.parametrize("estimand", stats.ESTIMATORS)
def test_equal_labels_are_told_apart_in_one_run_of_twenty_at_most(estimand):
    """Four equal labels, six pairs, all differences of one run correlated as real ones are."""
    rng = np.random.default_rng(4)
    labels = crossed(rng, seeds=3, prompts=50, seed_sd=0 if estimand == "policies" else 1, prompt_share=0.3)
    false_positives = 0
    for run in labels.reshape(RUNS // 4, 4, 3, 50):
        pairs = [run[i] - run[j] for i in range(4) for j in range(i)]
        p_values = [stats.ESTIMATORS[estimand](pair).p_value() for pair in pairs]
        false_positives += min(stats.holm(p_values)) <= 0.05
    assert false_positives / (RUNS // 4) <= 0.065


def test_fifteen_pairs_of_one_method_are_told_apart_in_one_run_of_twenty_at_most():
    """Six labels at three equal seeds, as a quickstart has them, with the planning deviations.

    Holm asks for p = 0.05/15 here, where an estimated number of degrees of freedom is too bold.
    """
    rng = np.random.default_rng(6)
    labels = rng.normal(0, 0.03, (RUNS // 2, 6, 3, 1)) + rng.normal(0, 0.42, (RUNS // 2, 6, 3, 100))
    false_positives = 0
    for run in labels:
        p_values = [stats.method(run[i] - run[j]).p_value() for i in range(6) for j in range(i)]
        false_positives += min(stats.holm(p_values)) <= 0.05
    assert false_positives / len(labels) <= 0.065


def test_beyond_95_percent_the_tail_agrees_with_the_interval_and_only_gets_heavier():
    table = np.random.default_rng(1).normal(0, 1, (3, 50)) + 0.3
    one = stats.method(table)
    for level in (0.9, 0.95, 0.99):
        low, _ = one.interval(level)
        at_edge = replace(one, value=one.value - low)
        assert at_edge.p_value() == pytest.approx(1 - level, rel=1e-9)
    bold = replace(one, tail=None)
    assert one.interval() == bold.interval()
    assert one.interval(0.99)[0] < bold.interval(0.99)[0]
    assert one.smallest_detectable(alpha=0.05 / 15) > bold.smallest_detectable(alpha=0.05 / 15)


# --- labels with seeds of their own -----------------------------------------------------------------------


def unpaired(rng, *, seeds: int, prompts: int, seed_sd: float, prompt_share: float) -> np.ndarray:
    """RUNS tables [RUNS, seeds, seeds, prompts] of two equal methods that share prompts, but no seed."""
    size = {"seeds": seeds, "prompts": prompts, "seed_sd": seed_sd, "prompt_share": prompt_share}
    a, b = crossed(rng, **size), crossed(rng, **size)
    shared = rng.normal(0, 1, (RUNS, 1, 1, prompts))  # what makes a prompt hard for both cancels
    return (a[:, :, None] + shared) - (b[:, None] + shared)


@pytest.mark.parametrize("prompt_share", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("seed_sd", [0, 0.5, 1, 2])
@pytest.mark.parametrize("seeds", [3, 5])
def test_methods_with_seeds_of_their_own_are_covered_whatever_the_seeds_do(seeds, seed_sd, prompt_share):
    rng = np.random.default_rng(seeds)
    tables = unpaired(rng, seeds=seeds, prompts=100, seed_sd=seed_sd, prompt_share=prompt_share)
    assert 0.93 <= covered(stats.unpaired, tables, 0.0) <= 0.97


def test_one_method_under_several_labels_is_told_apart_in_one_family_of_twenty_at_most():
    """A/A: four labels of one method, seeds of their own, six pairs, with the variance that a run showed."""
    rng = np.random.default_rng(8)
    labels = [crossed(rng, seeds=3, prompts=50, seed_sd=1, prompt_share=0.3) for _ in range(4)]
    false_positives = 0
    for run in zip(*labels, strict=True):
        pairs = [run[i][:, None] - run[j][None] for i in range(4) for j in range(i)]
        false_positives += min(stats.holm(stats.unpaired(pair).p_value() for pair in pairs)) <= 0.05
    assert false_positives / RUNS <= 0.065
