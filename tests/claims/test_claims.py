"""Claims: what counts as reproduced, what as a failure, and that one seed gives no verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.commands.claims import Claim, judge, load, page, runs_of
from alignbench.errors import RecipeError
from alignbench.recipe.load import load as load_recipe
from alignbench.results import Cell, Comparison, Cost, Measured, MetricInfo, Results

CLAIMS = Path(__file__).parents[2] / "recipes" / "claims"


def claim(**expect) -> Claim:
    wanted = {"metric": "reward", "a": "new", "b": "old", "sign": "+", **expect}
    return Claim.model_validate({"says": "It helps.", "source": "A", "recipe": "r.yaml", "expect": [wanted]})


def run(difference: float, half: float, *, estimand="method", seeds=(0, 1, 2), tokens=(400, 100)) -> Results:
    """A run whose two labels differ by `difference`, give or take `half`."""
    return Results(
        metrics={"reward": MetricInfo(), "reward@self": MetricInfo()},
        comparisons=(
            Comparison(
                a="old",
                b="new",
                metric="reward",
                estimand=estimand,
                difference=-difference,
                ci95=(-difference - half, -difference + half),
            ),
        ),
        cells=tuple(
            Cell(
                label=label,
                seed=seed,
                status="done",
                metrics={"reward": Measured(value=value + seed / 100)},
                cost=Cost(answer_tokens=spent + seed),
                judges=({"name": "reward-model", "quality": {"accuracy": value}},),
            )
            for label, value, spent in (("new", 0.7, tokens[0]), ("old", 0.6, tokens[1]))
            for seed in seeds
        ),
    )


@pytest.mark.parametrize(
    ("sign", "difference", "half", "margin", "verdict"),
    [
        ("+", 0.1, 0.05, 0, "reproduced"),
        ("+", 0.1, 0.15, 0, "not reproduced"),
        ("+", 0.1, 0.05, 0.08, "not reproduced"),
        ("-", -0.1, 0.05, 0, "reproduced"),
        ("-", 0.1, 0.05, 0, "not reproduced"),
        ("=", 0.01, 0.02, 0.05, "reproduced"),
        ("=", 0.01, 0.06, 0.05, "not reproduced"),
    ],
)
def test_a_claim_holds_where_its_whole_interval_lies_where_it_was_expected(
    sign, difference, half, margin, verdict
):
    said, (found,) = judge(claim(sign=sign, margin=margin), {"": run(difference, half)})
    assert (said, found.value) == (verdict, difference)


@pytest.mark.parametrize(("around", "verdict"), [(0.7, "reproduced"), (0.6, "not reproduced")])
def test_a_value_may_be_expected_around_a_number(around, verdict):
    wanted = claim(metric="judge.accuracy", b=None, sign="=", around=around, margin=0.05)
    said, (found,) = judge(wanted, {"": run(0, 1)})
    assert (said, found.value) == (verdict, pytest.approx(0.7))
    assert str(found.expectation).endswith(f"within 0.05 of {around:g}")


@pytest.mark.parametrize("said", [{"sign": "+"}, {"sign": "=", "ratio": True}])
def test_a_number_to_be_around_is_refused_where_nothing_reads_it(said):
    with pytest.raises(ValueError, match="around is for sign '='"):
        claim(around=4, **said)


def test_an_answer_is_held_against_decoding_without_a_cache():
    def spent(tokens: float) -> Results:
        cost = Cost(answer_tokens=tokens, answer_uncached_tokens=100)
        cells = [one.model_copy(update={"cost": cost}) for one in run(0, 1).cells]
        return run(0, 1).model_copy(update={"cells": tuple(cells)})

    wanted = claim(metric="uncached.tokens", b=None, sign="=", around=4, margin=1)
    assert judge(wanted, {"": spent(410)})[0] == "reproduced"
    assert judge(wanted, {"": spent(900)})[0] == "not reproduced"
    assert judge(wanted, {"": run(0, 1)})[0] == "no verdict"


def test_one_seed_gives_figures_and_no_verdict():
    one = run(0.1, 0.01, estimand="policies", seeds=(0,))
    assert judge(claim(metric="cost.answer_tokens", ratio=True, margin=2), {"": one})[0] == "no verdict"
    said, (found,) = judge(claim(), {"": one})
    assert (said, found.value) == ("no verdict", 0.1)


def test_a_claim_holds_only_if_all_of_it_does():
    both = claim().model_copy(update={"expect": [claim(sign=sign).expect[0] for sign in ("+", "-")]})
    said, found = judge(both, {"": run(0.1, 0.05)})
    assert (said, [one.holds for one in found]) == ("not reproduced", [True, False])


def test_costs_are_held_against_each_other_as_ratios():
    said, (found,) = judge(claim(metric="cost.answer_tokens", ratio=True, margin=3), {"": run(0, 1)})
    assert said == "reproduced"
    assert 3 < 2.718281828**found.value < 4
    assert (
        judge(claim(metric="cost.answer_tokens", ratio=True, margin=5), {"": run(0, 1)})[0]
        == "not reproduced"
    )


def test_labels_of_two_variants_are_compared_seed_by_seed():
    runs = {"clean": run(0, 1), "noisy": run(0, 1)}
    said, (found,) = judge(claim(metric="judge.accuracy", a="clean/new", b="noisy/old"), runs)
    assert (said, found.value) == ("reproduced", pytest.approx(0.1))


def test_a_number_that_is_not_there_is_no_verdict_and_says_so():
    said, (found,) = judge(claim(metric="perplexity"), {"": run(0, 1)})
    assert (said, found.note) == ("no verdict", "there is no such number in this run")


def test_what_cannot_be_tested_says_why_and_runs_nothing():
    untold = Claim(says="x", source="y", untestable="no such words")
    assert judge(untold, {})[0] == "not testable here"
    assert runs_of(untold) == {}
    with pytest.raises(ValueError, match="or say why it is untestable"):
        Claim(says="x", source="y")


def test_the_page_tells_of_failures_as_of_successes():
    known = {"C1": claim(), "C2": claim(sign="-"), "C3": Claim(says="x", source="y", untestable="no words")}
    judged = {name: judge(one, {"": run(0.1, 0.05)}) for name, one in known.items()}
    text = page(known, judged, sandbox="f" * 64, quick=False)
    assert "1 reproduced, 1 not reproduced, 1 not testable here" in text
    assert "| [C2](#c2) | It helps. | not reproduced |" in text
    assert "**Not testable here.** No words." in text
    assert "| reward, new minus old: above 0 | 0.1 | 0.05 to 0.15 | yes |" in text


def test_the_page_lists_what_did_not_run_and_why():
    known = {"C1": claim(), "C2": claim(sign="-")}
    text = page(known, {}, sandbox="f" * 64, quick=False, failed={"C2": "the disk was full"})
    assert "2 not run yet" in text
    assert "**Not run yet.** the disk was full" in text
    assert "| reward, new minus old: above 0 |  |  |  |" in text


def test_the_shipped_claims_are_twenty_and_each_recipe_is_good_and_has_their_labels():
    known = load(CLAIMS)
    assert list(known) == [f"C{number}" for number in range(1, 21)]
    for one in known.values():
        for variant, overrides in runs_of(one).items():
            recipe = load_recipe(CLAIMS / one.recipe, overrides).recipe
            labels = {f"{variant}/{label}" if variant else label for label in ("base", *recipe.methods)}
            for wanted in one.expect:
                mine = [label for label in (wanted.a, wanted.b) if label and label.startswith(variant)]
                assert labels.issuperset(mine if variant else filter(None, (wanted.a, wanted.b)))
            assert len(recipe.seeds) >= 3


def test_a_claim_that_is_wrong_is_named_with_its_line(tmp_path):
    (tmp_path / "claims.yaml").write_text("C1:\n  says: x\n  source: y\n  recipy: z\n")
    with pytest.raises(RecipeError) as error:
        load(tmp_path)
    assert "C1" in str(error.value)
