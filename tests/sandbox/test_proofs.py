"""What the recorded measurements of the sandbox say: of this fingerprint, within the bounds, tuned alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve
from alignbench.sandbox import FINGERPRINT

ROOT = Path(__file__).parents[2]
PROOFS = ROOT / "benchmarks" / "proofs"


def proof(name: str) -> dict:
    return json.loads((PROOFS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ruler(script):
    return script("proofs/sandbox_ruler.py")


SIMULATED = {"claims", "power", "raters"}
"""Of random numbers alone."""
REAL = {"by_hand", "smollm2"}
"""Of a model and rows from elsewhere."""


@pytest.mark.parametrize("name", sorted({path.stem for path in PROOFS.glob("*.json")} - SIMULATED - REAL))
def test_a_proof_is_of_this_sandbox(name: str):
    assert proof(name)["sandbox"] == FINGERPRINT


def test_pages_quote_the_recorded_numbers():
    """Of tables and sentences that are written by hand."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    aa = proof("aa")
    groups = [
        *aa["family-wise false positives"].values(),
        *aa["family-wise false positives, highest mean"].values(),
    ]
    rates = [[one["any verdict"] for one in group.values()] for group in groups]
    said = [f"{min(of):.3f} to {max(of):.3f}".replace("0.", ".") for of in rates]
    assert [one for one in said if one not in page] == []
    rlhf = (ROOT / "docs" / "methods" / "rlhf.md").read_text(encoding="utf-8")
    against_trl = json.loads((ROOT / "benchmarks" / "ppo_vs_trl.json").read_text(encoding="utf-8"))
    counts = against_trl["counts"]
    quoted = [f"{one:.2f}" for one in against_trl["each"]]
    quoted += [
        f"{counts[f'alignbench.{one}'] / counts[f'trl.{one}']:.2f}"
        for one in ("positions", "peak_memory_bytes")
    ]
    assert [one for one in quoted if one not in rlhf] == []
    rain = (ROOT / "docs" / "methods" / "rain.md").read_text(encoding="utf-8")
    ratios = re.findall(
        r"^answer tokens/CPU s.* ([\d.]+)$", (PROOFS / "rain.txt").read_text(encoding="utf-8"), re.M
    )
    assert [one for one in ratios[:2] if one not in rain] == []


def tables(text: str) -> dict[str, list[str]]:
    """Every row of a page's tables: its first cell, and the others."""
    rows = (line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| "))
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in rows}


MEASURED = {
    "judging a pair, both orders averaged": "pair",
    "judging a pair, one order": "pair, one order",
    "judging a pair: the orders disagree": "pair, orders disagree",
    "judging a pair: A is chosen": "pair, A is chosen",
    "judging a pair: the longer is chosen": "pair, the longer is chosen",
    "judging a pair: the longer is better, by gold": "pair, the longer is better",
    "judging one answer, good or bad": "good",
    "judging one answer, harmless or harmful": "harmless",
    "a score from 1 to 10, correlation with gold": "score, correlation",
}
"""Rows of the second table of docs/sandbox.md, and their names in the record."""


