"""A judge that fails its controls cannot rank: no verdict by it is shown, and the reason is."""

from __future__ import annotations

from alignbench.report import leaderboard as leaderboards
from alignbench.report import metrics, verdicts
from alignbench.results import Results


def with_judge(results: Results, fit: bool) -> Results:
    name = results.metrics[str(metrics.headline(results))].judge
    quality = {
        "fit": fit,
        "reasons": [] if fit else ["an answer that instructs it to prefer it wins 40% more"],
    }
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
