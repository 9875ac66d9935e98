"""Each fit against a library, and its values per prompt against a bootstrap and a jackknife."""

from __future__ import annotations

import numpy as np
import pytest

from alignbench.metrics import fits


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_ratio_is_that_of_the_sums_and_its_spread_that_of_a_bootstrap(rng):
    tokens = rng.integers(5, 60, 300).astype(float)
    nats = tokens * 2 + rng.normal(0, 5, 300)
    values = fits.ratio(nats, tokens)
    assert values.mean() == pytest.approx(nats.sum() / tokens.sum(), abs=1e-12)
    draws = rng.integers(0, 300, (2000, 300))
    resampled = nats[draws].sum(1) / tokens[draws].sum(1)
    assert values.std(ddof=1) / np.sqrt(300) == pytest.approx(resampled.std(), rel=0.1)


def logistic(wins, lengths):
    import statsmodels.api as sm

    return sm.GLM(wins, sm.add_constant(lengths), family=sm.families.Binomial()).fit(
        tol=1e-14, maxiter=200, tol_criterion="params"
    )


def test_the_win_rate_at_equal_length_is_that_of_statsmodels(rng):
    lengths = rng.normal(0.4, 0.6, 250)
    wins = rng.choice([0, 0.5, 1], 250) * (rng.random(250) < 1 / (1 + np.exp(-lengths)))
    values = fits.share_at_equal_length(wins, lengths)[0]
    fitted = logistic(wins, lengths)
    expected = 1 / (1 + np.exp(-fitted.params[0]))
    assert values.mean() == pytest.approx(expected, abs=1e-9)
    robust = np.sqrt(
        np.linalg.multi_dot(
            [
                np.linalg.inv(fitted_information(fitted, lengths)),
                scatter(wins, lengths, fitted),
                np.linalg.inv(fitted_information(fitted, lengths)),
            ]
        )[0, 0]
    )
    decided = 4 * ((wins - 0.5) ** 2).mean()
    spread = max(robust, np.sqrt(decided * fitted.cov_params()[0, 0]))
    ends = 1 / (1 + np.exp(-(fitted.params[0] + np.array([-2, 2]) * spread)))
    assert values.std() / np.sqrt(250) == pytest.approx(np.abs(ends - expected).max() / 2, rel=1e-6)


def fitted_information(fitted, lengths):
    design = np.stack([np.ones_like(lengths), lengths], 1)
    expected = fitted.predict(design)
    return (design * (expected * (1 - expected))[:, None]).T @ design


def scatter(wins, lengths, fitted):
    design = np.stack([np.ones_like(lengths), lengths], 1)
    scores = design * (wins - fitted.predict(design))[:, None]
    return scores.T @ scores


def test_equal_lengths_leave_the_win_rate_as_it_is(rng):
    wins = rng.choice([0, 0.5, 1], 50)
    assert fits.share_at_equal_length(wins, np.zeros(50))[0].tolist() == wins.tolist()
    constant = fits.share_at_equal_length(wins, rng.normal(size=50))[0]
    assert 0 < constant.mean() < 1


def coverage_at_equal_length(rng, prompts, at_equal_length, slope, mean_length, ties):
    """The share of intervals that hold the truth, of simulated wins of which `ties` are ties."""
    from alignbench import stats

    held = []
    for _ in range(400):
        lengths = rng.normal(mean_length, 0.6, prompts)
        chance = 1 / (1 + np.exp(-np.log(at_equal_length / (1 - at_equal_length)) - slope * lengths))
        wins = (rng.random(prompts) < chance).astype(float)
        wins[rng.random(prompts) < ties] = 0.5
        try:
            values = fits.share_at_equal_length(wins, lengths)[0]
        except fits.NoFitError:
            continue
        low, high = stats.with_prior((0, 1), stats.policies, values[None]).interval()
        held.append(low <= at_equal_length <= high)
    return np.mean(held)


@pytest.mark.parametrize(
    ("at_equal_length", "slope", "mean_length", "ties"),
    [(0.5, 2, 0.4, 0), (0.73, 2, 0.4, 0), (0.88, 0, 0.4, 0), (0.73, 3, 1.0, 0), (0.5, 3, 1.0, 0.4)],
)
def test_twenty_prompts_are_enough_for_an_interval_that_holds(rng, at_equal_length, slope, mean_length, ties):
    """The plain sandwich interval holds it in 49% to 91% of them."""
    assert coverage_at_equal_length(rng, 20, at_equal_length, slope, mean_length, ties) >= 0.93


def test_many_prompts_leave_the_interval_its_plain_width(rng):
    lengths = rng.normal(0.2, 0.6, 5000)
    wins = (rng.random(5000) < 1 / (1 + np.exp(-lengths))).astype(float)
    values, fitted = fits.share_at_equal_length(wins, lengths)[0], logistic(wins, lengths)
    share = values.mean()
    assert values.std() / np.sqrt(5000) == pytest.approx(share * (1 - share) * fitted.bse[0], rel=0.03)


