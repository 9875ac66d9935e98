"""The leaderboard: rows, verdicts, notes, and runs side by side."""

from __future__ import annotations

from alignbench.report import leaderboard as leaderboards
from alignbench.report.leaderboard import leaderboard
from alignbench.results import Cell, Comparison, LabelResult, Measured, MetricInfo, Results


def test_every_label_has_a_row_base_and_failed_ones_too(results: Results):
    rows = {row.name: row for row in leaderboard(results).rows}
    assert list(rows) == ["base", "sft", "dpo", "dpo-hot", "orpo", "rain-on-dpo", "rlhf"]
    assert rows["rlhf"].status == "failed"
    assert rows["rlhf"].reason == "out of memory in the critic's forward pass"
    assert rows["base"].verdict is None


def test_the_columns_are_reward_win_rate_kl_and_length(results: Results):
    assert [column.title for column in leaderboard(results).columns] == [
        "reward ↑",
        "win rate ↑",
        "KL from base",
        "length",
    ]


def test_a_run_without_reward_is_led_by_its_first_judged_metric():
    results = Results(
        metrics={
            "toxicity": MetricInfo(judge="lexicon", higher_is_better=False),
            "length.tokens": MetricInfo(),
        },
        labels=(
            LabelResult(
                label="base", metrics={"toxicity": Measured(value=0.2), "length.tokens": Measured(value=9)}
            ),
        ),
    )
    assert leaderboards.headline(results) == "toxicity"
    assert [column.title for column in leaderboard(results).columns] == ["toxicity ↓", "length"]


def test_a_run_without_any_judge_shows_what_it_has():
    results = Results(labels=(LabelResult(label="base", metrics={"length.words": Measured(value=9)}),))
    seen = leaderboard(results)
    assert [column.metric for column in seen.columns] == ["length.words"]
    assert leaderboards.best(results) == "No metric that ranks the labels was measured."


def test_departures_unfinished_seeds_warnings_and_missing_metrics_are_notes(results: Results):
    notes = {row.name: row.notes for row in leaderboard(results).rows}
    assert notes["dpo-hot"] == ("departs from the others: training.batch: 32 instead of 16",)
    assert notes["orpo"] == ("seed 2 diverged: loss is nan at step 41",)
    assert notes["dpo"] == ("warning at seed 1: length grew by 80% in 50 steps",)
    assert notes["rain-on-dpo"] == ("no KL: rain is a decoder: it has no log-probabilities",)


def test_a_wanted_metric_that_was_never_recorded_is_told():
    results = Results(
        metrics={"reward": MetricInfo(judge="gold")},
        labels=(
            LabelResult(label="base", metrics={"reward": Measured(value=0.4)}),
            LabelResult(label="x", start="base"),
        ),
        cells=(Cell(label="x", seed=0, status="done"),),
    )
    row = leaderboard(results).rows[1]
    assert row.notes == ("no reward: not measured in this run",)
    assert row.verdict is not None
    assert row.verdict.outcome is None
    assert row.verdict.sentence == "x could not be compared with base: not compared."


def test_a_blocked_label_gives_way_to_the_seed_that_failed():
    results = Results(
        labels=(LabelResult(label="x"),),
        cells=(
            Cell(label="x", seed=0, status="blocked", reason="its start sft failed"),
            Cell(label="x", seed=1, status="diverged", reason="loss is nan"),
        ),
    )
    assert leaderboards.status_of(results, results.labels[0]) == ("diverged", "loss is nan")


def test_the_verdict_speaks_of_these_runs_and_of_the_method_apart(results: Results):
    verdicts = {row.name: row.verdict for row in leaderboard(results).rows}
    dpo, rain = verdicts["dpo"], verdicts["rain-on-dpo"]
    assert dpo is not None
    assert dpo.sentence == (
        "dpo is better than sft by 0.117 in reward (95% interval 0.089 to 0.145, "
        "p = 0.006 after Holm's correction), for these 3 training runs."
    )
    assert dpo.method == "Over seeds, as a method: +0.117 (95% interval 0.027 to 0.207), better."
    assert rain is not None
    assert rain.outcome == "better"
    assert rain.method.endswith("not distinguishable.")


def test_a_seed_that_did_not_finish_is_not_counted_among_the_training_runs(results: Results):
    orpo = next(row.verdict for row in leaderboard(results).rows if row.name == "orpo")
    assert orpo is not None
    assert "for these 2 training runs" in orpo.sentence


def test_an_indistinguishable_difference_tells_what_would_have_shown(results: Results):
    hot = next(row.verdict for row in leaderboard(results).rows if row.name == "dpo-hot")
    assert hot is not None
    assert hot.short == "not distinguishable from dpo"
    assert "dpo-hot cannot be told from dpo on reward: the difference is \N{MINUS SIGN}0.013" in hot.sentence
    assert "A difference of 0.040 would have shown in four runs of five." in hot.sentence


def test_a_verdict_turns_a_comparison_that_is_stored_the_other_way_round():
    results = Results(
        metrics={"reward": MetricInfo(judge="gold")},
        labels=(
            LabelResult(label="base", metrics={"reward": Measured(value=0.4)}),
            LabelResult(label="x", start="base", metrics={"reward": Measured(value=0.3)}),
        ),
        comparisons=(
            Comparison(a="base", b="x", metric="reward", difference=0.1, ci95=(0.05, 0.15), verdict="better"),
        ),
    )
    verdict = leaderboard(results).rows[1].verdict
    assert verdict is not None
    assert verdict.outcome == "worse"
    assert verdict.sentence.startswith(
        "x is worse than base by 0.100 in reward (95% interval \N{MINUS SIGN}0.150 to \N{MINUS SIGN}0.050)"
    )


def test_a_start_from_elsewhere_is_compared_with_base():
    label = LabelResult(label="x", start={"adapter": "me/mine"}, metrics={"reward": Measured(value=0.3)})
    results = Results(labels=(LabelResult(label="base"), label))
    assert leaderboards.start_of(label) == "adapter me/mine"
    verdict = leaderboards.against_start(results, label, "reward")
    assert verdict is not None
    assert verdict.against == "base"


def test_the_best_label_is_named_with_those_that_cannot_be_told_from_it(results: Results):
    assert (
        leaderboards.best(results)
        == "rain-on-dpo has the best reward: 0.702 ±0.021; every other label is distinguishably worse."
    )
    close = tuple(
        one.model_copy(update={"verdict": "not distinguishable"})
        if {one.a, one.b} == {"rain-on-dpo", "dpo"}
        else one
        for one in results.comparisons
    )
    changed = results.model_copy(update={"comparisons": close})
    assert (
        leaderboards.best(changed)
        == "rain-on-dpo has the best reward: 0.702 ±0.021; dpo cannot be told from it."
    )
    alone = results.model_copy(update={"comparisons": ()})
    assert leaderboards.best(alone).endswith("it was not compared with dpo, dpo-hot, orpo, sft and base.")


def test_where_less_is_better_the_smallest_is_best():
    results = Results(
        metrics={"toxicity": MetricInfo(judge="lexicon", higher_is_better=False)},
        labels=(
            LabelResult(label="base", metrics={"toxicity": Measured(value=0.2)}),
            LabelResult(label="x", metrics={"toxicity": Measured(value=0.1)}),
        ),
    )
    assert leaderboards.best(results).startswith("x has the best toxicity: 0.100")
