"""Claims: what decides a part, what the page says, and that nothing changes once the seeds have begun."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from alignbench import layout, results, stats
from alignbench.commands.claims.evidence import Evidence, Run, evidence
from alignbench.commands.claims.looks import Looks, later
from alignbench.commands.claims.registry import Claim, Part, Procedure, Registry, load, register
from alignbench.commands.claims.verdicts import (
    NOTHING,
    Found,
    decide,
    found,
    needs,
    p_values,
    summary,
    usable,
)
from alignbench.errors import RecipeError
from alignbench.recipe.load import load as load_recipe
from alignbench.report.claims import forest, page
from alignbench.results import CellResult, Comparison, LabelResult, Measured, MetricInfo, Results, StudentT
from alignbench.sandbox import FINGERPRINT

CLAIMS = Path(__file__).parents[2] / "recipes" / "claims"
REGISTRIES = [CLAIMS, *sorted(one.parent for one in CLAIMS.glob("*/registry.yaml"))]
PROCEDURE = Procedure.model_validate(
    {
        "first_seed": 100,
        "looks": [5, 8, 12, 20],
        "error": 0.05,
        "most_diverged": 0.2,
        "replication": {"seeds": [200, 201, 202, 203, 204], "error": 0.05},
    }
)


def part(**fields) -> Part:
    return Part.model_validate(
        {"says": "it helps", "metric": "reward", "a": "new", "b": "old", "sign": "+", "d": 0.1, **fields}
    )


def claim(*parts: Part, **fields) -> Claim:
    return Claim.model_validate(
        {
            "says": "It helps.",
            "source": "A",
            "recipe": "r.yaml",
            "parts": [one.model_dump() for one in parts],
            **fields,
        }
    )


def student(centre: float, se: float, seeds: int) -> StudentT:
    return StudentT(
        se=se, df=40.0, centre=centre, seeds=seeds, prompts=200, of_seeds=se**2 / 2, of_prompts=0.0
    )


def run(difference: float, se: float = 0.01, *, seeds: int = 5, diverged: int = 0) -> Results:
    """A run whose label `new` is `difference` above `old` under the estimand method."""
    t = student(-difference, se, seeds)
    return Results(
        metrics={"reward": MetricInfo()},
        recipe={"evaluation": {"sampling": {"temperature": [1.0]}}},
        labels=(
            LabelResult(
                label="new",
                metrics={
                    "reward": Measured(
                        value=0.7,
                        method=results.Estimate(value=0.7, n=seeds, t=student(0.7, se, seeds)),
                    )
                },
            ),
        ),
        comparisons=(
            Comparison(a="old", b="new", metric="reward", estimand="method", difference=-difference, t=t),
        ),
        cells=tuple(
            CellResult(
                label=label,
                seed=100 + number,
                status="diverged" if label == "new" and number < diverged else "done",
            )
            for label in ("new", "old")
            for number in range(seeds)
        ),
    )


def test_without_enough_seeds_the_number_at_the_temperature_of_the_part_is_shown():
    made = run(0.3, seeds=1)
    between = {"a": "new", "b": "old", "metric": "reward", "estimand": "policies"}
    settings = tuple(
        results.SettingResult(
            temperature=temperature,
            labels={"new": {"reward": Measured(value=0.5 + difference)}},
            comparisons=(Comparison(**between, difference=difference),),
        )
        for temperature, difference in ((0.0, 0.05), (1.0, 0.2))
    )
    made = made.model_copy(
        update={
            "settings": settings,
            "comparisons": (Comparison(**between, difference=0.9),),
            "recipe": {"evaluation": {"sampling": {"temperature": [0.0, 1.0]}}},
        }
    )
    runs = {"": Run(made)}
    assert evidence(part(temperature=0.0), runs).value == pytest.approx(0.05)
    assert evidence(part(temperature=1.0), runs).value == pytest.approx(0.2)
    assert evidence(part(temperature=1.0, b=None, around=0.5), runs).value == pytest.approx(0.2)


def word(one: Part, difference: float, se: float = 0.01, **more) -> str:
    found = evidence(one, {"": Run(run(difference, se, **more))})
    judged = p_values(one, found.estimate) if found.estimate and usable(PROCEDURE, found) else NOTHING
    return decide(PROCEDURE, 1, 0, {"": judged})[""]


@pytest.mark.parametrize(
    ("sign", "difference", "se", "verdict"),
    [
        ("+", 0.2, 0.01, "reproduced"),
        ("+", -0.2, 0.01, "contradicted"),
        ("+", 0.001, 0.01, "no effect"),
        ("+", 0.06, 0.05, "undecided"),
        ("-", -0.2, 0.01, "reproduced"),
        ("-", 0.2, 0.01, "contradicted"),
        ("=", 0.01, 0.01, "reproduced"),
        ("=", 0.2, 0.01, "contradicted"),
        ("=", -0.2, 0.01, "contradicted"),
        ("=", 0.1, 0.01, "undecided"),
        (">=", -0.01, 0.01, "reproduced"),
        (">=", 0.5, 0.01, "reproduced"),
        (">=", -0.2, 0.01, "contradicted"),
        (">=", -0.1, 0.01, "undecided"),
    ],
)
def test_a_part_is_decided_by_where_its_whole_interval_lies(sign, difference, se, verdict):
    assert word(part(sign=sign), difference, se) == verdict


def test_p_values_are_those_of_students_t():
    from scipy.stats import t

    one = stats.Estimate("method", 0.05, 0.02, 9.0, 200, 5)
    assert one.p_above() == pytest.approx(t.sf(0.05 / 0.02, 9))
    assert one.p_below() == pytest.approx(t.cdf(0.05 / 0.02, 9))
    assert one.p_above(0.1) == pytest.approx(t.sf(-0.05 / 0.02, 9))
    assert 2 * one.p_above() == pytest.approx(one.p_value())
    assert max(one.p_above(-0.1), one.p_below(0.1)) == pytest.approx(one.p_equivalence(0.1))


def test_the_correction_is_benjamini_and_hochbergs_with_what_was_decided_before():
    from scipy.stats import false_discovery_control

    p = [0.001, 0.02, 0.004, 0.3, 0.0126]
    some = {place: p_values(part(), _with_p(one)) for place, one in enumerate(p)}
    found = decide(PROCEDURE, len(p), 0, some)
    adjusted = false_discovery_control([one.smallest for one in some.values()])
    assert [found[place] != "undecided" for place in some] == [one <= PROCEDURE.level for one in adjusted]
    # The same part in a family in which nine of ten are decided, and in one in which none is.
    one = {"": p_values(part(), _with_p(0.01))}
    assert decide(PROCEDURE, 10, 9, one)[""] == "reproduced"
    assert decide(PROCEDURE, 10, 0, one)[""] == "undecided"


def _with_p(p: float) -> stats.Estimate:
    """An effect whose two-sided p value is p, far too uncertain to be called none."""
    from scipy.stats import t

    return stats.Estimate("method", float(t.isf(p / 2, 50)), 1.0, 50.0, 200, 20)


def test_an_undecided_part_says_how_many_seeds_or_prompts_decide_it():
    one = stats.Estimate("method", 0.03, 0.02, 40.0, 200, 5, of_seeds=0.0002, of_prompts=0.0)
    seeds, prompts = needs(PROCEDURE.level, part(d=0.05), one)
    assert seeds is not None
    assert prompts is None, "the seeds' part alone is too much, and prompts do not reduce it"
    larger = stats.Estimate("method", 0.03, 0.02 * (5 / seeds) ** 0.5, 40.0 * (seeds - 1) / 4, 200, seeds)
    assert larger.smallest_detectable(PROCEDURE.level) <= 0.03 < one.smallest_detectable(PROCEDURE.level)
    quiet = stats.Estimate("method", 0.03, 0.02, 40.0, 200, 5, of_seeds=0.0, of_prompts=0.0004)
    assert needs(PROCEDURE.level, part(d=0.05), quiet)[0] is None
    assert needs(PROCEDURE.level, part(d=0.05), quiet)[1] > 200  # pyright: ignore[reportOptionalOperand]


def test_what_an_undecided_part_needs_is_said_at_the_p_that_decides_one_part_more(two):
    """One of three parts is decided, so that a second one is at two thirds of a look's error."""
    finish(two, 0.06, 0.03)
    found = two.state().found["C1"][0]
    estimate = found.evidence.estimate
    assert found.needs == needs(PROCEDURE.level * 2 / 3, part(), estimate)
    assert found.needs[0] > needs(PROCEDURE.level, part(), estimate)[0]