def test_an_answer_that_always_wins_by_being_longer_is_less_sure_than_one_of_equal_length(rng):
    wins = np.ones(20)
    longer, alike = (fits.share_at_equal_length(wins, rng.normal(mean, 0.3, 20))[0] for mean in (1.5, 0.0))
    assert 0.5 < longer.mean() < alike.mean() < 1
    assert longer.std() > 2 * alike.std()


def test_places_exchanged_give_the_other_share(rng):
    lengths, wins = rng.normal(size=80), rng.choice([0.0, 1.0], 80)
    forth = fits.share_at_equal_length(wins, lengths)[0]
    back = fits.share_at_equal_length(1 - wins, -lengths)[0]
    assert forth == pytest.approx(1 - back, abs=1e-10)


def test_a_preference_for_length_alone_is_worth_a_half_once_lengths_are_equal(rng):
    lengths = rng.normal(1, 1, 20_000)
    wins = (rng.random(20_000) < 1 / (1 + np.exp(-2 * lengths))).astype(float)
    assert wins.mean() > 0.75
    assert fits.share_at_equal_length(wins, lengths)[0].mean() == pytest.approx(0.5, abs=0.02)


def test_length_that_decides_every_win_gives_no_fit(rng):
    lengths = rng.normal(size=60)
    with pytest.raises(fits.NoFitError, match="length alone decides who wins"):
        fits.share_at_equal_length((lengths > 0).astype(float), lengths)[0]


def contest(rng, strengths, prompts):
    """Shares of wins [prompts, K, K] of players with known strengths."""
    wins = np.full((prompts, len(strengths), len(strengths)), np.nan)
    for i in range(len(strengths)):
        for j in range(i):
            won = (rng.random(prompts) < 1 / (1 + np.exp(strengths[j] - strengths[i]))).astype(float)
            wins[:, i, j], wins[:, j, i] = won, 1 - won
    return wins


def test_two_players_by_hand():
    wins = np.full((4, 2, 2), np.nan)
    wins[:, 1, 0], wins[:, 0, 1] = [1, 1, 1, 0], [0, 0, 0, 1]
    assert fits.strengths(wins)[0].mean(axis=0) == pytest.approx([0, np.log(3)], abs=1e-9)


def test_strengths_are_those_of_a_logistic_regression_without_intercept(rng):
    import statsmodels.api as sm

    wins = contest(rng, [0, 0.5, 1.0, -0.3], 60)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    design = np.zeros((60 * 6, 4))
    for place, (i, j) in enumerate(pairs):
        design[place::6, i], design[place::6, j] = 1, -1
    won = np.array([[wins[n, i, j] for i, j in pairs] for n in range(60)]).ravel()
    expected = sm.GLM(won, design[:, 1:], family=sm.families.Binomial()).fit(tol=1e-14, maxiter=100)
    found = fits.strengths(wins)[0].mean(axis=0)
    assert found == pytest.approx([0, *expected.params], abs=1e-9)


def test_intervals_of_strengths_are_those_of_a_bootstrap_over_prompts(rng):
    wins = contest(rng, [0, 0.7, -0.4], 150)
    values = fits.strengths(wins)[0]
    resampled = np.array(
        [fits.strengths(wins[rng.integers(0, 150, 150)])[0].mean(axis=0) for _ in range(200)]
    )
    assert values[:, 1:].std(axis=0, ddof=1) / np.sqrt(150) == pytest.approx(
        resampled[:, 1:].std(axis=0), rel=0.15
    )


def test_a_player_that_never_loses_has_no_strength(rng):
    wins = contest(rng, [0, 0, 0], 20)
    wins[:, 2, :2], wins[:, :2, 2] = 1, 0
    with pytest.raises(fits.NoFitError, match="no bound"):
        fits.strengths(wins)[0]


def test_kappa_is_that_of_scikit_learn_and_its_spread_that_of_statsmodels(rng):
    from sklearn.metrics import cohen_kappa_score
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    a = rng.choice([-1.0, 0.0, 1.0], 200)
    b = np.where(rng.random(200) < 0.7, a, rng.choice([-1.0, 0.0, 1.0], 200))
    values = fits.kappa(a, b)
    assert values.mean() == pytest.approx(cohen_kappa_score(a, b), abs=1e-9)
    table, _ = to_table(np.stack([a, b], 1).astype(int), bins=None)
    assert values.std() / np.sqrt(200) == pytest.approx(cohens_kappa(table).std_kappa, rel=1e-6)


def test_two_raters_who_always_say_the_same_one_thing_have_no_kappa():
    with pytest.raises(fits.NoFitError, match="both always say the same"):
        fits.kappa(np.ones(5), np.ones(5))
