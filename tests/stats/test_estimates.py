"""Each number against scipy, statsmodels, or arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from alignbench import stats


@pytest.fixture
def table() -> np.ndarray:
    """Three seeds, forty prompts, with effects of both."""
    rng = np.random.default_rng(0)
    return 0.3 + rng.normal(0, 0.2, (3, 1)) + rng.normal(0, 0.5, (1, 40)) + rng.normal(0, 1, (3, 40))


def test_policies_are_students_t_over_the_prompts(table):
    estimate = stats.policies(table)
    expected = reference.ttest_1samp(table.mean(axis=0), 0)
    assert estimate.value == pytest.approx(table.mean())
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    assert (estimate.prompts, estimate.seeds) == (40, 3)


def test_differences_of_two_policies_are_the_paired_t_test():
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=50)
    a, b = prompts + rng.normal(0.2, 0.3, 50), prompts + rng.normal(0, 0.3, 50)
    expected = reference.ttest_rel(a, b)
    estimate = stats.policies((a - b)[None])
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_method_by_hand():
    # Means of seeds 1, 2, 6, of prompts 2, 4, of all 3. Rest (0, 0), (-1, 1), (1, -1): sum of squares 4.
    estimate = stats.method(np.array([[0.0, 2.0], [0.0, 4.0], [6.0, 6.0]]))
    ms_seed = 2 * (4 + 1 + 9) / 2
    ms_prompt = 3 * (1 + 1) / 1
    ms_rest = 4 / 2
    total = ms_seed + ms_prompt - ms_rest
    assert estimate.value == 3
    assert estimate.se == pytest.approx(np.sqrt(total / 6))
    share = ms_seed / total
    assert estimate.df == pytest.approx(1 / (share / 2 + (1 - share) / 1))


def test_method_takes_its_mean_squares_from_the_crossed_two_way_layout(table):
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    seed, prompt = np.indices(table.shape)
    frame = pandas.DataFrame({"y": table.ravel(), "seed": seed.ravel(), "prompt": prompt.ravel()})
    anova = anova_lm(ols("y ~ C(seed) + C(prompt)", frame).fit())
    ms_seed, ms_prompt, ms_rest = anova["mean_sq"]
    assert ms_prompt > ms_rest
    assert stats.method(table).se == pytest.approx(np.sqrt((ms_seed + ms_prompt - ms_rest) / table.size))


def test_a_negative_prompt_component_counts_as_none():
    # Prompt means are equal, so MS_prompt is 0 and below MS_rest: only the seeds are left.
    table = np.array([[1.0, -1.0], [-1.0, 1.0], [0.5, 0.5]])
    estimate = stats.method(table)
    assert estimate.se == pytest.approx(table.mean(axis=1).std(ddof=1) / np.sqrt(3))
    assert estimate.df == pytest.approx(2)


def test_where_prompts_do_not_matter_the_method_is_a_t_test_over_seeds():
    per_seed = np.array([0.1, 0.4, 0.2, 0.7])
    estimate = stats.method(np.repeat(per_seed[:, None], 30, axis=1))
    expected = reference.ttest_1samp(per_seed, 0)
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_say_nothing_of_the_method(seeds):
    with pytest.raises(stats.NotEstimableError, match=rf"^the method needs 3 seeds or more \(got {seeds}\)$"):
        stats.method(np.zeros((seeds, 10)))


@pytest.mark.parametrize("estimator", stats.ESTIMATORS.values())
def test_one_prompt_gives_no_interval(estimator):
    with pytest.raises(stats.NotEstimableError, match=r"^an interval needs two prompts or more \(got 1\)$"):
        estimator(np.zeros((3, 1)))


def test_exchanging_the_labels_changes_the_sign_and_nothing_else(table):
    for estimator in stats.ESTIMATORS.values():
        ours, theirs = estimator(table), estimator(-table)
        assert theirs.value == -ours.value
        assert theirs.interval() == pytest.approx(tuple(-bound for bound in reversed(ours.interval())))
        assert theirs.p_value() == pytest.approx(ours.p_value())


def test_the_order_of_seeds_and_prompts_does_not_matter(table):
    shuffled = table[[2, 0, 1]][:, np.random.default_rng(0).permutation(40)]
    for estimator in stats.ESTIMATORS.values():
        assert estimator(shuffled).interval() == pytest.approx(estimator(table).interval())


def test_equal_answers_everywhere_differ_by_exactly_nothing():
    for estimator in stats.ESTIMATORS.values():
        estimate = estimator(np.zeros((3, 20)))
        assert (estimate.interval(), estimate.p_value()) == ((0, 0), 1)


def test_without_any_spread_the_p_value_is_a_sign_tests():
    ones = np.ones((4, 10))
    assert stats.policies(ones).p_value() == pytest.approx(reference.binomtest(10, 10).pvalue)
    assert stats.method(ones).p_value() == pytest.approx(reference.binomtest(4, 4).pvalue)


@pytest.mark.parametrize(("df", "alpha"), [(2, 0.05), (4, 0.05 / 6), (199, 0.05), (199, 0.05 / 21)])
def test_the_smallest_detectable_difference_is_found_four_times_out_of_five(df, alpha):
    smallest = stats.Estimate("policies", 0.0, 0.1, df, 200, 1).smallest_detectable(alpha)
    # t = (z + shift) / sqrt(chi2 / df), integrated over chi2: an independent way to the same power.
    scale = np.sqrt(reference.chi2.ppf((np.arange(100_000) + 0.5) / 100_000, df) / df)
    critical = reference.t.ppf(1 - alpha / 2, df)
    power = reference.norm.sf(critical * scale - smallest / 0.1).mean()
    assert power == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("count", [1, 2, 6, 21])
def test_holm_agrees_with_statsmodels(count):
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(count).beta(0.3, 1, count)
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_of_nothing_and_of_ties():
    assert stats.holm([]) == []
    assert stats.holm([0.02, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])


def test_a_table_holds_the_prompts_that_every_seed_has():
    table = stats.tabulate([{"p1": 1, "p2": 2, "p3": 3}, {"p3": 30, "p1": 10}])
    assert table.tolist() == [[1, 3], [10, 30]]


@pytest.mark.parametrize("per_seed", [[], [{}], [{"p1": 1.0}, {"p2": 1.0}]])
def test_no_shared_prompt_is_a_reason(per_seed):
    with pytest.raises(stats.NotEstimableError, match=r"^no prompt has a value at every seed$"):
        stats.tabulate(per_seed)


def test_a_value_that_is_no_number_is_a_reason_and_never_averaged():
    with pytest.raises(stats.NotEstimableError, match=r"^2 of 6 values are not finite$"):
        stats.tabulate(
            [{"p1": 1.0, "p2": float("nan"), "p3": 0.0}, {"p1": float("inf"), "p2": 1.0, "p3": 0.0}]
        )


@pytest.mark.parametrize(
    ("difference", "p", "higher_is_better", "expected"),
    [
        (0.1, 0.01, True, "better"),
        (-0.1, 0.01, True, "worse"),
        (0.1, 0.01, False, "worse"),
        (-0.1, 0.05, False, "better"),
        (0.1, 0.051, True, "not told apart"),
        (0.0, 0.0, True, "not told apart"),
        (0.1, float("nan"), True, "not told apart"),
        (0.1, 0.001, None, None),
    ],
)
def test_verdicts(difference, p, higher_is_better, expected):
    assert stats.verdict(difference, p, higher_is_better) == expected


def test_a_difference_of_unpaired_methods_by_hand():
    # Seed means of a: 1, 3, 5; of b: 0, 0, 3; of prompts: 1, 3. No rest: a seed moves all prompts alike.
    a, b = np.array([1.0, 3.0, 5.0]), np.array([0.0, 0.0, 3.0])
    table = (a[:, None] - b[None, :])[..., None] + np.array([-1.0, 1.0])
    estimate = stats.unpaired(table)
    parts = np.array([4 / 3, 3 / 3, 2 / 2])
    assert estimate.value == 2
    assert estimate.se == pytest.approx(np.sqrt(parts.sum()))
    assert estimate.df == pytest.approx(parts.sum() ** 2 / (parts**2 / [2, 2, 1]).sum())


def test_an_unpaired_difference_without_effect_of_prompts_is_welchs_t():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 4), rng.normal(0.5, 3, 6)
    table = np.repeat((a[:, None] - b[None, :])[..., None], 30, axis=2)
    estimate, expected = stats.unpaired(table), reference.ttest_ind(a, b, equal_var=False)
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_unpaired_methods_need_three_seeds_on_each_side():
    with pytest.raises(stats.NotEstimableError, match=r"needs 3 seeds or more \(got 2\)"):
        stats.unpaired(np.zeros((3, 2, 10)))


def test_few_prompts_are_permuted_exactly_as_scipy_does():
    differences = np.random.default_rng(3).normal(0.5, 1, 10)
    exact = reference.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert stats.permutation(differences[None]) == pytest.approx(exact.pvalue, abs=1e-12)


def test_many_prompts_are_permuted_at_random_and_agree_with_t_where_t_holds():
    rng = np.random.default_rng(4)
    for mean in (0.0, 0.1, 0.2):
        table = rng.normal(mean, 1, (2, 150))
        assert stats.permutation(table) == pytest.approx(stats.policies(table).p_value(), abs=0.02)


def test_no_difference_at_all_is_permuted_to_one():
    assert stats.permutation(np.zeros((1, 20))) == 1.0


# --- the seeds' variance from all labels ------------------------------------------------------------------


def pairs_of(values: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Differences [seeds, prompts] of each two labels of `values` [labels, seeds, prompts]."""
    return {(str(a), str(b)): values[a] - values[b] for a in range(len(values)) for b in range(a)}


