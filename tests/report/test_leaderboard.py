"""The leaderboard: rows, verdicts, notes, and runs side by side."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from alignbench.report import leaderboard as leaderboards
from alignbench.report import metrics, tables, terminal, verdicts
from alignbench.report.leaderboard import leaderboard
from alignbench.results import CellResult, Comparison, LabelResult, Measured, MetricInfo, Results, Status


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


def test_the_metric_of_a_plugin_has_a_column_in_every_table(results: Results):
    measured = {"distinct_words": Measured(value=0.5)}
    ours = results.model_copy(
        update={
            "metrics": {**results.metrics, "distinct_words": MetricInfo(plugin=True)},
            "labels": tuple(
                label.model_copy(update={"metrics": {**label.metrics, **measured}})
                for label in results.labels
            ),
        }
    )
    assert [column.title for column in leaderboard(ours).columns][-2:] == ["length", "distinct words"]
    console = Console(file=StringIO(), width=200)
    terminal.show(ours, console)
    for shown in (console.file.getvalue(), tables.markdown(ours), tables.csv(ours)):
        assert re.search("distinct[ _]words", shown)


def test_every_metric_of_a_plugin_has_a_column_where_nothing_ranks():
    mine = {f"mine_{number}": MetricInfo(plugin=True) for number in range(3)}
    infos = {"kl.base": MetricInfo(), "length.tokens": MetricInfo(), **mine}
    measured = dict.fromkeys(infos, Measured(value=0.5))
    results = Results(metrics=infos, labels=(LabelResult(label="tried", metrics=measured),))
    assert [column.metric for column in leaderboard(results).columns] == [*infos]


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
    assert metrics.headline(results) == "toxicity"
    assert [column.title for column in leaderboard(results).columns] == ["toxicity ↓", "length"]


def test_a_run_without_any_judge_shows_what_it_has():
    results = Results(labels=(LabelResult(label="base", metrics={"length.words": Measured(value=9)}),))
    seen = leaderboard(results)
    assert [column.metric for column in seen.columns] == ["length.words"]
    assert verdicts.best(results) == "No metric that ranks the labels was measured."


def test_departures_unfinished_seeds_warnings_and_missing_metrics_are_notes(results: Results):
    notes = {row.name: row.notes for row in leaderboard(results).rows}
    assert notes["dpo-hot"] == ("departure: training.batch: 32 instead of 16",)
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
        cells=(CellResult(label="x", seed=0, status="done"),),
    )
    row = leaderboard(results).rows[1]
    assert row.notes == ("no reward: not measured in this run",)
    assert row.verdict is not None
    assert row.verdict.outcome is None
    assert row.verdict.sentence == "x could not be compared with base: not compared."


def test_a_number_on_fewer_prompts_than_the_others_says_so():
    """A judge that abstains on the hard prompts of one label alone would lift its mean in silence."""
    results = Results(
        metrics={"reward": MetricInfo(judge="gold", higher_is_better=True)},
        labels=(
            LabelResult(label="base", metrics={"reward": Measured(value=0.4, n=200)}),
            LabelResult(label="x", start="base", metrics={"reward": Measured(value=0.9, n=120)}),
        ),
        cells=tuple(CellResult(label=name, seed=0, status="done") for name in ("base", "x")),
    )
    base, picky = leaderboard(results).rows
    assert base.notes == ()
    assert picky.notes == (
        "reward is of 120 prompts, and of 200 for others: two labels are compared on the prompts that both have",
    )


def test_a_blocked_label_gives_way_to_the_seed_that_failed():
    results = Results(
        labels=(LabelResult(label="x"),),
        cells=(
            CellResult(label="x", seed=0, status="blocked", reason="its start sft failed"),
            CellResult(label="x", seed=1, status="diverged", reason="loss is nan"),
        ),
    )
    assert leaderboards.status_of(results, results.labels[0]) == ("diverged", "loss is nan")


def test_with_three_seeds_the_verdict_is_on_the_method_and_these_policies_stand_behind_it(results: Results):
    verdicts = {row.name: row.verdict for row in leaderboard(results).rows}
    dpo, rain = verdicts["dpo"], verdicts["rain-on-dpo"]
    assert dpo is not None
    assert dpo.sentence == (
        "dpo is better than sft by 0.117 in reward (95% interval 0.027 to 0.207, "
        "p = 0.040 after Holm's correction), for the method, over 3 seeds."
    )
    assert dpo.policies == "These policies alone: +0.117 (95% interval 0.089 to 0.145), better."
    assert rain is not None
    assert rain.outcome == "not told apart"
    assert rain.short == "not told apart from dpo (could have seen 0.12)"
    assert rain.policies.endswith(", better.")


def test_with_fewer_seeds_the_verdict_is_on_these_policies_only(make_run):
    rows = leaderboard(make_run(seeds=(0,)).results()).rows
    dpo = next(row.verdict for row in rows if row.name == "dpo")
    assert dpo is not None
    assert dpo.sentence.endswith(", for these policies only (1 training run).")
    assert dpo.policies == ""
    assert "of these policies only" in leaderboard(make_run(seeds=(0,)).results()).caption
    assert "for these policies only (1 training run)" in verdicts.best(make_run(seeds=(0,)).results())


def test_the_numbers_of_the_table_are_of_the_method_where_it_is_known(results: Results):
    shown = leaderboard(results)
    rows = {row.name: row.measured(shown.columns[0]) for row in shown.rows}
    assert (rows["dpo"].estimand, rows["dpo"].ci95) == ("method", pytest.approx((0.6197, 0.7163)))
    assert rows["orpo"].estimand == "policies"
    assert "fewer than three seeds" in shown.caption


def test_a_verdict_on_the_seeds_that_survived_says_so(results: Results):
    orpo = next(row.verdict for row in leaderboard(results).rows if row.name == "orpo")
    assert orpo is not None
    assert orpo.short.endswith("(2 of 3 seeds)")
    assert orpo.sentence.endswith(
        "for these policies only (2 training runs). Not compared: seed 2 (orpo diverged)."
    )
    assert verdicts.best(results).endswith("; not all seeds of orpo finished.")


def test_a_seed_that_only_one_label_has_is_named():
    results = Results(
        metrics={"reward": MetricInfo(judge="gold", higher_is_better=True)},
        labels=tuple(LabelResult(label=name, start=start) for name, start in (("base", None), ("x", "base"))),
        cells=tuple(
            CellResult(label=label, seed=seed, status="done")
            for label, seeds in (("base", (0, 1, 2)), ("x", (1, 2, 3)))
            for seed in seeds
        ),
        comparisons=(
            Comparison(a="base", b="x", metric="reward", difference=0.1, verdict="better", seeds=(1, 2)),
        ),
    )
    verdict = verdicts.against_start(results, results.labels[1], "reward")
    assert verdict is not None
    assert verdict.sentence.endswith("Not compared: seed 0 (only base has it); seed 3 (only x has it).")


def unpaired(cells: dict[str, dict[int, Status]], **found: Any) -> Results:
    """Two labels whose finished cells share no seed, each compared with each."""
    return Results(
        metrics={"reward": MetricInfo(judge="gold", higher_is_better=True)},
        labels=(
            LabelResult(label="base", metrics={"reward": Measured(value=0.2)}),
            LabelResult(label="x", start="base", metrics={"reward": Measured(value=0.3)}),
        ),
        cells=tuple(
            CellResult(label=label, seed=seed, status=status)
            for label, of in cells.items()
            for seed, status in of.items()
        ),
        comparisons=(
            Comparison(a="x", b="base", metric="reward", difference=0.1, verdict="better", **found),
        ),
    )


def test_labels_with_seeds_of_their_own_are_said_to_be_unpaired_with_what_each_lost():
    x: dict[int, Status] = {0: "done", 1: "done", 2: "failed", 3: "done"}
    cells = {"base": dict.fromkeys((4, 5, 6, 7), "done"), "x": x}
    results = unpaired(cells, estimand="method", seeds=(0, 1, 3), against=(4, 5, 6, 7))
    verdict = verdicts.against_start(results, results.labels[1], "reward")
    assert verdict is not None
    assert verdict.short.endswith("(3 of 4 seeds of x and 4 of 4 seeds of base, unpaired)")
    assert verdict.sentence.endswith(
        "for the method, over 3 seeds of x and 4 of base, unpaired. Not compared: seed 2 of x (failed)."
    )
    assert "; it shares no seed with base: compared unpaired" in verdicts.best(results)
    (turned,) = (one.swapped() for one in results.comparisons)
    assert (turned.seeds, turned.against) == ((4, 5, 6, 7), (0, 1, 3))


def test_labels_of_equal_seeds_whose_survivors_share_none_are_said_to_be_unpaired():
    base: dict[int, Status] = {0: "failed", 1: "done"}
    results = unpaired({"base": base, "x": {0: "done", 1: "diverged"}}, seeds=(0,), against=(1,))
    verdict = verdicts.against_start(results, results.labels[1], "reward")
    assert verdict is not None
    assert verdict.short.endswith("(1 of 2 seeds of x and 1 of 2 seeds of base, unpaired)")
    assert verdict.sentence.endswith(
        "for these policies only (1 training run of x and 1 of base, unpaired). "
        "Not compared: seed 1 of x (diverged); seed 0 of base (failed)."
    )


def test_labels_with_seeds_of_their_own_that_all_finished_are_unpaired_and_nothing_is_missing():
    results = unpaired({"base": {1: "done"}, "x": {0: "done"}}, seeds=(0,), against=(1,))
    verdict = verdicts.against_start(results, results.labels[1], "reward")
    assert verdict is not None
    assert verdict.short.endswith("(unpaired seeds)")
    assert "Not compared" not in verdict.sentence


def test_a_difference_that_was_not_found_says_what_could_have_been(results: Results):
    hot = next(row.verdict for row in leaderboard(results).rows if row.name == "dpo-hot")
    assert hot is not None
    assert hot.short == "not told apart from dpo (could have seen 0.12)"
    assert hot.sentence.startswith(
        "dpo-hot is not told apart from dpo on reward (could have seen 0.12): "
        "difference \N{MINUS SIGN}0.013 (95% interval"
    )


def test_labels_are_called_equivalent_only_within_a_named_margin():
    found = Comparison(
        a="x",
        b="base",
        metric="reward",
        difference=0.01,
        ci95=(-0.02, 0.04),
        p_holm=0.4,
        margin=0.05,
        p_equivalence=0.003,
        verdict="equivalent",
    )
    labels = tuple(LabelResult(label=name, start=start) for name, start in (("base", None), ("x", "base")))
    verdict = verdicts.against_start(Results(labels=labels, comparisons=(found,)), labels[1], "reward")
    assert verdict is not None
    assert verdict.short == "equivalent to base within 0.0500"
    assert "x is equivalent to base on reward within 0.0500: difference +0.010" in verdict.sentence
    assert "p = 0.003 for equivalence" in verdict.sentence


def test_equal_answers_do_not_hide_what_could_have_been_seen(make_run):
    results = make_run(seeds=(0,)).results()
    equal = {
        "difference": 0.0,
        "ci95": (0.0, 0.0),
        "verdict": "not told apart",
        "smallest_detectable": 0.084,
    }
    pairs = tuple(
        one.model_copy(update=equal) if (one.a, one.b, one.metric) == ("sft", "dpo", "reward") else one
        for one in results.comparisons
    )
    rows = {
        row.name: row.verdict for row in leaderboard(results.model_copy(update={"comparisons": pairs})).rows
    }
    assert "(could have seen 0.084" in rows["dpo"].short


def test_prompts_that_nearly_repeat_a_training_prompt_are_said(results: Results):
    assert "nearly repeat" not in leaderboard(results).caption
    doubtful = Results.model_validate(
        {**results.model_dump(by_alias=True), "data": {"near_duplicates": {"test": 3}}}
    )
    found = "Of the test prompts of the data, 3 nearly repeat a training prompt."
    assert found in leaderboard(doubtful).caption


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
    verdict = verdicts.against_start(results, label, "reward")
    assert verdict is not None
    assert verdict.against == "base"


def test_the_best_label_is_named_with_those_that_are_not_told_apart_from_it(results: Results):
    found = "rain-on-dpo has the best reward, 0.702 ±0.048, for the method, over 3 seeds"
    assert verdicts.best(results) == (
        f"{found}; not told apart from it (could have seen 0.12): dpo and dpo-hot; "
        "compared with orpo for these policies only; not all seeds of orpo finished."
    )
    apart = tuple(
        one.model_copy(update={"smallest_detectable": 0.2}) if "dpo-hot" in (one.a, one.b) else one
        for one in results.comparisons
    )
    assert "from it: dpo (could have seen 0.12) and dpo-hot (could have seen 0.20)" in verdicts.best(
        results.model_copy(update={"comparisons": apart})
    )
    clear = tuple(
        one.model_copy(update={"verdict": "better" if (one.difference or 0) > 0 else "worse"})
        if one.verdict == "not told apart"
        else one
        for one in results.comparisons
    )
    changed = results.model_copy(update={"comparisons": clear})
    assert verdicts.best(changed).startswith(f"{found}; every other label is worse;")
    beaten = tuple(
        one.model_copy(update={"verdict": "worse" if one.a == "rain-on-dpo" else "better"})
        if {one.a, one.b} == {"rain-on-dpo", "dpo"}
        else one
        for one in clear
    )
    changed = results.model_copy(update={"comparisons": beaten})
    assert verdicts.best(changed).startswith(f"{found}; worse than dpo where the two are compared directly;")
    close = tuple(
        one.model_copy(update={"verdict": "equivalent", "margin": 0.1})
        if {one.a, one.b} == {"rain-on-dpo", "dpo"}
        else one
        for one in clear
    )
    changed = results.model_copy(update={"comparisons": close})
    assert verdicts.best(changed).startswith(f"{found}; equivalent within 0.100: dpo;")
    alone = results.model_copy(update={"comparisons": ()})
    assert "it was not compared with dpo, dpo-hot, orpo, sft and base" in verdicts.best(alone)


def test_where_less_is_better_the_smallest_is_best():
    results = Results(
        metrics={"toxicity": MetricInfo(judge="lexicon", higher_is_better=False)},
        labels=(
            LabelResult(label="base", metrics={"toxicity": Measured(value=0.2)}),
            LabelResult(label="x", metrics={"toxicity": Measured(value=0.1)}),
        ),
    )
    assert verdicts.best(results).startswith("x has the best toxicity, 0.100")


@pytest.mark.parametrize(
    ("raters", "below", "inside"),
    [
        (1, "of one rater only: another rater may differ by more", "for this one rater only"),
        (2, "of 2 raters only: another rater may differ by more", "for these 2 raters only"),
        (5, "over raters too: other raters are inside the interval", "for other raters too (5 asked)"),
        (None, "", ""),
    ],
)
def test_the_report_says_which_raters_an_interval_speaks_of(raters, below, inside):
    metrics = {"reward": Measured(value=0.5, ci95=(0.4, 0.6), n=20, raters=raters)}
    labels = [LabelResult(label=name, metrics=metrics) for name in ("base", "dpo")]
    known = Results(
        labels=tuple(labels), metrics={"reward": MetricInfo(higher_is_better=True, judge="people")}
    )
    assert below in leaderboard(known).caption
    assert ("rater" in leaderboard(known).caption) == bool(raters)
    assert inside in verdicts.best(known)