def test_two_processes_put_what_each_has_run_on_one_record(two):
    """Each began before the other had finished anything."""
    other = Looks(two.registry, two.runs)
    two.records.begin()
    assert other.records.of("5-seeds") == two.records.of("5-seeds") == {}
    finish(two, 0.06, 0.05, only="/r/")
    two.state()
    next(two.runs.rglob("r")).rename(two.runs / "elsewhere")
    finish(other, 0.06, 0.05, only="/s/")
    other.state()
    assert set(Looks(two.registry, two.runs).records.of("5-seeds")) == {("C1", 0), ("C2", 0), ("C3", 0)}


def test_a_value_of_its_own_is_compared_with_a_number():
    own = part(b=None, around=0.7, sign="=", d=0.05)
    assert word(own, 0.0) == "reproduced"
    assert word(own.model_copy(update={"around": 0.5}), 0.0) == "contradicted"


def test_trained_judges_are_paired_by_seed_and_held_out_row(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    of_row = rng.normal(0, 0.4, 60)
    tables = {
        place: mean + of_row + rng.normal(0, 0.02, (5, 60))
        for place, mean in (("clean/new", 0.7), ("noisy/old", 0.6))
    }
    runs = {}
    for place, table in tables.items():
        variant, _, label = place.partition("/")
        for number, rows in enumerate(table):
            quality = {
                "rows": 60,
                layout.OF_ROWS: {f"row {id}": {"accuracy": a} for id, a in enumerate(rows)},
            }
            folder = layout.cell_folder(tmp_path / variant, label, 100 + number)
            folder.mkdir(parents=True)
            judges = [{"name": "other", "quality": {}}, {"name": "reward-model", "quality": quality}]
            (folder / layout.CELL).write_text(json.dumps({"judges": judges}))
        runs[variant] = Run(run(0), tmp_path / variant)
    both = evidence(part(metric="judge.accuracy", a="clean/new", b="noisy/old"), runs)
    assert both.estimate == stats.method(tables["clean/new"] - tables["noisy/old"])
    alone = evidence(part(metric="judge.accuracy", a="clean/new", b=None, around=0.5), runs)
    assert both.estimate is not None
    assert alone.estimate is not None
    assert alone.estimate.value == pytest.approx(tables["clean/new"].mean() - 0.5)
    assert both.estimate.se < alone.estimate.se / 5, "what a row does to both judges is no noise"
    missing = evidence(part(metric="judge.log_loss", a="clean/new", b="noisy/old"), runs)
    assert missing.missing == "there is no such number in this run"


def test_labels_of_two_variants_are_paired_by_prompt(tmp_path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    prompt, tables = rng.normal(0, 0.3, 40), {}
    for variant, mean in (("own", 0.6), ("other", 0.5)):
        folder = tmp_path / variant / layout.EVALUATION
        folder.mkdir(parents=True)
        table = mean + prompt + rng.normal(0, 0.05, (5, 40))
        tables[variant] = table
        rows = [
            {
                "judge": "gold",
                "label": "new",
                "seed": 100 + s,
                "prompt_id": f"p{p}",
                "sample": 0,
                "score": float(v),
            }
            for (s, p), v in np.ndenumerate(table)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / layout.SCORES)
        lines = (json.dumps({"id": f"p{p}", "conversation": f"c{p}"}) for p in range(40))
        (folder / layout.PROMPTS).write_text("\n".join(lines))
    record = run(0).model_copy(update={"judges": ({"name": "gold"},)})
    runs = {variant: Run(record, tmp_path / variant) for variant in tables}
    found = evidence(part(a="own/new", b="other/new"), runs)
    assert found.estimate == stats.method(tables["own"] - tables["other"])


def test_a_reward_is_compared_with_a_frontier_at_equal_kl_seed_by_seed(tmp_path):
    """The frontier's reward is its KL over ten; `new` lies 0.05 above it, between other neighbours at each seed."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    folder = tmp_path / layout.EVALUATION
    folder.mkdir(parents=True)
    prompt, rows, cells = rng.normal(0, 0.3, 40), [], []
    for seed in range(5):
        kl = {"low": 1.0, "middle": 2.0 + 0.2 * seed, "high": 4.0, "new": 2.5}
        for label, at in kl.items():
            reward = 0.1 * at + 0.05 * (label == "new") + prompt
            cells.append(
                CellResult(
                    label=label, seed=100 + seed, status="done", metrics={"kl.base": Measured(value=at)}
                )
            )
            rows += [
                {"judge": "gold", "label": label, "seed": 100 + seed, "prompt_id": f"p{p}", "score": float(v)}
                for p, v in enumerate(reward + rng.normal(0, 0.01, 40))
            ]
    pq.write_table(pa.Table.from_pylist(rows), folder / layout.SCORES)
    lines = (json.dumps({"id": f"p{p}", "conversation": f"c{p}"}) for p in range(40))
    (folder / layout.PROMPTS).write_text("\n".join(lines))
    record = run(0).model_copy(update={"judges": ({"name": "gold"},), "cells": tuple(cells)})
    above = part(b=None, frontier=["high", "low", "middle"])
    estimate = evidence(above, {"": Run(record, tmp_path)}).estimate
    assert estimate is not None
    assert estimate.value == pytest.approx(0.05, abs=0.004)
    assert (estimate.seeds, estimate.prompts) == (5, 40)
    assert estimate.se < 0.01, "what a prompt does to all labels is no noise"
    outside = evidence(part(b=None, frontier=["middle", "high"], a="low"), {"": Run(record, tmp_path)})
    assert outside.estimate is None
    assert "outside of 2.00 to 4.00" in outside.missing
    assert above.what == "reward: new minus that of high, low, middle at equal KL"
    beyond = part(b=None, frontier=["low", "middle"], beyond="flat")
    estimate = evidence(beyond, {"": Run(record, tmp_path)}).estimate
    assert estimate is not None
    # At 2.0, 2.2 and 2.4 the frontier ends before 2.5, and goes on at 0.20 to 0.24; at 2.6 and 2.8 it has 0.25.
    assert estimate.value == pytest.approx((0.10 + 0.08 + 0.06 + 0.05 + 0.05) / 5, abs=0.006)
    assert beyond.what == "reward: new minus that of low, middle at no more KL"
    below = evidence(
        part(b=None, frontier=["middle", "high"], a="low", beyond="flat"), {"": Run(record, tmp_path)}
    )
    assert "outside of 2.00 to 4.00" in below.missing, "nothing is known nearer to the start"


def test_a_frontier_is_of_rewards_and_of_two_labels_or_more():
    for wrong in ({"frontier": ["old"]}, {"frontier": ["x", "y"], "metric": "kl.base"}):
        with pytest.raises(ValueError, match="frontier"):
            part(b=None, **wrong)
    with pytest.raises(ValueError, match="frontier"):
        part(frontier=["x", "y"])
    with pytest.raises(ValueError, match="beyond is for a part with a frontier"):
        part(beyond="flat")


def test_seeds_that_diverged_are_left_out_and_counted_and_too_many_decide_nothing():
    few = evidence(part(), {"": Run(run(0.2, diverged=1))})
    assert (few.left_out, few.seeds, usable(PROCEDURE, few)) == (1, 5, True)
    assert word(part(), 0.2, diverged=1) == "reproduced"
    assert word(part(), 0.2, diverged=2) == "undecided"
    assert (
        "2 of 5 seeds left out"
        in found(PROCEDURE, part(), 5, "undecided", evidence(part(), {"": Run(run(0.2, diverged=2))})).note
    )


def test_a_claim_names_its_parts_where_their_verdicts_differ():
    both = claim(part(), part(sign="-"))
    one, other = (
        Found(each, verdict) for each, verdict in zip(both.parts, ("reproduced", "no effect"), strict=True)
    )
    assert summary(both, [one, one]) == "reproduced"
    assert summary(both, [one, other]) == "reproduced (1); no effect larger than 0.1 (2)"
    assert summary(Claim(says="x", source="y", cannot="no words"), []) == "the sandbox cannot show it"


@pytest.mark.parametrize(
    ("sign", "difference", "verdict"),
    [
        ("+", 0.2, "reproduced"),
        ("+", 0.05, "reproduced, by less than 0.1"),
        ("-", 0.05, "contradicted, by less than 0.1"),
        ("=", 0.2, "contradicted: above"),
        ("=", -0.2, "contradicted: below"),
        (">=", 0.05, "reproduced, to within 0.1"),
    ],
)
def test_a_verdict_says_where_an_effect_is_smaller_than_what_counts_and_on_which_side_it_lies(
    sign, difference, verdict
):
    one = part(sign=sign)
    made = evidence(one, {"": Run(run(difference, 0.005))})
    assert found(PROCEDURE, one, 5, word(one, difference, 0.005), made).verdict == verdict


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"around": 0.5}, "around is for a label's own value"),
        ({"a": "x/new", "b": "y/old", "metric": "kl.base"}, "compared by reward"),
        ({"d": 0}, "greater than 0"),
    ],
)
def test_a_part_that_cannot_be_measured_is_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        part(**fields)


# --- the registry -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(CLAIMS, tmp_path / "recipes" / "claims")


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("registry.yaml", 'sign: "+", d: 0.05}', 'sign: "-", d: 0.05}', "C1"),
        ("registry.yaml", "error: 0.05\n  most", "error: 0.2\n  most", "procedure"),
        ("epochs.yaml", "prompts: 600", "prompts: 60", "epochs.yaml"),
    ],
)
def test_a_change_of_the_registry_after_its_seeds_began_is_refused(folder, tmp_path, file, old, new, named):
    shutil.copy(CLAIMS.parent / "dpo-family.yaml", folder.parent)
    register(load(folder), tmp_path / "runs")
    register(load(folder), tmp_path / "runs")  # unchanged
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text("# a comment changes nothing\n" + text)
    register(load(folder), tmp_path / "runs")
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(RecipeError, match="changed after its seeds began: " + named):
        register(load(folder), tmp_path / "runs")


def test_a_registry_that_is_wrong_is_named_with_its_line(folder):
    shutil.copy(CLAIMS.parent / "dpo-family.yaml", folder.parent)
    text = (folder / "registry.yaml").read_text()
    (folder / "registry.yaml").write_text(text.replace("    source: Rafailov", "    sauce: Rafailov", 1))
    with pytest.raises(RecipeError) as error:
        load(folder)
    assert "claims.C6" in str(error.value)
    assert "registry.yaml:" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "a: long, b: middle, sign",
            "a: lang, b: middle, sign",
            "there is no label 'lang' in epochs.yaml",
        ),
        (
            "metric: preference.chosen",
            "metric: preferences.chosen",
            "nothing measures 'preferences' in epochs.yaml",
        ),
        (
            "temperature: 0.7, a: long",
            "temperature: 0.9, a: long",
            "nothing is sampled at 0.9 in epochs.yaml",
        ),
    ],
)
def test_a_part_that_its_recipe_does_not_measure_is_refused_with_its_line(folder, old, new, problem):
    shutil.copy(CLAIMS.parent / "dpo-family.yaml", folder.parent)
    text = (folder / "registry.yaml").read_text()
    (folder / "registry.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(RecipeError) as error:
        load(folder)
    line = text[: text.index(old)].count("\n") + 1
    assert problem in str(error.value)
    assert f"registry.yaml:{line}:" in str(error.value)


def test_the_shipped_registry_has_23_claims_and_each_recipe_is_good_and_has_their_labels():
    registry = load(CLAIMS)
    assert list(registry.claims) == [f"C{number}" for number in range(1, 24)]
    for one in registry.askable.values():
        for variant in one.variants or {"": []}:
            loaded = load_recipe(CLAIMS / one.recipe, one.variants.get(variant, []))
            assert {"base", *loaded.recipe.methods} >= set(one.labels(variant))
            asked = {each.temperature for each in one.parts} - {None}
            assert asked <= set(loaded.recipe.evaluation.sampling.temperature)
            if loaded.recipe.sweep is not None:
                assert loaded.recipe.sweep.seed not in registry.procedure.seeds(20)


@pytest.mark.parametrize("folder", REGISTRIES, ids=lambda one: one.name)
def test_the_page_says_what_is_on_record(folder, tmp_path):
    docs = CLAIMS.parents[1] / "docs"
    looks = Looks(load(folder), tmp_path)
    name = looks.registry.name
    known = looks.state().found
    again, _ = looks.replication(known)
    text, figure = page(
        looks.registry,
        known,
        again,
        state=looks.state(),
        records=looks.records,
        sandbox=FINGERPRINT,
        figure=f"{name}.svg",
        later=later(looks.registry),
    )
    assert (docs / f"{name}.md").read_text(encoding="utf-8") == text
    assert (docs / f"{name}.svg").read_text(encoding="utf-8") == figure


def test_a_claim_that_a_later_registry_asks_again_counts_by_its_new_parts_on_the_first_page(two):
    """C1 is decided at first and open now, C2 stays as it was, C3 is open at first and decided now."""
    folder = two.registry.folder / "anew"
    folder.mkdir()
    text = json.loads((two.registry.folder / "registry.yaml").read_text())
    text["claims"] = {name: {**text["claims"][name], "recipe": "../r.yaml"} for name in ("C1", "C3")}
    text["procedure"]["first_seed"] = 300
    text["title"] = "Asked anew"
    (folder / "registry.yaml").write_text(json.dumps(text))
    again = Looks(load(folder), folder / "runs")
    finish(again, 0.0001, 0.06)
    again.state()
    found = again.recorded()
    assert [ones[0].word for ones in found.values()] == ["undecided", "undecided"]
    found["C3"][0] = replace(found["C3"][0], word="reproduced")
    finish(two, 0.06, 0.001, only="/r/")
    state = two.state()
    assert [state.found[name][0].word for name in ("C1", "C2", "C3")] == ["reproduced"] * 2 + ["not run yet"]
    text, _ = page(
        two.registry, state.found, {}, sandbox="f" * 64, figure="f", later=[(again.registry, found)]
    )
    assert "## Asked again" in text
    assert "2 of 3 are decided in all parts by runs" in " ".join(text.split())
    assert "With what [later registries](#asked-again) ask, 2 are." in text
    assert f"on seeds {again.registry.procedure.first_seed}" in text
    assert "| [C3](claims.md#c3) | It helps. |" in text


def test_a_part_that_is_asked_again_takes_the_place_of_the_earlier_one_and_the_others_stay(two):
    """C1 has a second part that is open; a later registry asks that part alone, then one more asks C1 anew."""
    finish(two, 0.06, 0.001, only="/r/")
    known = two.state().found
    (first,) = known["C1"]
    one = two.registry.claims["C1"].model_copy(update={"parts": [part(), part()]})
    registry = replace(two.registry, claims={"C1": one})
    open_ = replace(first, word="undecided")
    second = one.model_copy(update={"parts": [part(again=2)]})
    more = replace(registry, claims={"C1": second})
    anew = replace(registry, claims={"C1": one})

    def count(*later: tuple[Registry, dict[str, list[Found]]]) -> str:
        text, _ = page(registry, {"C1": [first, open_]}, {}, sandbox="f" * 64, figure="f", later=later)
        return text

    assert "0 of 1 claims are decided" in count()
    assert "ask, 1 are." in count((more, {"C1": [first]}))
    assert "ask, 0 are." in count((more, {"C1": [open_]}))
    assert "ask, 0 are." in count((more, {"C1": [first]}), (anew, {"C1": [first, open_]}))
    assert "ask, 1 are." in count(
        (anew, {"C1": [open_, first]}),
        (replace(more, claims={"C1": one.model_copy(update={"parts": [part(again=1)]})}), {"C1": [first]}),
    )


def test_all_parts_of_a_claim_ask_one_again_or_none_does():
    with pytest.raises(ValueError, match="either all parts of a claim ask one again, or none does"):
        Claim(says="x", source="y", recipe="r.yaml", parts=[part(), part(again=2)])


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("C1", {"again": 2}, "C1: no part 2 of the registries before asks"),
        ("C1", {"again": 1, "d": 0.3}, "C1: no part 1 of the registries before asks"),
        ("C1", {"again": 1, "sign": "-"}, "C1: no part 1 of the registries before asks"),
        ("C1", {"again": 1, "first_seed": 119}, "seed 119 is one of an earlier registry"),
        ("C1", {"again": 1, "first_seed": 200}, "seed 200 is one of an earlier registry"),
    ],
)
def test_what_cannot_be_asked_again_is_refused(two, name, changes, words):
    folder = two.registry.folder / "anew"
    folder.mkdir()
    text = json.loads((two.registry.folder / "registry.yaml").read_text())
    first_seed = changes.pop("first_seed", 300)
    (asked,) = text["claims"][name]["parts"]
    text["claims"] = {name: {**text["claims"][name], "recipe": "../r.yaml", "parts": [{**asked, **changes}]}}
    text["procedure"] |= {"first_seed": first_seed, "replication": {"seeds": [500, 501, 502], "error": 0.05}}
    (folder / "registry.yaml").write_text(json.dumps(text))
    with pytest.raises(RecipeError, match=words):
        later(two.registry)


def test_a_registry_knows_those_beside_it_that_came_later():
    first, follow_up, more = map(load, (CLAIMS, CLAIMS / "follow-up", CLAIMS / "more-data"))
    assert [one.name for one, _ in later(first)] == [follow_up.name, more.name]
    assert [one.name for one, _ in later(follow_up)] == [more.name]
    assert later(more) == []


def test_a_page_leaves_the_verdicts_of_later_registries_as_they_are(two):
    """A part that is asked again takes the place of the earlier one in the count, and not in the table."""
    finish(two, 0.06, 0.001, only="/r/")
    known = two.state().found
    first = replace(known["C1"][0], small=False)
    open_ = replace(first, word="undecided")
    anew = replace(two.registry, claims={"C1": two.registry.claims["C1"]})
    again = two.registry.claims["C1"].model_copy(update={"parts": [part(again=1)]})
    between = {"C1": [open_]}
    later_ = [(anew, between), (replace(two.registry, claims={"C1": again}), {"C1": [first]})]
    text, _ = page(two.registry, known, {}, sandbox="f" * 64, figure="f", later=later_)
    assert between == {"C1": [open_]}
    assert [
        line.rpartition("| ")[2] for line in text.splitlines() if line.startswith("| [C1](claims.md")
    ] == [
        "undecided |",
        "reproduced |",
    ]


def test_another_sandbox_does_not_lift_the_refusal_of_a_changed_registry(two):
    finish(two, 0.06, 0.001)
    two.state()
    (file,) = two.registry.folder.glob("evidence-*.json")
    file.rename(file.with_name("evidence-of-another.json"))
    assert Looks(two.registry, two.runs).records.of("5-seeds") == {}
    content = json.loads(json.dumps(two.registry.content))
    content["registry"]["title"] = "Another"
    changed = Looks(replace(two.registry, content=content), two.runs)
    with pytest.raises(RecipeError, match="changed after its seeds began: title"):
        assert changed.records


def test_pages_and_runs_of_a_registry_bear_the_name_of_its_folder():
    assert load(CLAIMS).name == "claims"
    assert load(CLAIMS / "follow-up").name == "claims-follow-up"


# --- looks --------------------------------------------------------------------------------------------------


def finish(looks: Looks, difference: float, se: float, only: str = "") -> None:
    """Write the records of the current look as if it had run."""
    for wanted in looks.state().next:
        if only and only not in str(wanted.folder):
            continue
        seeds = len(wanted.loaded.recipe.seeds)
        record = run(difference, se, seeds=seeds)
        cells = [CellResult(label=one.label, seed=one.seed, status="done") for one in wanted.cells]
        wanted.folder.mkdir(parents=True, exist_ok=True)
        results.write(record.model_copy(update={"cells": tuple(cells)}), wanted.folder)


@pytest.fixture
def two(tmp_path) -> Looks:
    """Two claims with one recipe, and a third with another."""
    recipe = {
        "model": {"id": "sandbox"},
        "data": {"train": "sandbox"},
        "methods": {"old": {"method": "sft"}, "new": {"method": "sft"}},
        "evaluation": {"judges": ["gold"], "metrics": ["reward"], "sampling": {"temperature": 1.0}},
    }
    for name in ("r.yaml", "s.yaml"):
        (tmp_path / name).write_text(json.dumps(recipe))
    text = {
        "procedure": PROCEDURE.model_dump(),
        "claims": {
            "C1": claim(part()).model_dump(),
            "C2": claim(part(sign="=", d=0.3)).model_dump(),
            "C3": claim(part(), recipe="s.yaml").model_dump(),
        },
    }
    (tmp_path / "registry.yaml").write_text(json.dumps(text))
    return Looks(load(tmp_path), tmp_path / "runs")


def test_claims_of_one_recipe_share_a_run_and_the_next_look_waits_for_all(two):
    state = two.state()
    assert [(one.folder.parent.parent.name, one.claims) for one in state.next] == [
        ("r", ("C1", "C2")),
        ("s", ("C3",)),
    ]
    assert state.look == 5
    finish(two, 0.06, 0.05, only="/r/")
    state = two.state()
    assert [one.folder.parent.parent.name for one in state.next] == ["s"]
    assert state.found["C2"][0].look == 5
    assert state.found["C3"][0].word == "not run yet"


def test_a_decided_claim_stops_and_the_others_go_on_with_more_seeds(two):
    finish(two, 0.06, 0.03)
    state = two.state()
    assert state.look == 8
    assert {name: ones[0].word for name, ones in state.found.items()} == {
        "C1": "undecided",
        "C2": "reproduced",
        "C3": "undecided",
    }
    assert [one.claims for one in state.next] == [("C1",), ("C3",)]
    assert state.next[0].loaded.recipe.seeds == list(range(100, 108))
    assert state.next[0].earlier is not None
    finish(two, 0.06, 0.001)
    state = two.state()
    assert (state.look, state.next) == (None, ())
    assert {name: (ones[0].word, ones[0].look) for name, ones in state.found.items()} == {
        "C1": ("reproduced", 8),
        "C2": ("reproduced", 5),
        "C3": ("reproduced", 8),
    }


def test_whoever_has_the_evidence_goes_on_without_the_runs_and_may_not_change_the_registry(two, tmp_path):
    finish(two, 0.06, 0.05)
    here = two.state()
    assert here.look == 8
    elsewhere = Looks(load(tmp_path), tmp_path / "elsewhere")
    there = elsewhere.state()
    assert there.found == here.found
    assert there.threshold == here.threshold
    assert elsewhere.records.made == two.records.made
    assert set(two.records.made["5-seeds"]) == {"r/plain", "s/plain"}
    assert (there.look, [one.cells for one in there.next]) == (8, [one.cells for one in here.next])
    assert all(len(one.missing) == len(one.cells) for one in there.next), "the cells themselves are not there"
    finish(elsewhere, 0.06, 0.001)
    there = elsewhere.state()
    assert there.look is None
    assert Looks(load(tmp_path), tmp_path / "third").state().found == there.found
    registry = tmp_path / "registry.yaml"
    registry.write_text(registry.read_text().replace('"+"', '"-"'))
    with pytest.raises(RecipeError, match="changed after its seeds began: C1, C3"):
        Looks(load(tmp_path), tmp_path / "fourth").state()


def test_decided_parts_are_run_again_on_seeds_of_no_look(two):
    finish(two, 0.2, 0.001)
    known = two.state().found
    again, wanted = two.replication(known)
    assert {tuple(one.loaded.recipe.seeds) for one in wanted} == {(200, 201, 202, 203, 204)}
    assert again == {}
    for one in wanted:
        cells = [CellResult(label=cell.label, seed=cell.seed, status="done") for cell in one.cells]
        one.folder.mkdir(parents=True)
        results.write(run(-0.2, 0.001).model_copy(update={"cells": tuple(cells)}), one.folder)
    again, left = two.replication(known)
    assert left == ()
    assert {name: one.word for (name, _), one in again.items()} == {
        "C1": "contradicted",
        "C2": "reproduced",
        "C3": "contradicted",
    }
    text, _ = page(two.registry, known, again, sandbox="f" * 64, figure="claims.svg")
    assert "3 of 3 decided parts have run again: 1 of these keep their verdict" in text
    assert "at 0.05 for each part, and 0 of 2 that were found above or below 0 keep their sign." in text
    assert "Decided otherwise: C1.1, C3.1." in text
    text, _ = page(two.registry, known, dict(reversed(again.items())), sandbox="f" * 64, figure="claims.svg")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| C")]
    assert rows[-3:] == ["C1.1", "C2.1", "C3.1"], "in the order of the registry, whatever ran first"


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_tells_of_failures_as_of_successes_and_of_what_did_not_run(two):
    known = {
        name: [found(PROCEDURE, part(), 5, verdict, evidence(part(), {"": Run(run(effect, se))}))]
        for name, verdict, effect, se in (("C1", "contradicted", -0.2, 0.01), ("C2", "undecided", 0.06, 0.05))
    }
    (two.registry.folder / "notes.yaml").write_text("C1: learnt later")
    text, figure = page(two.registry, known, {}, sandbox="f" * 64, figure="claims.svg")
    assert "not registered: learnt later" in text
    assert f"Registry `{two.registry.digest}`" in text
    assert "| [C1](#c1) | It helps. | contradicted |" in text
    assert "| [C3](#c3) | It helps. | not run yet |" in text
    assert "| above 0 | below 0 | 0.1 | -0.2 | -0.22 to -0.18 | " in text
    assert "| 5 x 200 | contradicted |" in text
    assert "undecided: needs" in text
    assert "Parts: 1 contradicted, 1 undecided, 1 not run yet." in text
    assert figure.count("<circle") == 2, "what did not run has no effect to draw"


def test_no_verdict_of_the_forest_plot_is_cut_at_its_edge():
    tree = ET.fromstring((CLAIMS.parents[1] / "docs" / "claims.svg").read_text(encoding="utf-8"))
    ends = [
        float(one.get("x", 0)) + 6.5 * len(one.text or "")
        for one in tree.iter("{http://www.w3.org/2000/svg}text")
        if one.get("text-anchor") is None
    ]
    assert max(ends) <= float(tree.get("width", 0))


def test_the_forest_plot_draws_an_effect_in_units_of_d_towards_the_claim():
    less = found(
        PROCEDURE, part(sign="-", d=0.1), 5, "reproduced", evidence(part(sign="-"), {"": Run(run(-0.2))})
    )
    more = found(PROCEDURE, part(d=0.2), 5, "reproduced", evidence(part(), {"": Run(run(0.4))}))
    tree = ET.fromstring(forest({"C1": [less], "C2": [more]}))
    places = [one.get("cx") for one in tree.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(places) == 2
    assert places[0] == places[1], "both are two d in the claim's direction"


def test_a_run_whose_code_changed_says_so_once_for_all_plugins(two):
    old, *new = (f"alignbench 0.1.0, source {code}" for code in ("aaa", "bbb", "ccc"))
    changed = [
        f'plugins.{one} was "{old}", is "{now}"' for now in new for one in ("judges gold", "metrics kl")
    ]
    finish(two, 0.2, 0.001)
    state = two.state()
    for made in two.records.made["5-seeds"].values():
        made |= {"versions": {"torch": "2"}, "mixed": [*changed, "versions.torch was 1, is 2"]}
    text, _ = page(
        two.registry, state.found, {}, state=state, records=two.records, sandbox="f" * 64, figure="claims.svg"
    )
    assert "| source of alignbench 0.1.0: aaa, then bbb, then ccc; versions.torch was 1, is 2 |" in text


def test_evidence_of_a_run_that_is_not_there_says_so():
    assert evidence(part(), {}) == Evidence(missing="not run yet")
    assert (
        evidence(part(metric="perplexity"), {"": Run(run(0.1))}).missing
        == "there is no such number in this run"
    )


@pytest.mark.parametrize("folder", REGISTRIES, ids=lambda one: one.name)
def test_simulated_false_verdicts_of_the_whole_procedure_stay_below_its_error(folder: Path):
    registry = load(folder)
    proofs = json.loads(
        (CLAIMS.parents[1] / "benchmarks" / "proofs" / "claims.json").read_text(encoding="utf-8")
    )
    proof = proofs["registries"][registry.name]
    assert proof["digest"] == registry.digest
    assert proof["error"] == registry.procedure.error
    assert proof["parts"] == sum(len(one.parts) for one in registry.askable.values())
    scenes = {**proof["scenes"], **{f"one part: {name}": one for name, one in proof["one part"].items()}}
    assert {name: one["false share"] for name, one in scenes.items() if one["false share"] > 0.05} == {}