def test_the_pool_is_the_residual_mean_square_of_labels_and_seeds():
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    of_seed = np.random.default_rng(1).normal(0, 1, (5, 4))
    label, seed = np.indices(of_seed.shape)
    frame = pandas.DataFrame({"y": of_seed.ravel(), "label": label.ravel(), "seed": seed.ravel()})
    pool = anova_lm(ols("y ~ C(label) + C(seed)", frame).fit())["mean_sq"]["Residual"]
    # A seed moves all prompts alike, so that nothing but seeds varies.
    found = stats.pooled(pairs_of(np.repeat(of_seed[..., None], 30, axis=2)))
    steady = min(found.values(), key=lambda one: one.se)
    assert steady.se == pytest.approx(np.sqrt(2 * pool / 4))
    assert steady.df == pytest.approx((5 - 1) * (4 - 1))


def test_a_label_that_varies_somewhat_more_than_the_pool_counts_with_its_own_variance():
    values = np.random.default_rng(2).normal(0, 0.1, (6, 5, 50))
    values[0] += 0.018 * np.array([-2.0, 2.0, 0.0, 1.0, -1.0])[:, None]
    found, tables = stats.pooled(pairs_of(values)), pairs_of(values)
    for pair, one in found.items():
        assert one != stats.method(tables[pair])
        if "0" in pair:
            assert one.se >= 0.85 * stats.method(tables[pair]).se
            assert one.df < 25
        else:
            assert one.df > 50


