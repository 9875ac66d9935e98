"""Do the method's verdicts find what they should, and only that? `benchmarks/proofs/power.py` in small."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from alignbench import stats


@pytest.fixture(scope="module")
def power(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("proofs/power.py")


@pytest.mark.parametrize(("seeds", "asked"), [(3, 0.45), (5, 0.85), (8, 0.97)])
def test_an_eighth_is_found_among_seven_labels(power, seeds, asked):
    assert power.found(seeds, runs=150) >= asked - 0.03


@pytest.mark.parametrize("odd", [(1, 1), (3, 1), (3, 3), (0, 1)])
def test_equal_labels_are_told_apart_in_few_runs_though_one_varies_more_or_less(power, odd):
    assert power.false_positives(3, odd, runs=1000) <= 0.065 + 0.015


@pytest.mark.parametrize(("seeds", "asked"), [(3, 0.35), (5, 0.8)])
def test_a_label_that_varies_ten_times_as_much_hides_no_difference_of_others(power, seeds, asked):
    assert power.found(seeds, odd=(10, 1), runs=100) >= asked


@pytest.mark.parametrize("seeds", [3, 5])
def test_what_the_plan_promises_is_found_four_times_out_of_five(power, seeds):
    promised = stats.detectable(stats.PLANNING, "method", seeds=seeds, prompts=400, labels=7)
    assert power.found(seeds, promised, runs=150) == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(("seeds", "estimand"), [(1, "policies"), (3, "policies"), (3, "method")])
@pytest.mark.parametrize("prompts", [20, 50])
@pytest.mark.parametrize("p", [0.02, 0.05])
@pytest.mark.parametrize("pair", [False, True])
def test_intervals_hold_near_the_ends_of_a_share(power, p, prompts, seeds, estimand, pair):
    """Student's t holds a share in 33% to 96% of these cases."""
    assert power.covered(p, prompts, seeds, pair=pair, estimand=estimand, runs=500) >= 0.93


@pytest.mark.parametrize("effect", ["equal prompts", "prompts that differ", "prompts that differ by label"])
def test_pooled_intervals_of_shares_hold_where_prompts_differ_too(power, effect):
    assert power.covered_pooled(0.05, 50, labels=3, seeds=3, effect=effect, runs=200) >= 0.93


def test_prompts_that_differ_give_outcomes_that_are_alike(power):
    rng = np.random.default_rng(0)
    found = power.outcomes(rng, 0.5, 2, 2, 20_000, "prompts that differ by label")
    of_one_prompt = np.corrcoef(found[0])[0, 1]
    assert of_one_prompt == pytest.approx(power.ALIKE, abs=0.03)
    assert np.corrcoef(found[:, 0])[0, 1] == pytest.approx(0, abs=0.03)
