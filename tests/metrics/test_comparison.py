"""From values per prompt to the verdicts of results.json, against scipy and by counting."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as reference

from alignbench import results
from alignbench.api.metric import Cell, Difference, Measure, Missing
from alignbench.evaluation.comparison import by_cell, by_label, column, comparisons, infos, summarise
from alignbench.metrics.kl import KL
from alignbench.metrics.length import Length
from alignbench.metrics.preference import Preference
from alignbench.metrics.reward import Reward
from alignbench.metrics.win_rate import WinRate

JUDGES = ["gold", "reward-model"]
PROMPTS = 60


def drawn(
    label: str, mean: float, *, seeds=(0, 1, 2), judge: str | None = "gold", metric="reward", better=True, rng
) -> list[Measure]:
    """Measures of one label whose prompts scatter by 1 and whose seeds scatter by 0.1."""
    return [
        Measure(
            metric=metric,
            label=label,
            seed=seed,
            judge=judge,
            higher_is_better=better,
            values={
                f"p{i}": float(value)
                for i, value in enumerate(mean + rng.normal(0, 0.1) + rng.normal(0, 1, PROMPTS))
            },
        )
        for seed in seeds
    ]


def less(a: list[Measure], b: list[Measure]) -> list[Difference]:
    return [
        Difference(
            metric=one.metric,
            a=one.label,
            b=other.label,
            seed=one.seed,
            judge=one.judge,
            higher_is_better=one.higher_is_better,
            values={id: value - other.values[id] for id, value in one.values.items()},
        )
        for one, other in zip(a, b, strict=True)
    ]


def grid(measures: list[Measure]) -> np.ndarray:
    return np.array([list(one.values.values()) for one in measures])


@pytest.fixture
def rng():
    return np.random.default_rng(3)


class Broken(Length):
    def differences(self, evidence, measures, a, b):
        raise ZeroDivisionError("nobody asked")


def test_a_metric_that_fails_takes_no_other_with_it(given):
    evidence = given({Cell("base", 0): [["1"], ["1 2"]], Cell("dpo", 0): [["1"], ["2"]]})
    found = summarise([Broken(), Length()], evidence)
    for label in ("base", "dpo"):
        assert "the metric failed: ZeroDivisionError: nobody asked" in str(
            found.labels[label]["broken"].missing
        )
        assert found.labels[label]["length.tokens"].value is not None
    named = Broken()
    named.name = "mine"
    assert "mine" in summarise([named, Length()], evidence).metrics, "by the name that a recipe gives it"


def test_a_column_says_whether_its_metric_is_a_plugins(given):
    class Words(Length):
        __module__ = "somebodys_plugin"

        def measure(self, evidence):
            return [replace(one, metric="words") for one in super().measure(evidence)]

    evidence = given({Cell("base", 0): [["1"], ["1 2"]], Cell("dpo", 0): [["1"], ["2"]]})
    found = summarise([Words(), Length()], evidence)
    assert {name for name, info in found.metrics.items() if info.plugin} == {"words"}


def test_a_labels_value_is_the_mean_over_seeds_and_prompts_under_both_estimands(rng):
    measures = drawn("dpo", 0.5, rng=rng)
    one = by_label(measures, JUDGES)["dpo"]["reward"]
    expected = reference.ttest_1samp(grid(measures).mean(axis=0), 0)
    assert (one.value, one.n, one.estimand) == (pytest.approx(grid(measures).mean()), PROMPTS, "policies")
    assert one.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert one.method is not None
    assert (one.method.value, one.method.n) == (pytest.approx(one.value), 3)
    assert one.method.ci95 != one.ci95


def test_a_cells_value_speaks_of_its_own_policy(rng):
    measures = drawn("dpo", 0.5, rng=rng)
    for one in measures:
        cell = by_cell(measures, JUDGES)[Cell("dpo", one.seed)]["reward"]
        assert cell.value == pytest.approx(np.mean(list(one.values.values())))
        assert cell.method is None


def test_only_prompts_that_every_seed_has_are_averaged():
    first = Measure(metric="reward", label="dpo", seed=0, values={"p0": 0.0, "p1": 1.0, "p2": 100.0})
    second = Measure(metric="reward", label="dpo", seed=1, values={"p1": 3.0, "p0": 0.0})
    one = by_label([first, second], JUDGES)["dpo"]["reward"]
    assert (one.value, one.n) == (1.0, 2)


def test_a_seed_that_lacks_a_metric_does_not_hide_the_others(rng):
    measures = drawn("dpo", 0.5, rng=rng, seeds=(0, 1))
    missing = Missing(metric="reward", label="dpo", seed=2, judge="gold", reason="gold gives no score")
    one = by_label([*measures, missing], JUDGES)["dpo"]["reward"]
    assert one.value == pytest.approx(grid(measures).mean())
    assert by_cell([*measures, missing], JUDGES)[Cell("dpo", 2)]["reward"].missing == "gold gives no score"


def test_a_metric_that_no_seed_has_is_not_available_with_its_reasons_once_each():
    missing = [
        Missing(metric="kl.base", label="rain", seed=seed, reason=reason)
        for seed, reason in enumerate(("no log-probabilities", "no log-probabilities", "crashed"))
    ]
    one = by_label(missing, [])["rain"]["kl.base"]
    assert (one.value, one.ci95, one.missing) == (None, None, "no log-probabilities; crashed")


def test_a_comparison_is_the_paired_t_test(rng):
    a, b = drawn("dpo", 0.5, rng=rng), drawn("sft", 0.0, rng=rng)
    policies, method = comparisons(less(a, b), JUDGES)
    expected = reference.ttest_rel(grid(a).mean(axis=0), grid(b).mean(axis=0))
    assert (policies.a, policies.b, policies.metric, policies.judge) == ("dpo", "sft", "reward", "gold")
    assert (policies.estimand, method.estimand) == ("policies", "method")
    assert policies.difference == pytest.approx(grid(a).mean() - grid(b).mean())
    assert policies.p_value == pytest.approx(expected.pvalue)
    assert policies.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert policies.p_holm == policies.p_value
    assert policies.verdict == "better"


def test_holm_runs_over_the_pairs_of_one_column_and_estimand(rng):
    from statsmodels.stats.multitest import multipletests

    labels = {name: drawn(name, mean, rng=rng) for name, mean in (("a", 0.0), ("b", 0.2), ("c", 0.6))}
    other = {name: drawn(name, 0.0, metric="tax", judge=None, rng=rng) for name in labels}
    differences = [
        one
        for table in (labels, other)
        for x, y in combinations(table, 2)
        for one in less(table[x], table[y])
    ]
    found = comparisons(differences, JUDGES)
    for metric in ("reward", "tax"):
        for estimand in ("policies", "method"):
            family = [one for one in found if (one.metric, one.estimand) == (metric, estimand)]
            assert [(one.a, one.b) for one in family] == [("a", "b"), ("a", "c"), ("b", "c")]
            expected = multipletests([one.p_value for one in family], method="holm")[1]
            assert [one.p_holm for one in family] == pytest.approx(expected)
            assert [one.verdict == "not told apart" for one in family] == [p > 0.05 for p in expected]


def test_one_more_correction_runs_over_all_columns_that_have_a_verdict(rng):
    from statsmodels.stats.multitest import multipletests

    columns = [
        {
            name: drawn(name, mean, metric=metric, better=better, rng=rng)
            for name, mean in (("a", 0), ("b", 0.1))
        }
        for metric, better in (("reward", True), ("tax", False), ("length", None))
    ]
    found = comparisons([one for each in columns for one in less(each["a"], each["b"])], JUDGES)
    for estimand in ("policies", "method"):
        first, second, neither = (one for one in found if one.estimand == estimand)
        expected = multipletests([first.p_value, second.p_value], method="holm")[1]
        assert [first.p_holm_all, second.p_holm_all] == pytest.approx(expected)
        assert [first.p_holm, second.p_holm] == [first.p_value, second.p_value]
        assert neither.p_holm_all is None


def test_more_comparisons_ask_for_a_larger_difference(rng):
    a, b, c = (drawn(name, 0.0, rng=rng) for name in "abc")
    (alone, _), among = comparisons(less(a, b), JUDGES), comparisons([*less(a, b), *less(a, c)], JUDGES)
    assert among[0].ci95 == alone.ci95
    assert among[0].smallest_detectable > alone.smallest_detectable > alone.ci95[1] - alone.difference


def test_one_seed_speaks_only_of_these_policies(rng):
    a, b = drawn("dpo", 0.5, seeds=(0,), rng=rng), drawn("sft", 0.0, seeds=(0,), rng=rng)
    assert [one.estimand for one in comparisons(less(a, b), JUDGES)] == ["policies"]
    assert by_label(a, JUDGES)["dpo"]["reward"].method is None


def test_a_pair_with_too_few_seeds_among_others_says_so(rng):
    a, b, c = drawn("a", 1.5, rng=rng), drawn("b", 0.0, rng=rng), drawn("c", 0.0, seeds=(0, 1), rng=rng)
    found = comparisons([*less(a, b), *less(a[:2], c)], JUDGES)
    method = {one.b: one for one in found if one.estimand == "method"}
    assert method["b"].verdict == "better"
    assert (method["c"].difference, method["c"].verdict) == (None, None)
    assert method["c"].missing == "the method needs 3 seeds or more (got 2)"
    # What cannot be tested does not count among the tests.
    assert method["b"].p_holm == method["b"].p_value


def test_a_metric_without_a_better_direction_gets_no_verdict():
    differences = [
        Difference(
            metric="length.tokens", a="dpo", b="sft", seed=0, values={f"p{i}": 5.0 + i % 3 for i in range(20)}
        )
    ]
    (one,) = comparisons(differences, JUDGES)
    assert (one.verdict, one.p_holm < 0.001) == (None, True)


def test_only_the_first_judges_columns_bear_the_plain_name():
    assert column("reward", "gold", JUDGES) == "reward"
    assert column("reward", "reward-model", JUDGES) == "reward@reward-model"
    assert column("kl.base", None, JUDGES) == "kl.base"
    assert column("length.tokens", None, []) == "length.tokens"


def test_a_column_is_described_even_where_its_first_cells_lack_it():
    missing = Missing(metric="kl.base", label="rain", seed=0, reason="no log-probabilities")
    measure = Measure(
        metric="kl.base", label="dpo", seed=0, unit="nats", description="sampled", values={"p0": 1.0}
    )
    assert infos([missing, measure], [])["kl.base"].unit == "nats"
    assert infos([missing], [])["kl.base"].unit == ""


# --- a whole run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(given, marks):
    """Seven labels, three seeds, 200 prompts: better and better, the last one without log-probabilities."""
    rng = np.random.default_rng(0)
    texts, scored = {}, {}
    for rank, label in enumerate(("base", "sft", "dpo", "orpo", "rlhf", "rlaif", "rain")):
        for seed in range(3):
            cell = Cell(label, seed)
            marked = np.clip(0.4 + 0.08 * rank + rng.normal(0, 0.02) + rng.normal(0, 0.2, 200), 0, 1)
            texts[cell] = [[f"{mark:.3f} {mark:.3f}"] for mark in marked]
            if label != "rain":
                own = rng.normal(-1, 0.2, (200, 12))
                scored |= {(cell, "self"): own, (cell, "base"): own - 0.1 * rank, (cell, "start"): own - 0.05}
    evidence = given(texts, {"gold": marks(("helpful",))}, scored=scored)
    for name in ("samples", "logprobs", "scores", "compare"):  # as the engine does: computed once
        setattr(evidence, name, cache(getattr(evidence, name)))
    return evidence


METRICS = (Reward(), WinRate(), KL(), Preference(), Length())


def test_every_pair_of_labels_is_compared_once_on_every_column(run):
    found = summarise([Reward(), WinRate()], run)
    labels = list(found.labels)
    assert labels == ["base", "sft", "dpo", "orpo", "rlhf", "rlaif", "rain"]
    for metric in ("reward", "reward.helpful", "win_rate"):
        for estimand in ("policies", "method"):
            pairs = [(c.a, c.b) for c in found.comparisons if (c.metric, c.estimand) == (metric, estimand)]
            assert pairs == list(combinations(labels, 2))


def test_no_pair_of_labels_and_no_column_is_left_out(run):
    found = summarise(METRICS, run)
    seen = [(c.metric, c.a, c.b) for c in found.comparisons if c.estimand == "policies"]
    assert len(seen) == len(set(seen)) == len(found.metrics) * 21
    assert all((c.difference is None) == bool(c.missing) for c in found.comparisons)
    assert all(c.judge == found.metrics[c.metric].judge for c in found.comparisons)


def test_what_the_run_was_built_to_show_is_found(run):
    found = summarise(METRICS, run)
    verdicts = {(c.a, c.b, c.metric, c.estimand): c.verdict for c in found.comparisons}
    assert verdicts["base", "rlaif", "reward", "policies"] == "worse"
    assert verdicts["base", "rlaif", "reward", "method"] == "worse"
    assert verdicts["base", "rlaif", "win_rate", "policies"] == "worse"
    assert found.labels["rlaif"]["win_rate"].value > 0.7
    assert found.labels["base"]["win_rate"].missing == "base is the reference of the comparison"
    assert found.labels["rlaif"]["kl.base"].value == pytest.approx(0.1 * 5 * 12, rel=1e-4)
    assert found.labels["rain"]["kl.base"].missing == "the policy gives no log-probabilities"
    (gap,) = [c for c in found.comparisons if (c.a, c.b, c.metric) == ("base", "rain", "kl.base")]
    assert (gap.difference, gap.verdict) == (None, None)
    assert gap.missing == "rain: the policy gives no log-probabilities"
    assert list(found.metrics)[:3] == ["reward", "reward.helpful", "win_rate"]


def test_equal_evidence_gives_equal_bytes_and_plain_json(run):
    def written():
        found = summarise(METRICS, run)
        labels = tuple(
            results.LabelResult(label=name, metrics=columns) for name, columns in found.labels.items()
        )
        record = results.Results(metrics=found.metrics, labels=labels, comparisons=found.comparisons)
        return results.as_bytes(results.as_json(record))

    first = written()
    assert first == written()
    assert json.loads(first)["labels"][2]["metrics"]["reward"]["value"] == pytest.approx(0.56, abs=0.05)


def test_labels_without_a_common_seed_are_compared_as_methods_with_seeds_of_their_own(rng):
    from alignbench import stats

    a, b = drawn("dpo", 0.5, rng=rng), drawn("sft", 0.0, seeds=(3, 4, 5), rng=rng)
    crossed = [
        Difference(
            metric="reward",
            a="dpo",
            b="sft",
            seed=one.seed,
            against=other.seed,
            judge="gold",
            higher_is_better=True,
            values={id: value - other.values[id] for id, value in one.values.items()},
        )
        for one in a
        for other in b
    ]
    policies, method = comparisons(crossed, JUDGES)
    assert (policies.seeds, policies.against) == (method.seeds, method.against) == ((0, 1, 2), (3, 4, 5))
    expected = stats.unpaired(grid(a)[:, None] - grid(b)[None])
    assert policies.difference == method.difference == pytest.approx(expected.value)
    assert method.ci95 == pytest.approx(expected.interval())
    assert method.p_value == pytest.approx(expected.p_value())
    assert (policies.p_permutation, method.p_permutation) == (pytest.approx(policies.p_value, abs=0.02), None)


def test_a_difference_that_cannot_be_told_says_why():
    one = Difference(metric="reward", a="dpo", b="sft", seed=0, values={}, missing="length decides")
    (compared,) = comparisons([one], [])
    assert (compared.difference, compared.missing) == (None, "length decides")


# --- conversations, shares, margins, power ----------------------------------------------------------------


def test_a_share_that_all_seeds_and_prompts_agree_on_has_an_interval_of_some_width():
    outcomes = [
        Measure(
            metric="attack.plain",
            label=label,
            seed=seed,
            unit="share",
            span=(0, 1),
            higher_is_better=False,
            values={f"p{i}": value for i in range(20)},
        )
        for label, value in (("a", 1.0), ("b", 0.0))
        for seed in range(3)
    ]
    one = by_label(outcomes, [])["a"]["attack.plain"]
    assert one.value == 1.0
    assert one.ci95[0] < 0.9
    assert one.ci95[1] == 1.0
    assert one.method.ci95[0] < 0.9


def test_a_win_rate_of_every_prompt_has_an_interval_that_ends_at_one(given, marks):
    texts = {Cell("base", 0): [["0"]] * 20, Cell("dpo", 0): [["1"]] * 20}
    found = summarise([WinRate()], given(texts, {"gold": marks()}))
    (one,) = [c for c in found.comparisons if c.estimand == "policies"]
    assert (one.difference, one.ci95[0]) == (-0.5, -0.5)
    assert -0.45 < one.ci95[1] < -0.25


def test_prompts_that_continue_one_conversation_count_as_one(given, marks):
    from alignbench.rows import Prompt

    first = [{"role": "user", "content": "tell me of tea"}, {"role": "assistant", "content": "hot"}]
    asked = [
        Prompt(id=f"p{i}", prompt=(*(first if i < 5 else ()), {"role": "user", "content": f"{i}?"}))
        for i in range(20)
    ]
    result = {Cell("base", 0): [["1" if i < 5 else "0"] for i in range(20)]}
    found = summarise([Reward()], given(result, {"gold": marks()}, asked=asked))
    assert found.labels["base"]["reward"].n == 16
    alone = summarise([Reward()], given(result, {"gold": marks()}))
    assert alone.labels["base"]["reward"].n == 20
    widths = [np.ptp(one.labels["base"]["reward"].ci95) for one in (found, alone)]
    assert widths[0] > 1.3 * widths[1]


def test_labels_are_equivalent_only_within_a_margin_that_was_named(rng):
    from statsmodels.stats.weightstats import ttost_paired

    a = drawn("a", 0.0, rng=rng)
    b = [
        Measure(
            metric="reward",
            label="b",
            seed=one.seed,
            judge="gold",
            higher_is_better=True,
            values={id: value + rng.normal(0, 0.1) for id, value in one.values.items()},
        )
        for one in a
    ]
    unnamed, _ = comparisons(less(a, b), JUDGES)
    assert (unnamed.verdict, unnamed.margin, unnamed.p_equivalence) == ("not told apart", None, None)
    named, _ = comparisons(less(a, b), JUDGES, margins={"reward": 0.05})
    expected, *_ = ttost_paired(grid(a).mean(axis=0), grid(b).mean(axis=0), -0.05, 0.05)
    assert (named.verdict, named.margin) == ("equivalent", 0.05)
    assert named.p_equivalence == pytest.approx(expected)
    narrow, _ = comparisons(less(a, b), JUDGES, margins={"reward": 0.001})
    assert narrow.verdict == "not told apart"


def test_a_margin_of_no_column_is_refused(given, marks):
    from alignbench.errors import RecipeError

    evidence = given({Cell("base", 0): [["1"], ["0"]]}, {"gold": marks()})
    with pytest.raises(RecipeError, match="'rewrad' is not a column of this run"):
        summarise([Reward()], evidence, {"rewrad": 0.1})


def test_what_a_run_could_have_found_is_one_number_for_all_pairs_of_a_column(rng):
    labels = {name: drawn(name, 0.0, rng=rng) for name in "abcde"}
    differences = [one for x, y in combinations(labels, 2) for one in less(labels[x], labels[y])]
    for estimand in ("policies", "method"):
        found = [one for one in comparisons(differences, JUDGES) if one.estimand == estimand]
        assert len({one.smallest_detectable for one in found}) == 1


def test_what_a_run_could_have_found_hardly_depends_on_what_it_found():
    """By its own seeds alone, a pair's number went from .064 to .296 for one and the same truth."""
    found = []
    for run in range(40):
        rng = np.random.default_rng(run)
        labels = {name: drawn(name, 0.0, rng=rng) for name in "abcdefg"}
        differences = [one for x, y in combinations(labels, 2) for one in less(labels[x], labels[y])]
        found.append(comparisons(differences, JUDGES)[-1].smallest_detectable)
    assert max(found) / min(found) < 2