@pytest.mark.parametrize("odd", [("0",), ("0", "4"), ("0", "1", "4")])
@pytest.mark.parametrize("equal", [True, False])
def test_labels_that_vary_far_more_leave_the_pool_and_hide_no_difference_of_others(odd, equal):
    values = np.random.default_rng(2).normal(0, 0.1, (7, 5, 50))
    alike = {pair: table for pair, table in pairs_of(values).items() if not set(odd) & set(pair)}
    for label in odd:
        far = np.roll([-2.0, 2.0, 0.0, 1.0, -1.0], int(label))
        values[int(label)] += (1 if equal else 1 + int(label)) * far[:, None]
    found, tables = stats.pooled(pairs_of(values)), pairs_of(values)
    assert {pair: found[pair] for pair in alike} == stats.pooled(alike)
    assert stats.alike(tables).keys() == alike.keys()
    for pair in found.keys() - alike:
        assert found[pair] == stats.method(tables[pair])


def test_an_outlier_among_equal_variances_is_as_rare_as_asked():
    rng, names = np.random.default_rng(0), "abcdefg"
    for df in (2, 7):
        drawn = rng.chisquare(df, (20_000, len(names)))
        share = np.mean(
            [stats.outlier(dict(zip(names, one, strict=True)), df, 0.05) is not None for one in drawn]
        )
        assert share == pytest.approx(0.05, abs=0.006)
    assert stats.outlier({"a": 0.0, "b": 0.0, "c": -1.0}, 4) is None
    assert stats.outlier({"a": 1.0, "b": 90.0, "c": 1.2, "d": 0.8}, 4) == "b"


def test_without_any_difference_between_seeds_the_pool_is_what_the_answers_leave():
    values = np.random.default_rng(3).normal(0, 1, (7, 3, 200))
    values -= values.mean(axis=2, keepdims=True)  # seeds that agree by chance
    found = stats.pooled(pairs_of(values))
    for pair, one in found.items():
        rest = stats.components(pairs_of(values)[pair]).rest
        assert one.se >= 0.9 * np.sqrt(rest / (3 * 200))