def test_the_sandboxs_page_quotes_what_was_measured():
    found = proof("sandbox_measure")["models"]
    page = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")
    page = page[page.index("**A model.**") : page.index("## Rebuilding")]
    shown = tables(page)
    for family, numbers in found["base"]["gold"].items():
        parts = [numbers.get(part) for part in ("reward", "helpful", "honest", "harmless")]
        parts.append(found["sft"]["gold"][family]["reward"])
        expected = [str(numbers["n"]), *("" if one is None else f"{one:.2f}" for one in parts)]
        assert shown[family] == expected, family
    models = [found[name] for name in ("base", "middle", "early", "sft")]
    for row, name in MEASURED.items():
        assert shown[row] == [f"{one['judging'][name]:.3f}" for one in models], row
    for task in found["base"]["capability"]:
        assert shown[f"capability: {task}"] == [f"{one['capability'][task]:.3f}" for one in models], task
    assert shown["held-out loss, nats per token"] == [f"{one['loss']:.3f}" for one in models]
    people = found["base"]["annotators"]
    assert [one for one in people.values() if f"{one:.3f}" not in page] == []
    fairness = (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8")
    quoted = [found["base"]["judging"][MEASURED[row]] for row in list(MEASURED)[:6] if "one order" not in row]
    quoted += [found[name]["judging"]["pair"] for name in ("middle", "early")]
    quoted += [people["with gold"], people["with another annotator"]]
    assert [one for one in quoted if f"{one:.3f}".lstrip("0") not in fairness] == []


def test_the_page_of_rlaif_quotes_the_labels_that_were_compared():
    text = (ROOT / "docs" / "methods" / "rlaif.md").read_text(encoding="utf-8")
    page = tables(text[text.index("### On the sandbox") : text.index("## `d-rlaif`")])
    for name in ("rlaif_labels", "rlaif_weaker"):
        found = proof(name)
        for label, numbers in found["labels"].items():
            if label in ("base", "sft"):
                continue
            _, comparisons, agrees, reward, *against = page[label]
            if of_people := not numbers["ai_comparisons"]:
                agreement = found["agreement with gold"]["annotators' training labels"]
            else:
                agreement = found["agreement with gold"][f"labels of {label}"]
            count = numbers["comparisons"] + numbers["ai_comparisons"]
            assert (comparisons, agrees) == (f"{count:,.0f}", f"{agreement['agrees']:.3f}"), label
            if name == "rlaif_labels" or not of_people:  # people's rlhf was run twice
                assert reward == f"{numbers['reward']:.3f}", label
            other = "dpo" if label.startswith("dpo") else "rlhf"
            one = found["differences"].get(f"{label} - {other}, reward, method")
            if one is not None:
                low, high = one["ci95"]
                assert against == [f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"], label


def test_the_page_of_grpo_quotes_the_comparison_at_equal_flops():
    text = (ROOT / "docs" / "methods" / "grpo.md").read_text(encoding="utf-8")
    page, found = (
        tables(text[text.index("## At equal FLOPs") : text.index("## With defaults")]),
        proof("equal_flops"),
    )
    trials = proof("equal_flops_tuning")["trials"]
    kinds = ("minus sft, method", "minus rlhf, method, T 0", "minus rlhf, method, T 1")
    for label in ("dpo", "kto", "rlhf", "grpo", "rloo", "online-dpo"):
        numbers, (rate, flops, reward, *differences) = found[label], page[label]
        assert float(rate) == numbers["learning_rate"], label
        best = max(trials[label], key=lambda one: one["reward"])
        assert best["learning_rate"] == numbers["learning_rate"], label
        assert flops == f"{fmean(numbers['flops']) / 1e12:.2f}e12", label
        assert reward == f"{numbers['reward']:.3f}", label
        differences += [""] * (len(kinds) - len(differences))
        for said, one in zip(differences, map(numbers.get, kinds), strict=True):
            low, high = (0, 0) if one is None else one["ci95"]
            assert said == ("" if one is None else f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"), (
                label
            )
        assert numbers["minus sft, method"]["ci95"][0] > 0, f"{label} is above its start"


def test_the_page_of_grpo_quotes_the_comparison_with_defaults():
    text = (ROOT / "docs" / "methods" / "grpo.md").read_text(encoding="utf-8")
    page = tables(text[text.index("## With defaults") : text.index("## Known pitfalls")])
    found = proof("defaults")
    for label in ("kto", "grpo", "rloo", "online-dpo"):
        one = found[label]["minus sft, method"]
        low, high = one["ci95"]
        rate, *said = page[label]
        assert float(rate) == found[label]["learning_rate"], label
        assert said == [
            f"{found[label]['reward']:.3f}",
            f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]",
            f"{one['p_holm']:.2g}",
        ], label
        assert low > 0, f"{label} is above its start"
    for label, tried in found["trials"].items():
        best = max(tried, key=lambda one: one["reward"])
        assert best["learning_rate"] == found[label]["learning_rate"], label


@pytest.mark.parametrize("page", ["metrics", "fairness"])
def test_pages_quote_what_is_found_beside_an_unstable_label(page):
    power, text = proof("power"), (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    text = " ".join(text.split())
    for name in (
        "power beside a label of ten times the seeds' deviation",
        "the same with that label in the pool",
    ):
        found = " / ".join(f"{value:.2f}".removeprefix("0") for value in power[name].values())
        assert found in text, name
    assert power["power beside a label of ten times the seeds' deviation"]["5"] > 0.85


def test_the_page_quotes_how_far_out_a_pooled_p_is_of_an_unstable_label():
    far = proof("power")["p of pairs with a label of three times the seeds' deviation, far out"]["5"]
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for level in ("0.05", "0.0065"):
        assert f"{far['pooled'][level]:.3f}".removeprefix("0") in page, level
        assert far["cautious"][level] <= far["pooled"][level]
    assert far["cautious"]["0.0065"] < 0.75 * far["pooled"]["0.0065"]


def test_pages_quote_the_ruler_the_budgets_and_the_power():
    fairness, metrics, sandbox = (
        (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for page in ("fairness", "metrics", "sandbox")
    )
    ruler, power, spent = proof("sandbox_ruler"), proof("power"), proof("budgets")
    shown, gold = (
        tables(sandbox[sandbox.index("**The ruler.**") : sandbox.index("**A model.**")]),
        ruler["gold"],
    )
    for label in gold["0.0"]:
        assert shown[label] == [f"{values[label]:.3f}" for values in gold.values()], label
    counted = ruler["pairs told apart"].values()
    assert shown["pairs told apart, of 15"] == [str(count) for count in counted]
    best = max(value for label, value in gold["0.0"].items() if label != "base")
    quoted = [f"{value:.3f}" for value in (gold["0.0"]["base"], gold["0.0"]["sft"], best)]
    quoted.append(", ".join(f"{count} at {float(at):g}" for at, count in ruler["pairs told apart"].items()))
    quoted += [f"{cost['tokens']:,.0f}" for cost in spent["tokens"].values()]
    quoted.append(" / ".join(f"{value:.2f}".removeprefix("0") for value in power["power"].values()))
    alone = power["power, each pair by itself"].values()
    quoted.append(" / ".join(f"{value:.2f}".removeprefix("0") for value in alone))
    false = [rate for of in power["family-wise error"].values() for rate in of.values()]
    quoted += [f"{one:.3f}".removeprefix("0") for one in (max(false), min(power["coverage"].values()))]
    over_seeds = power["coverage of shares over seeds"]
    for kind in ("share", "difference"):
        least = min(rate for name, rate in over_seeds.items() if name.startswith(kind))
        quoted.append(f"at least {least:.3f}".replace(" 0.", " ."))
    assert [one for one in quoted if one not in fairness] == []
    deviations, odd = ruler["deviations"]["all"], power["coverage of intervals"]
    held = min(of["pairs of the odd label"] for scene in odd.values() for of in scene.values())
    lengths = power["the length-controlled rate"]
    few = [one for name, one in lengths.items() if name.endswith("n = 20")]
    worst = min(lengths.values(), key=lambda one: one["coverage"])
    quoted = [
        f"{deviations['seeds']:.3f} and {deviations['answers']:.2f} over five seeds",
        f"cover {held:.2f}",
    ]
    quoted += [f"hold {min(one['coverage'] for one in few):.2f} to {max(one['coverage'] for one in few):.2f}"]
    quoted += [f"in 0 to {max(one['n/a'] for one in few):.0%}".replace("%", " %")]
    quoted += [f"it is {worst['mean']:.2f}", f"hold {worst['coverage']:.2f}"]
    assert [one for one in quoted if one.replace(" 0.", " .") not in metrics and one not in metrics] == []


def test_a_budget_of_each_unit_is_kept_by_every_method_and_the_page_says_how_well(script):
    budgets, found = script("proofs/budgets.py"), proof("budgets")
    assert found["budgets"] == budgets.BUDGETS
    methods = set(load(PROOFS / "budgets.yaml").recipe.methods)
    assert all(set(found[unit]) == {"base", *methods} for unit in budgets.BUDGETS)
    assert budgets.off({unit: found[unit] for unit in budgets.BUDGETS}) == []
    amount = found["budgets"]["seconds"]
    shares = [
        one["seconds"] / amount - 1
        for label, one in found["seconds"].items()
        if label not in budgets.TRAIN_NOTHING
    ]
    page = (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8")
    assert f"from {min(shares):+.1%} to {max(shares):+.1%} of it" in page


def test_more_than_a_budget_or_far_less_would_be_seen(script):
    budgets = script("proofs/budgets.py")
    spent = {"tokens": {"sft": {"tokens": 58_000.0}, "rain": {"tokens": 0.0}}}
    amount = budgets.BUDGETS["seconds"]
    spent["seconds"] = {
        "sft": {"seconds": 1.03 * amount, "steps": 9},
        "dpo": {"seconds": 0.85 * amount, "steps": 5},
        "orpo": {"seconds": 0.85 * amount, "steps": 50},
    }
    missed = [one.partition(":")[0] for one in budgets.off(spent)]
    assert missed == ["sft", "sft", "orpo"]


def test_the_page_of_claims_is_of_this_sandbox():
    assert f"Sandbox {FINGERPRINT[:16]}." in (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")


def test_the_ruler_is_long_enough_by_five_seeds_at_each_temperature(ruler):
    found = proof("sandbox_ruler")
    assert found["seeds"] == [0, 1, 2, 3, 4]
    assert list(found["gold"]) == ["0.0", "0.7", "1.0"]
    counted = {
        at: sum(pair["p_holm"] <= 0.05 for pair in pairs.values()) for at, pairs in found["pairs"].items()
    }
    assert all(len(pairs) == 15 for pairs in found["pairs"].values())
    assert counted == found["pairs told apart"]
    assert ruler.missed(found["gold"], counted) == found["missed"] == []


def test_a_short_ruler_would_be_seen(ruler):
    short = {"0.0": {"base": 0.75, "sft": 0.97, "rlaif": 0.974}}
    assert len(ruler.missed(short, {"0.0": 5})) == 4
    assert ruler.missed({"0.0": {"base": 0.5, "sft": 0.7, "rlaif": 0.9}}, {"0.0": 6}) == []


def named(config: object, known: object) -> object:
    """A config without the fields that `known` does not have: they came after the record."""
    if isinstance(config, dict) and isinstance(known, dict):
        return {name: named(value, known[name]) for name, value in config.items() if name in known}
    return config


def test_every_method_was_tuned_with_as_many_trials_and_the_quickstart_has_what_was_chosen():
    found = proof("tuning")
    assert {method: len(trials) for method, trials in found["trials"].items()} == dict.fromkeys(
        ("sft", "dpo", "orpo", "rlhf", "rlaif", "rain"), 3
    )
    assert not set(found["seeds"]) & set(proof("sandbox_ruler")["seeds"])
    shipped = resolve(load(ROOT / "recipes" / "quickstart.yaml").recipe).labels
    for method, label in found["chosen"].items():
        trials = found["trials"][method]
        assert label == max(trials, key=lambda one: max(trials[one]["gold"].values()))
        tried = settings(trials[label]["config"])
        assert named(settings(shipped[method].config), tried) == tried, method


def test_the_control_of_the_search_is_alone_without_trials_and_asks_what_the_search_asks():
    """It shall differ from the search in how answers are found, and in nothing else."""
    shipped = resolve(load(ROOT / "recipes" / "quickstart.yaml").recipe).labels
    (control,) = shipped.keys() - proof("tuning")["chosen"].keys()
    ours, searched = shipped[control].config, shipped["rain"].config
    assert ours["like"] == "rain"
    own = {name for name in ours if name not in searched}
    assert own == {"n", "like"}
    assert {name: ours[name] for name in ours.keys() - own} == {
        name: searched[name] for name in ours.keys() - own
    }


def test_one_more_setting_of_each_method_was_tried_and_the_page_says_which_would_have_won():
    found = proof("tuning")
    page = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")
    better = []
    for method, label in found["chosen"].items():
        (further,) = found["beyond"][method].values()
        ours, theirs = (max(one["gold"].values()) for one in (further, found["trials"][method][label]))
        if ours > theirs:
            better.append(f"`{method}` ({ours:.3f} against {theirs:.3f})")
    assert f"reaches more for {' and '.join(better)}, and less for the others" in " ".join(page.split())


UNUSED = {"max_forwards": 1_000, "max_tokens": 20_000}
"""Bounds of a search, none of which the sandbox's searches reach: see `docs/methods/rain.md`."""


def settings(config: dict) -> dict:
    """A method's fields without those that decide nothing here; of its judge, see
    `test_model.py::test_the_base_gives_nearly_all_probability_to_the_two_options`."""
    config = {name: value for name, value in config.items() if value not in (UNUSED.get(name, ...), None)}
    judge = config.get("judge")
    if not isinstance(judge, dict):
        return config
    kept = {name: value for name, value in judge["config"].items() if name not in ("min_mass", "lead")}
    return {**config, "judge": {**judge, "config": kept}}


def test_readme_shows_the_recorded_quickstart() -> None:
    found = proof("quickstart")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = readme[readme.index("<!-- quickstart -->") : readme.index("<!-- /quickstart -->")]
    assert part.splitlines()[1:] == found["table"]
    explained = readme.partition("<!-- /quickstart -->")[2].partition("\n## ")[0]
    quoted = re.findall(r"\*(could have seen [\d.]+|At [\d.]+ times its cost)\*", " ".join(explained.split()))
    assert len(quoted) == 2
    assert [one for one in quoted if one[0].lower() + one[1:] not in part] == []
    shown = tables(part.partition("\n\n")[0])
    assert {
        label: float(cells[2].split()[0]) for label, cells in shown.items() if label in found["reward"]
    } == {label: round(value, 3) for label, (value, *_) in found["reward"].items()}
    assert found["seeds"] == [0]
    fairness = (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8")
    quoted = {label: f"({found['reward'][label][0]:.3f})" for label in ("sft", "rain", "best-of-n")}
    assert [label for label, one in quoted.items() if one not in fairness] == []


def test_the_results_quote_what_groups_and_unpaired_rows_cost_beside_trl(script):
    """And that the ratios are at least those that the benchmark asks for."""
    asked = script("groups_vs_trl.py").ASKED
    record = json.loads((PROOFS / "groups_vs_trl.txt").read_text(encoding="utf-8").splitlines()[-1])
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    shown = tables(page[page.index("## GRPO, RLOO and KTO") : page.index("## PPO against TRL")])
    for method, ratio in record["ratios"].items():
        ours, theirs = record["counts"][method], record["counts"][f"trl-{method}"]
        row = shown[method.upper()]
        assert row[0].startswith(f"{ratio:.2f} ("), method
        assert row[1] == (f"{asked[method]:g}" if method in asked else ""), method
        assert ratio >= asked.get(method, 1), method
        for place, what in ((2, "train_tokens"), (3, "scored_tokens"), (4, "generated_tokens")):
            counts = f"{ours[what]:,.0f} : {theirs[what]:,.0f}"
            assert row[place] == ("" if counts == "0 : 0" else counts), method
        assert row[5] == f"{ours['flops']:.2e} : {theirs['flops']:.2e}".replace("e+", "e").replace("e0", "e")