def shares(label: str, p: float, rng, seeds=(0, 1, 2), prompts=20) -> list[Measure]:
    """A metric that is 0 or 1 for each prompt, 1 with probability p."""
    return [
        Measure(
            metric="refusal",
            label=label,
            seed=seed,
            values={f"p{i}": float(rng.random() < p) for i in range(prompts)},
            unit="share",
            higher_is_better=True,
        )
        for seed in seeds
    ]


def differ(a, b):
    return [replace(one, span=(-1.0, 1.0)) for one in less(a, b)]


def test_of_shares_that_are_all_zero_a_run_could_not_have_seen_anything_within_their_interval(rng):
    labels = {name: shares(name, 0.0, rng) for name in "abc"}
    found = comparisons(
        [one for x, y in combinations(labels, 2) for one in differ(labels[x], labels[y])], JUDGES
    )
    assert {one.estimand for one in found} == {"policies", "method"}
    for one in found:
        assert one.difference == 0.0
        assert one.smallest_detectable > one.ci95[1] > 0.1


@pytest.mark.parametrize(("prompts", "base", "truth"), [(20, 0.1, 0.45), (50, 0.05, 0.22), (100, 0.02, 0.11)])
def test_a_difference_of_shares_that_a_run_could_have_seen_is_found_in_four_of_five(prompts, base, truth):
    seen, found = [], []
    for run in range(300):
        rng = np.random.default_rng(run)
        low, high = (shares(name, p, rng, (0,), prompts) for name, p in (("b", base), ("a", base + truth)))
        (one,) = comparisons(differ(high, low), JUDGES)
        seen.append(one.smallest_detectable)
        found.append(one.p_holm < 0.05)
    assert np.median(seen) == pytest.approx(truth, rel=0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_a_comparison_names_the_seeds_it_rests_on(rng):
    a, b = drawn("a", 0.0, rng=rng), drawn("b", 0.0, rng=rng, seeds=(0, 2))
    policies, *_ = comparisons(less([a[0], a[2]], b), JUDGES)
    assert policies.seeds == (0, 2)


def test_prompts_that_all_have_one_value_give_no_interval(rng):
    flat = [replace(one, values=dict.fromkeys(one.values, 1.0)) for one in drawn("a", 0.0, rng=rng)]
    none = [replace(one, label="b", values=dict.fromkeys(one.values, 0.0)) for one in flat]
    found = by_label([*flat, *none], JUDGES)
    assert (found["a"]["reward"].value, found["a"]["reward"].ci95) == (1.0, None), (
        "[1, 1] would claim to be certain"
    )
    assert {(one.difference, one.ci95) for one in comparisons(less(flat, none), JUDGES)} == {(1.0, None)}
    (same, _) = comparisons(less(flat, [replace(one, label="c") for one in flat]), JUDGES)
    assert (same.difference, same.ci95) == (0.0, (0.0, 0.0)), "equal answers differ by zero"


@pytest.mark.parametrize("margin", [0, -0.1])
def test_a_margin_is_above_zero(margin):
    from pydantic import ValidationError

    from alignbench.recipe.schema import Evaluation

    with pytest.raises(ValidationError, match="margin"):
        Evaluation(margin={"reward": margin})


def test_a_tuning_run_has_no_margin(tmp_path):
    """Its columns are not those of the comparison, so that a margin would name none of them."""
    from alignbench.engine import tuning
    from alignbench.recipe.load import load

    file = tmp_path / "recipe.yaml"
    file.write_text(
        "model: {id: sandbox}\ndata: {train: sandbox}\nmethods: {sft: {sweep: {learning_rate: [1e-4, 1e-3]}}}\n"
        "sweep: {trials: 2}\nevaluation: {judges: [gold], metrics: [reward, kl], margin: {kl.base: 0.5}}\n"
    )
    trials, _ = tuning.tuning(load(file))
    assert trials.recipe.evaluation.margin == {}