def test_two_labels_have_no_pool():
    table = np.random.default_rng(4).normal(0, 1, (3, 20))
    assert stats.pooled({("a", "b"): table}) == {("a", "b"): stats.method(table)}


def test_labels_that_are_compared_with_one_other_only_have_no_pool():
    values = np.random.default_rng(5).normal(0, 1, (4, 3, 20))
    star = {("0", str(b)): values[0] - values[b] for b in (1, 2, 3)}
    assert stats.pooled(star) == {pair: stats.method(table) for pair, table in star.items()}


def test_labels_with_other_seeds_share_the_pool():
    values = np.random.default_rng(6).normal(0, 1, (4, 5, 20))
    tables = pairs_of(values)
    fewer = {pair: table[:3] if "3" in pair else table for pair, table in tables.items()}
    found = stats.pooled(fewer)
    assert {found[pair].seeds for pair in found if "3" in pair} == {3}
    assert {found[pair].seeds for pair in found if "3" not in pair} == {5}


# --- equivalence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.3])
def test_equivalence_is_two_one_sided_tests(margin):
    from statsmodels.stats.weightstats import ttost_paired

    rng = np.random.default_rng(7)
    a = rng.normal(0.03, 0.4, 80)
    b = a + rng.normal(0, 0.3, 80)
    expected, *_ = ttost_paired(a, b, -margin, margin)
    assert stats.policies((a - b)[None]).p_equivalence(margin) == pytest.approx(expected, rel=1e-9)


def test_equal_answers_are_equivalent_at_any_margin_and_a_constant_difference_beyond_it_at_none():
    assert stats.policies(np.zeros((1, 20))).p_equivalence(0.01) < 0.001
    assert stats.policies(np.full((1, 20), 0.2)).p_equivalence(0.1) == 1


@pytest.mark.parametrize(
    ("p", "p_equivalence", "expected"),
    [
        (0.3, 0.04, "equivalent"),
        (0.3, 0.06, "not told apart"),
        (0.3, None, "not told apart"),
        (0.01, 0.01, "better"),
    ],
)
def test_only_a_named_margin_makes_labels_equivalent(p, p_equivalence, expected):
    assert stats.verdict(0.01, p, True, p_equivalence) == expected


# --- shares -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wins", [0, 1, 10, 19, 20])
def test_a_share_has_two_prompts_more_at_each_end(wins):
    table = np.array([[1.0] * wins + [0.0] * (20 - wins)])
    one = stats.with_prior((0, 1), stats.policies, table)
    expected = reference.ttest_1samp([*table[0], 0, 0, 1, 1], 0).confidence_interval(0.95)
    assert (one.value, one.prompts) == (wins / 20, 20)
    assert one.interval() == pytest.approx((max(0, expected.low), min(1, expected.high)))


@pytest.mark.parametrize("wins", [0, 3, 25, 50])
def test_the_interval_of_a_share_is_close_to_wilsons(wins):
    from statsmodels.stats.proportion import proportion_confint

    table = np.array([[1.0] * wins + [0.0] * (50 - wins)])
    found = stats.with_prior((0, 1), stats.policies, table).interval()
    assert found == pytest.approx(proportion_confint(wins, 50, method="wilson"), abs=0.02)
    assert found[0] < found[1]


def test_a_difference_of_shares_is_that_of_bonett_and_price():
    # 12 prompts won by a alone, 4 by b alone, 84 by both or neither; one more of each is added.
    table = np.array([[1.0] * 12 + [-1.0] * 4 + [0.0] * 84])
    one = stats.with_prior((-1, 1), stats.policies, table)
    p, q = 13 / 102, 5 / 102
    assert one.value == pytest.approx(0.08)
    assert one.centre == pytest.approx(p - q)
    assert one.se == pytest.approx(np.sqrt((p + q - (p - q) ** 2) / 101))


def test_one_prompt_gives_no_interval_of_a_share_either():
    with pytest.raises(stats.NotEstimableError, match=r"got 1"):
        stats.with_prior((0, 1), stats.policies, np.ones((1, 1)))


# --- prompts of one conversation --------------------------------------------------------------------------


