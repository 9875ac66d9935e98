"""A judge that fails its controls cannot rank, and a verdict says how far its judge agrees with people."""

from __future__ import annotations

import pytest

from alignbench.evaluation.controls import wilson
from alignbench.report import leaderboard as leaderboards
from alignbench.report import metrics, verdicts
from alignbench.results import Results


def with_judge(results: Results, fit: bool, hits: int = 0, n: int = 0) -> Results:
    """The results as by a judge that agreed with people on `hits` of `n` held-out pairs."""
    name = results.metrics[str(metrics.headline(results))].judge
    quality = {
        "fit": fit,
        "reasons": [] if fit else ["an answer that instructs it to prefer it wins 40% more"],
    }
    if n:
        quality["people"] = {"n": n, "accuracy": hits / n, "ci95": wilson(hits, n)}
    return results.model_copy(update={"judges": ({"name": name, "quality": quality},)})


def test_an_unfit_judge_gives_no_verdicts(results: Results):
    seen = leaderboards.leaderboard(with_judge(results, fit=False))
    verdicts = [row.verdict for row in seen.rows if row.verdict is not None]
    assert verdicts
    assert {verdict.outcome for verdict in verdicts} == {None}
    assert all("fails its controls" in verdict.sentence for verdict in verdicts)
    assert "instructs it to prefer it wins 40% more" in seen.caption


def test_nothing_is_best_by_an_unfit_judge(results: Results):
    assert verdicts.best(with_judge(results, fit=False)).startswith("Nothing is ranked: the judge")


def test_a_fit_judge_ranks_as_before(results: Results):
    fit = with_judge(results, fit=True)
    assert verdicts.best(fit) == verdicts.best(results)
    assert leaderboards.leaderboard(fit).caption == leaderboards.leaderboard(results).caption


@pytest.fixture
def by_a_reward_model(results: Results) -> Results:
    metric = str(metrics.headline(results))
    info = results.metrics[metric].model_copy(update={"judge": "reward-model"})
    return results.model_copy(update={"metrics": {**results.metrics, metric: info}})


@pytest.mark.parametrize("hits", [68, 90])
def test_what_is_best_by_a_judge_says_how_far_it_agrees_with_people(by_a_reward_model: Results, hits: int):
    judged = with_judge(by_a_reward_model, True, hits, 100)
    low, high = wilson(hits, 100)
    said = f"agrees with people on {hits}% of 100 held-out pairs (95% interval {low:.0%} to {high:.0%}"
    assert said in verdicts.best(judged)
    assert said in leaderboards.leaderboard(judged).caption


def test_each_verdict_of_a_judge_near_chance_says_so(by_a_reward_model: Results):
    def shown(hits: int):
        rows = leaderboards.leaderboard(with_judge(by_a_reward_model, True, hits, 100)).rows
        return [row.verdict for row in rows if row.verdict is not None and row.verdict.outcome is not None]

    assert len(shown(62)) == len(shown(90)) > 0
    assert all(one.short.count("by a judge near chance") == 1 for one in shown(62))
    assert all("agrees with people on 62% of 100 held-out pairs" in one.sentence for one in shown(62))
    assert not any("chance" in one.short + one.sentence for one in shown(90))


def test_people_who_disagree_with_gold_do_not_make_it_doubtful(results: Results):
    assert results.metrics[str(metrics.headline(results))].judge == "gold"
    doubted = with_judge(results, True, 62, 100)
    assert verdicts.best(doubted) == verdicts.best(with_judge(results, True))