def test_prompts_of_one_conversation_have_the_cluster_robust_error_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(8)
    of = rng.integers(0, 25, 80)
    values = rng.normal(0.3, 1, 80) + rng.normal(0, 1, 25)[of]
    clusters = {str(n): f"conversation {one}" for n, one in enumerate(of)}
    one = stats.policies(stats.tabulate([{str(n): v for n, v in enumerate(values)}], clusters))
    fit = sm.OLS(values, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": of})
    assert one.value == pytest.approx(values.mean())
    assert one.se == pytest.approx(fit.bse[0])
    assert one.prompts == len(set(of))


def test_conversations_of_one_prompt_each_leave_the_table_as_it_is():
    values = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 5.0}]
    assert stats.tabulate(values, {"a": "x", "b": "y"}).tolist() == stats.tabulate(values).tolist()


# --- what a run can find ----------------------------------------------------------------------------------


def test_the_detectable_difference_of_policies_is_that_of_the_paired_t_test():
    from statsmodels.stats.power import TTestPower

    found = stats.detectable(stats.Planning(0.03, 0.42), "policies", seeds=1, prompts=200, labels=2)
    effect = found / (0.42 * np.sqrt(2))
    assert TTestPower().power(effect, 200, 0.05) == pytest.approx(0.8, abs=1e-3)


def test_more_seeds_prompts_and_fewer_labels_find_smaller_differences():
    def least(seeds=3, prompts=200, labels=7):
        return stats.detectable(stats.PLANNING, "method", seeds=seeds, prompts=prompts, labels=labels)

    assert least(seeds=5) < least()
    assert least(prompts=800) < least()
    assert least(labels=3) < least()


def test_planning_deviations_are_those_that_the_values_were_drawn_with():
    rng = np.random.default_rng(9)
    values = (
        rng.normal(0, 0.2, (12, 8, 1)) + rng.normal(0, 0.5, (12, 1, 300)) + rng.normal(0, 0.4, (12, 8, 300))
    )
    found = stats.planned(pairs_of(values).values())
    assert (found.seed, found.prompt, found.rest) == pytest.approx((0.2, 0.5, 0.4), rel=0.1)


def test_seeds_that_agree_by_chance_promise_no_power():
    values = np.random.default_rng(10).normal(0, 0.4, (3, 3, 300))
    values -= values.mean(axis=2, keepdims=True)
    found = stats.planned(pairs_of(values).values())
    assert found.seed == pytest.approx(found.rest * 0.03 / 0.42)


def settings(rng, gaps: dict[float, float], prompts: int = 100):
    """One label's scores [1, prompts] at each setting, independent but for the prompt."""
    shared = rng.normal(0, 0.2, prompts)
    return {one: (shared + gap + rng.normal(0, 0.3, prompts))[None] for one, gap in gaps.items()}


def test_a_label_has_its_own_best_setting_where_its_prompts_tell_it_apart():
    rng = np.random.default_rng(0)
    alike = {f"l{n}": settings(rng, {0.0: 0.5, 1.0: 0.0}) for n in range(4)}
    odd = settings(rng, {0.0: 0.0, 1.0: 0.5})
    chosen = stats.best_settings({**alike, "odd": odd})
    assert chosen == {**dict.fromkeys(alike, 0.0), "odd": 1.0}


def test_a_label_that_fails_at_a_setting_does_not_decide_for_the_others():
    rng = np.random.default_rng(0)
    others = {f"l{n}": settings(rng, {0.0: 0.02, 1.0: 0.0}, prompts=2000) for n in range(4)}
    failing = settings(rng, {0.0: -0.5, 1.0: 0.5})
    assert stats.best_settings({**others, "failing": failing}) == {
        **stats.best_settings(others),
        "failing": 1.0,
    }


def test_labels_that_are_alike_rarely_have_unlike_settings():
    rng, differing = np.random.default_rng(0), 0
    for _ in range(200):
        labels = {f"l{n}": settings(rng, {0.0: 0.02, 1.0: 0.0}) for n in range(7)}
        differing += len(set(stats.best_settings(labels).values())) > 1
    assert differing < 0.2 * 200, "by the highest mean alone it is more than 0.8"


def test_of_equal_settings_the_lowest_is_chosen():
    table = np.ones((1, 5))
    assert stats.best_settings({"a": {0.7: table, 0.0: table}, "b": {0.0: table, 0.7: table}}) == {
        "a": 0.0,
        "b": 0.0,
    }
